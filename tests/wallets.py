"""A shop whose tills `lost` sell through a QR wallet: the wallet stub over real HTTP, set up over the API, and what its book says."""

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from switch import database
from switch.ids import show
from switch.merchants.onboarding import Onboarding
from tests import flows
from tests.processes import Answer, Process, ask, environment, stub_book

SECRET, CLIENT = "a secret for tests only", "shop"
CODE = "134567890123456782"  # of WeChat Pay's form
PAY_WITHIN_S = 10


@contextmanager
def wallet(folder: Path, *options: str, port: int = 0) -> Iterator[tuple[int, str]]:
    """The wallet stub: its port and control address."""
    command = (sys.executable, "-m", "acquirer_stubs", "wallet", "--port", str(port), "--book", str(folder / "wallet.jsonl"), *options)
    process = Process(folder, "wallet", command, environment(folder))
    try:
        line = process.first_line()
        yield line["port"], line["control_url"]
        assert process.running, process.err
    finally:
        process.stop()


@dataclass(slots=True)
class Purse:
    """The shop, and the wallet as a test sees it."""

    shop: flows.Shop
    control: str
    acquirer: str
    port: int

    async def pay(self, amount: int, code: str | None = None, key: str | None = None, **changed: Any) -> Answer:
        """One sale by payment code; a code of its own unless it is given."""
        body = flows.body_of(amount, card=None, qr={"code": code or new_code()}, **changed)
        return await self.shop.post(body, key, "lost")

    async def order(self, action: str, value: object = None, verb: str | None = None, count: int | None = 1) -> None:
        body = {"match": "any" if verb is None else {"verb": verb}, "action": action, "value": value, "count": count}
        answer = await ask(self.control, "POST", "/faults", "", body)
        assert answer.status == 201, answer.body

    async def forget(self) -> None:
        await ask(self.control, "DELETE", "/faults", "")

    async def decide(self, shown_id: str, word: str, reason: str = "") -> None:
        answer = await ask(self.control, "POST", "/host", "", {"order": order_of(shown_id), "word": word, "reason": reason})
        assert answer.status == 200, answer.body

    async def asked(self, shown_id: str) -> list[str]:
        """The verbs that came about a sale, in their order."""
        return [line["verb"] for line in await stub_book(self.control) if line["kind"] == "received" and line["order"] == order_of(shown_id)]

    async def net(self, shown_id: str) -> int:
        """What stands at the wallet for a sale, in minor units."""
        return sum(line["net"] for line in await stub_book(self.control) if line["kind"] == "decision" and line["order"] == order_of(shown_id))

    async def sold(self, amount: int, **changed: Any) -> Any:
        answer = await self.pay(amount, **changed)
        assert (answer.status, answer.body["status"]) == (201, "approved"), answer.body
        return answer.body

    async def follow(self, path: str, body: object, key: str = "lost") -> Answer:
        return await self.shop.ask("POST", path, body, key, Idempotency_Key=flows.new_key())


_codes = iter(range(10**9))


def new_code() -> str:
    return f"13{next(_codes):016d}"


def order_of(shown_id: str) -> str:
    return shown_id.removeprefix("txn_").replace("-", "")


async def acquire(url: str, shop: flows.Shop, port: int, name: str = "wallet", **changed: str) -> str:
    """An acquirer that is the wallet, routed for merchant four, set up over the API; its shown id."""
    pool = await database.pool(url, "switch_writer", 2)
    try:
        office = Onboarding(pool)
        made = await office.acquirer(name, "qr_wallet", "127.0.0.1", port, answer_timeout_ms=1000, reversal_grace_ms=flows.GRACE_MS)
        await office.route(made.acquirer_id, shop.ids["merchant.four"])
    finally:
        await pool.close()
    shown = show("acquirer", made.acquirer_id)
    options = {"client": CLIENT, "scheme": "http", "pay_within_s": str(PAY_WITHIN_S), "qr_guid": "com.example.wallet", **changed}
    answer = await shop.ask("PUT", f"/v1/acquirers/{shown}/account", {"options": options, "secret": SECRET}, "operator")
    assert answer.status == 200, answer.body
    return shown


@asynccontextmanager
async def open_purse(url: str, folder: Path, *options: str) -> AsyncIterator[Purse]:
    for each in ("shop", "wallet"):
        (folder / each).mkdir()
    with wallet(folder / "wallet", *options) as (port, control):
        async with flows.open_shop(url, folder / "shop") as shop:
            purse = Purse(shop, control, await acquire(url, shop, port), port)
            await reachable(purse)
            yield purse


async def reachable(purse: Purse) -> None:
    async def up() -> bool:
        return bool((await purse.shop.ask("GET", "/readyz")).body["lines"].get("wallet") == "up")

    await flows.eventually(up, "the wallet is not reached", 10.0)
