"""Counters of risk rules over two real workers and kill -9, against the books: what docs/risk.md promises of each kind, where sales and refunds were
made at one worker, asked of the other, cut off in the middle, and asked of workers that began after it."""

import asyncio
import json
import os
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.leak_scan import luhn
from tests.processes import BROKEN, Answer, ask, sale
from tests.test_workers import Workers, another, ended, eventually, lines_up, shop

TOLD_S = 2.5  # a second; for a refund two
AT_ONCE_S = 1.5  # a second, and a sale
SHANGHAI, BEIJING = (31_230_416, 121_473_701), (39_904_200, 116_407_396)
CARDS = [{"entry_mode": "chip", "pan": luhn(f"621234{number:09d}0"), "expiry": "3012"} for number in range(1, 13)]
RULES: dict[str, dict[str, Any]] = {
    "velocity": {"subject": "terminal", "count_max": 0}, "card_testing": {"subject": "terminal", "count_max": 0}, "card_spread": {"count_max": 0},
    "refund_ratio": {"subject": "merchant", "count_max": 0, "basis_points": 1, "currency": "CNY"},
}
# What the books say of the terminal, card and merchant of a sale.
BOOKS = """WITH s AS (SELECT * FROM transaction WHERE original_id IS NULL AND type <> 'refund'), r AS (SELECT * FROM transaction WHERE type = 'refund')
SELECT (SELECT count(*) FROM s WHERE s.terminal_id = p.terminal_id), (SELECT count(DISTINCT pan_token) FROM s WHERE s.terminal_id = p.terminal_id AND state = 'DECLINED'),
  (SELECT count(DISTINCT terminal_id) FROM s WHERE s.pan_token = p.pan_token), (SELECT count(*) FROM r), (SELECT sum(amount)::bigint FROM r),
  (SELECT sum(amount)::bigint FROM s) FROM transaction p WHERE transaction_id = $1"""


class Till:
    """Of two, at one merchant; asks whichever worker takes the connection."""

    def __init__(self, server: Workers, key: str) -> None:
        self.server, self.key = server, key

    async def pay(self, amount: int, card: dict[str, str]) -> Answer:
        """Asked again while a worker that stood still learns what is new."""
        key = f"risk-{secrets.token_hex(8)}"
        while (answer := await self.post("/v1/authorizations", sale(amount, card=card), key)).status == 503:
            assert answer.body["processed"] is False
            await asyncio.sleep(0.05)
        return answer

    async def post(self, path: str, body: Any, key: str) -> Answer:
        return await ask(self.server.base, "POST", path, self.key, body, Idempotency_Key=key)


@asynccontextmanager
async def only(server: Workers, chosen: int) -> AsyncIterator[int]:
    """All that is asked goes to one worker, while the others stand still for less than their leases last; its epoch."""
    workers = await server.ready()
    others = [each["pid"] for each in workers if each["worker"] != chosen]
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield next(each["epoch"] for each in workers if each["worker"] == chosen)
    finally:
        for pid in others:
            os.kill(pid, signal.SIGCONT)


async def counted(till: Till, card: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """A sale that hits every rule: which worker took it, and what its counters knew."""
    sold = await till.pay(10_000, card)
    assert (sold.status, sold.body["status"]) == (201, "approved"), sold.raw
    ident = UUID(sold.body["id"][4:])
    hits = {kind: json.loads(figures) for kind, figures in await till.server.sql("SELECT kind, figures FROM risk_hit WHERE transaction_id = $1", ident)}
    ((epoch, *_),) = await till.server.sql("SELECT worker_epoch FROM transaction WHERE transaction_id = $1", ident)
    (books,) = await till.server.sql(BOOKS, ident)
    names = (("velocity", "count"), ("card_testing", "cards"), ("card_spread", "terminals"), ("refund_ratio", "refunds"), ("refund_ratio", "refunded"), ("refund_ratio", "sold"))
    assert books == tuple(hits[kind][figure] for kind, figure in names), hits
    return epoch, hits


async def each_worker_agrees_with_the_books(tills: list[Till]) -> list[dict[str, Any]]:
    """Asked one after the other: what the first of them sells, the second has to know."""
    server, found = tills[0].server, []
    for number, till in enumerate(tills):
        await asyncio.sleep(TOLD_S)
        async with only(server, number) as epoch:
            by, hits = await counted(till, CARDS[0])
        assert by == epoch, "the sale came to another worker: this test showed nothing"
        found.append(hits)
    return found


async def rules_in_force(server: Workers) -> None:
    for kind, said in RULES.items():
        body = {"name": kind, "kind": kind, "action": "flag", "window_s": 3600, "state": "active", **said}
        answer = await ask(server.base, "POST", "/v1/risk-rules", server.operator, body)
        assert answer.status == 201, answer.raw
    await asyncio.sleep(TOLD_S)


async def sold_and_refunded(tills: list[Till]) -> None:
    """At the first worker by the first till, at the second by the second: cards that are declined, some at both, and refunds."""
    for number, till in enumerate(tills):
        async with only(till.server, number):
            for card in CARDS[1 + 2 * number:5 + 2 * number]:
                declined = await till.pay(2005, card)
                assert declined.body["status"] == "declined", declined.raw
            sold = await till.pay(20_000, CARDS[0])
            for amount in (3000, 1000 + number):
                refunded = await till.post("/v1/refunds", {"authorization": sold.body["id"], "amount": amount}, f"back-{secrets.token_hex(8)}")
                assert refunded.status == 201, refunded.raw


async def cut_off(tills: list[Till], control: str) -> None:
    """One of the workers is killed while both have sales on their way."""
    server = tills[0].server
    victim = (await server.ready())[0]
    await ask(control, "POST", "/host", "", {"delay": 0.3})

    async def tried(number: int) -> None:
        with suppress(*BROKEN):
            await tills[number % 2].post("/v1/authorizations", sale(3000 + 100 * number + 5 * (number % 3 == 0), card=CARDS[number % 12]), f"cut-{number:013d}")

    load = [asyncio.create_task(tried(number)) for number in range(40)]
    await asyncio.sleep(0.25)
    os.kill(victim["pid"], signal.SIGKILL)
    await asyncio.gather(*load)
    await ask(control, "POST", "/host", "", {"delay": 0})
    await eventually(lambda: another(server, victim), "no other worker takes its place")
    await lines_up(server)

    async def nothing_open() -> bool:
        return await server.sql("SELECT 1 FROM transaction WHERE state IN ('SENT', 'REVERSING')") == []

    await eventually(nothing_open, "what was cut off is not reversed", 30)
    assert (await server.sql("SELECT count(*) > 0 FROM duty WHERE cause = 'crash'"))[0][0], "the kill met no sale on its way: this test showed nothing"


async def test_every_kind_of_counter_agrees_with_the_books_over_workers_kills_and_restarts(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url) as (server, control):
        keys = json.loads((server.home / "demo-keys.json").read_text())
        tills = [Till(server, keys[name]) for name in ("terminal_key", "second_terminal_key")]
        await rules_in_force(server)
        await sold_and_refunded(tills)
        first, second = await each_worker_agrees_with_the_books(tills)
        assert (first["card_testing"]["cards"], second["card_testing"]["cards"]) == (4, 4)
        assert (first["card_spread"]["terminals"], second["refund_ratio"]["refunds"], second["refund_ratio"]["refunded"]) == (2, 4, 8001)
        await cut_off(tills, control)
        after = await each_worker_agrees_with_the_books(tills)
        assert after[0]["velocity"]["count"] > first["velocity"]["count"] + 5, "the load left nothing to count"
        server.kill()  # and its workers with it
        with ended(await asyncio.to_thread(Workers, server.home, {"terminal_key": keys["terminal_key"], "operator_key": server.operator}, server.handover["database_url"])) as again:
            await lines_up(again)
            for till in tills:
                till.server = again
            last = await each_worker_agrees_with_the_books(tills)
            assert last[1]["velocity"]["count"] == after[1]["velocity"]["count"] + 1
            assert await asyncio.to_thread(again.stop) == 0
        assert "Traceback" not in server.err + again.err


class Standing(Till):
    """A till with a device that says where it is."""

    terminal = serial = ""

    async def asked(self, path: str, body: Any, method: str = "POST") -> Any:
        answer = await ask(self.server.base, method, path, self.server.operator, body)
        assert answer.status in (200, 201), answer.raw
        return answer.body

    async def open(self) -> "Standing":
        ((terminal, store),) = await self.server.sql("SELECT terminal_id, store_id FROM terminal ORDER BY terminal_id DESC LIMIT 1")
        self.terminal, self.serial = f"trm_{terminal}", f"PX7-{secrets.token_hex(4).upper()}"
        device = (await self.asked("/v1/devices", {"serial_number": self.serial, "model": "PX7", "reason": "bought"}))["id"]
        for event, more in (("order", {"store": f"sto_{store}"}), ("ship", {}), ("install", {"terminal": self.terminal})):
            await self.asked(f"/v1/devices/{device}/moves", {"event": event, "reason": "as agreed", **more})
        code = (await self.asked(f"/v1/devices/{device}/activation-codes", {}))["code"]
        self.key = (await self.asked("/v1/activations", {"serial_number": self.serial, "code": code}))["key"]
        await self.asked(f"/v1/devices/{device}/moves", {"event": "go_live", "reason": "as agreed"})
        await self.asked(f"/v1/stores/sto_{store}", {"latitude_e6": SHANGHAI[0], "longitude_e6": SHANGHAI[1]}, "PATCH")
        return self

    async def says(self, at: tuple[int, int]) -> float:
        """When it was told."""
        body = {"serial_number": self.serial, "software_version": "4.2.0", "position": {"latitude_e6": at[0], "longitude_e6": at[1]}}
        answer = await self.post(f"/v1/terminals/{self.terminal}/heartbeats", body, "")
        assert answer.status == 200, answer.raw
        return asyncio.get_running_loop().time()

    async def decided(self, status: int, since: float) -> Answer:
        """The first sale that ends so, a second after `since` at the latest."""
        while (sold := await self.pay(1700, CARDS[0])).status != status:
            assert asyncio.get_running_loop().time() - since < AT_ONCE_S, f"{sold.status} and not {status} a second later"
            await asyncio.sleep(0.02)
        assert asyncio.get_running_loop().time() - since < AT_ONCE_S + 0.5
        return sold


async def test_a_heartbeat_at_one_worker_decides_at_the_other_within_a_second(tmp_path: Path, cluster_url: str) -> None:
    async with shop(tmp_path, cluster_url) as (server, _):
        till = await Standing(server, "").open()
        await till.asked("/v1/risk-rules", {"name": "Elsewhere", "kind": "relocated", "action": "decline", "distance_km": 50, "window_s": 3600, "state": "active"})
        await asyncio.sleep(TOLD_S)
        for told, judging in ((0, 1), (1, 0)):
            async with only(server, told):
                since = await till.says(BEIJING)
            async with only(server, judging):
                refused = await till.decided(403, since)
            assert (refused.body["code"], refused.body["processed"]) == ("risk_declined", False)
            async with only(server, told):
                since = await till.says(SHANGHAI)
            async with only(server, judging) as epoch:
                sold = await till.decided(201, since)
            ((by,),) = await server.sql("SELECT worker_epoch FROM transaction WHERE transaction_id = $1", UUID(sold.body["id"][4:]))
            assert by == epoch, "the sale came to another worker: this test showed nothing"
        assert await asyncio.to_thread(server.stop) == 0
        assert "Traceback" not in server.err
