"""What a certification runs on: a database, the dialect's stub, a switch, two terminals; every process a child."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from loadtests.chip import MASTER
from messages.dialect import Dialect, load
from switch import database
from switch.ids import show
from switch.merchants.onboarding import Onboarding
from tests.faults.stage import Server, Stub, free_port, new_database
from tests.processes import BROKEN, CARD, Answer, ask, stub_book

ANSWER_MS, GRACE_MS = 1000, 200
TRACK = "4111111111111111=28121010000012345678"
SWIPED = {"entry_mode": "magstripe", "pan": TRACK[:16], "expiry": "2812", "track2": TRACK}
HOST = "host"
PATIENCE_S = 5.0
T = TypeVar("T")


@dataclass(slots=True, repr=False)
class Bench:
    """One dialect under test. Amounts are minor units; what stands at the host is what its durable book says."""

    dialect: Dialect
    folder: Path
    url: str
    stub: Stub
    server: Server
    keys: dict[str, str]
    acquirer: str
    terminals: dict[str, str]
    begun: asyncio.Event = field(default_factory=asyncio.Event)  # by a scenario beside the rest: from here on it disturbs nobody

    @property
    def holds(self) -> bool:
        """Whether an authorization holds and is cleared by file, without captures."""
        return "capture" not in self.dialect.messages and "purchase.single" not in self.dialect.messages

    @property
    def control(self) -> str:
        return f"http://127.0.0.1:{self.stub.control_port}"

    async def ask(self, method: str, path: str, body: object = None, key: str = "till", **headers: str) -> Answer:
        return await ask(self.server.base, method, path, self.keys[key], body, **headers)

    async def once(self, amount: int | None, key: str | None = None, till: str = "till", **changed: Any) -> Answer:
        """One authorization; `changed` replaces members of the body, None takes one away."""
        body = {"type": "purchase", "amount": amount, "currency": "CNY", "card": CARD, **changed}
        if self.holds and body["type"] in ("purchase", "cash_advance"):
            body["capture_method"] = "manual"
        return await self.ask("POST", "/v1/authorizations", {name: value for name, value in body.items() if value is not None}, till,
                              Idempotency_Key=key or secrets.token_hex(16))

    async def pay(self, amount: int | None, till: str = "till", **changed: Any) -> Answer:
        """One authorization, asked for again, as the guide says, while nothing of it was sent."""
        until = asyncio.get_running_loop().time() + PATIENCE_S
        while True:
            answer = await self.once(amount, None, till, **changed)
            unsent = (answer.status, answer.body.get("processed")) == (503, False) or answer.body.get("status") == "not_sent"
            if not unsent or asyncio.get_running_loop().time() > until:
                return answer
            await asyncio.sleep(0.2)

    async def approved(self, amount: int | None, **changed: Any) -> dict[str, Any]:
        answer = await self.pay(amount, **changed)
        assert (answer.status, answer.body.get("status")) == (201, "approved"), answer.raw
        return dict(answer.body)

    async def follow(self, verb: str, original: str, body: object = None, till: str = "till") -> Answer:
        return await self.ask("POST", f"/v1/authorizations/{original}/{verb}", {} if body is None else body, till, Idempotency_Key=secrets.token_hex(16))

    async def refund(self, original: str, amount: int) -> Answer:
        return await self.ask("POST", "/v1/refunds", {"authorization": original, "amount": amount}, Idempotency_Key=secrets.token_hex(16))

    async def get(self, shown: str) -> dict[str, Any]:
        return dict((await self.ask("GET", f"/v1/transactions/{shown}", key="operator")).body)

    async def until(self, shown: str, status: str, seconds: float = 15.0) -> dict[str, Any]:
        async def reached() -> dict[str, Any] | None:
            with suppress(*BROKEN):  # a scenario beside this one may kill the switch
                row = await self.get(shown)
                return row if row.get("status") == status else None
            return None

        found = await eventually(reached, f"{shown} is not {status}", seconds)
        assert found is not None
        return found

    async def order(self, action: str, value: object = None, match: object = "any", count: int | None = 1) -> None:
        """A fault of the host (acquirer_stubs/faults.py), in the elements of 1987."""
        answer = await ask(self.control, "POST", "/faults", "", {"match": match, "action": action, "value": value, "count": count})
        assert answer.status == 201, answer.raw

    async def act(self, **orders: object) -> None:
        assert (await ask(self.control, "POST", "/host", "", orders)).status == 200

    async def received(self, **fields: str) -> list[dict[str, Any]]:
        """What the host received with these elements, oldest first: `_4="..."`; "0" is its MTI."""
        found = [{"0": line["mti"], **line["fields"]} for line in await stub_book(self.control) if line["kind"] == "received" and "fields" in line]
        return [each for each in found if all(each.get(name.strip("_")) == value for name, value in fields.items())]

    async def stands(self) -> int:
        """Minor units that stand at the host: posted, or held where nothing is posted."""
        return int(sum(line["held" if self.holds else "net"] for line in await stub_book(self.control) if line["kind"] == "decision"))

    async def line(self) -> str:
        return str((await self.ask("GET", "/v1/links", key="operator")).body["items"][0]["state"])

    async def up(self, wanted: str = "up", seconds: float = 20.0) -> None:
        """As soon as the line is up, and sells."""
        async def reached() -> bool:
            try:
                return await self.line() == wanted
            except (*BROKEN, KeyError, IndexError):
                return False

        await eventually(reached, f"the line is not {wanted}", seconds)

    async def unmatched(self) -> list[dict[str, Any]]:
        return list((await self.ask("GET", "/v1/unmatched-answers", key="operator")).body["items"])

    def killed(self) -> None:
        """kill -9 of the switch, and its next life."""
        self.server.kill()
        self.server.wait_ready()

    def end(self) -> None:
        for each in (self.server, self.stub):
            each.end()


async def eventually(reached: Callable[[], Awaitable[T]], complaint: str, seconds: float = 10.0) -> T:
    """What `reached` returns as soon as it is true. Raises AssertionError with the complaint."""
    end = asyncio.get_running_loop().time() + seconds
    while not (found := await reached()):
        assert asyncio.get_running_loop().time() < end, complaint
        await asyncio.sleep(0.05)
    return found


async def opened(cluster_url: str, folder: Path, name: str) -> Bench:
    """Processes that run, a terminal that can sell."""
    folder.mkdir()
    url = await asyncio.to_thread(new_database, cluster_url)
    dialect = load(name)
    stub = Stub(folder, HOST, free_port(), 0.0, name, "--imk", MASTER)
    try:
        keys, acquirer, terminals = await _furnish(url, dialect, stub.port)
        server = Server(folder, "certified", url)
    except BaseException:
        stub.end()
        raise
    bench = Bench(dialect, folder, url, stub, server, keys, acquirer, terminals)
    try:
        await asyncio.to_thread(server.wait_ready)
        await bench.up()
    except BaseException:
        bench.end()
        raise
    return bench


async def _furnish(url: str, dialect: Dialect, port: int) -> tuple[dict[str, str], str, dict[str, str]]:
    await database.migrate(url)
    pool = await database.pool(url, "switch_writer", 2)
    try:
        office = Onboarding(pool)
        await office.install_bins()
        organisation = await office.organisation("Certification")
        merchant = await office.merchant(organisation.organisation_id, "Certified merchant", "5812", "Asia/Shanghai")
        store = await office.store(merchant.merchant_id, "Certified store", city="Shanghai")
        mode = "single" if "purchase.single" in dialect.messages else "dual"
        made = await office.acquirer("certified", dialect.name, "127.0.0.1", port, message_mode=mode, institution_code="12345678",
                                     answer_timeout_ms=ANSWER_MS, reversal_grace_ms=GRACE_MS)
        await office.route(made.acquirer_id, merchant.merchant_id)
        keys, terminals = {}, {}
        for till in ("till", "neighbour", "aside"):
            terminal = await office.terminal(store.store_id, till)
            terminals[till] = show("terminal", terminal.terminal_id)
            keys[till] = (await office.key("terminal", terminal_id=terminal.terminal_id)).text
        keys["merchant"] = (await office.key("merchant", merchant_id=merchant.merchant_id)).text
        keys["operator"] = (await office.key("operator", person="Certifier")).text
        return keys, show("acquirer", made.acquirer_id), terminals
    finally:
        await pool.close()
