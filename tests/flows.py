"""Flow tests: a switch in the test's own process, asked over real HTTP, with the acquirer stub over real TCP and a real PostgreSQL.

Three merchants: `one` sells through a single-message acquirer (two stores), `two` through a dual-message one, `three` refuses
duplicates; `four` has no route. Each acquirer is a stub of its own.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar
from uuid import UUID

import asyncpg

from acquirer_stubs.codec import BadLength, Message, decode, encode, frame, split
from switch import database
from switch.app import Switch
from switch.ids import show
from switch.merchants.onboarding import Onboarding
from switch.serve import base_url, listen, serving
from switch.settings import Settings, load
from tests.processes import CARD, Answer, ask, stub, stub_book

ANSWER_TIMEOUT_MS, GRACE_MS = 600, 200
ROUTE = "/v1/authorizations"
Row = dict[str, Any]
T = TypeVar("T")


def body_of(amount: int | None, **changed: Any) -> dict[str, Any]:
    body = {"type": "purchase", "amount": amount, "currency": "CNY", "card": CARD, **changed}
    return {name: value for name, value in body.items() if value is not None}


def new_key() -> str:
    return secrets.token_hex(16)


@dataclass(slots=True)
class Host:
    """The stub as a test sees it."""

    port: int
    control: str

    async def order(self, action: str, value: object = None, match: object = "any", count: int | None = 1) -> None:
        answer = await ask(self.control, "POST", "/faults", "", {"match": match, "action": action, "value": value, "count": count})
        assert answer.status == 201, answer.body

    async def forget(self) -> None:
        assert (await ask(self.control, "DELETE", "/faults", "")).status == 200

    async def act(self, **orders: object) -> None:
        assert (await ask(self.control, "POST", "/host", "", orders)).status == 200

    async def stats(self) -> Any:
        return (await ask(self.control, "GET", "/stats", "")).body

    async def received(self, rrn: str) -> list[dict[str, str]]:
        """What came under an RRN, oldest first: fields as the book holds them, "0" is the MTI."""
        return [{"0": line["mti"], **line["fields"]} for line in await stub_book(self.control)
                if line["kind"] == "received" and line.get("fields", {}).get("37") == rrn]

    async def effect(self, rrn: str) -> tuple[int, int]:
        """(posted, held) in minor units that stand at the host for an RRN."""
        decided = [line for line in await stub_book(self.control) if line["kind"] == "decision" and line["rrn"] == rrn]
        return sum(line["net"] for line in decided), sum(line["held"] for line in decided)


@dataclass(slots=True, repr=False)
class Shop:
    """A running switch with everything onboarded."""

    url: str
    settings: Settings
    host: Host  # of the single-message acquirer
    dual: Host
    keys: dict[str, str] = field(default_factory=dict)
    ids: dict[str, UUID] = field(default_factory=dict)
    base: str = ""
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    running: list[Switch] = field(default_factory=list)

    @property
    def switch(self) -> Switch:
        return self.running[-1]

    async def start(self, *, alone: bool = True) -> None:
        switch, listening = Switch(self.settings, self.url, alone=alone), listen(self.settings)
        await switch.start()
        await self.stack.enter_async_context(serving(switch, listening, self.settings))
        self.base = base_url(listening)
        self.running.append(switch)

    async def stop(self) -> None:
        await self.stack.aclose()
        self.running.clear()

    def host_of(self, key: str) -> Host:
        """Where a terminal's sales go."""
        return self.dual if key == "dual" else self.host

    def shown(self, name: str) -> str:
        """An id as the API shows it; `name` is like `merchant.one`."""
        return show(name.partition(".")[0], self.ids[name])

    async def ask(self, method: str, path: str, body: object = None, key: str = "till", **headers: str) -> Answer:
        return await ask(self.base, method, path, self.keys.get(key, key), body, **headers)

    async def pay(self, amount: int | None, idempotency_key: str | None = None, key: str = "till", **changed: Any) -> Answer:
        """One authorization; `changed` replaces members of the body, None takes one away."""
        return await self.post(body_of(amount, **changed), idempotency_key, key)

    async def post(self, body: object, idempotency_key: str | None = None, key: str = "till", **headers: str) -> Answer:
        return await self.ask("POST", ROUTE, body, key, Idempotency_Key=idempotency_key or new_key(), **headers)

    async def cancel(self, idempotency_key: str, key: str = "till") -> Answer:
        return await self.ask("POST", "/v1/cancellations", {"idempotency_key": idempotency_key}, key)

    async def get(self, shown_id: str, key: str = "operator") -> Any:
        answer = await self.ask("GET", f"/v1/transactions/{shown_id}", key=key)
        assert answer.status == 200, answer.raw
        return answer.body

    async def story(self, shown_id: str) -> Any:
        return (await self.ask("GET", f"/v1/transactions/{shown_id}/story", key="operator")).body

    async def until(self, shown_id: str, status: str, seconds: float = 8.0) -> Any:
        """The transaction as soon as it has that status."""
        async def reached() -> Any:
            shown = await self.get(shown_id)
            return shown if shown["status"] == status else None

        return await eventually(reached, f"{shown_id} is not {status}", seconds)

    async def caught_up(self) -> None:
        """Waits until the switch has read every change of the directory."""
        async def read() -> bool:
            newest = (await self.sql("SELECT max(version) AS version FROM directory_change"))[0]["version"]
            return bool((await self.ask("GET", "/readyz")).body["directory_version"] >= newest)

        await eventually(read, "the directory does not follow")

    async def sql(self, statement: str, *arguments: object) -> list[Row]:
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    async def row(self, shown_id: str) -> Row:
        """The stored transaction."""
        return (await self.sql("SELECT * FROM transaction WHERE transaction_id = $1", UUID(shown_id[4:])))[0]

    async def duty(self, shown_id: str) -> Row | None:
        found = await self.sql("SELECT * FROM duty WHERE transaction_id = $1", UUID(shown_id[4:]))
        return found[0] if found else None

    async def by_key(self, idempotency_key: str) -> list[Row]:
        """All transactions ever made under a key."""
        return await self.sql("SELECT * FROM transaction WHERE idempotency_key = $1 ORDER BY transaction_id", idempotency_key)


async def eventually(reached: Callable[[], Awaitable[T]], complaint: str, seconds: float = 8.0) -> T:
    """What `reached` returns as soon as it is true."""
    end = asyncio.get_running_loop().time() + seconds
    while not (found := await reached()):
        assert asyncio.get_running_loop().time() < end, complaint
        await asyncio.sleep(0.02)
    return found


async def onboard(shop: Shop) -> None:
    pool = await database.pool(shop.url, "switch_writer", 2)
    office, keys, ids = Onboarding(pool), shop.keys, shop.ids
    try:
        await office.install_bins()
        organisation = await office.organisation("Flow tests")
        for name, policy in (("one", "warn"), ("two", "warn"), ("three", "refuse"), ("four", "warn")):
            merchant = await office.merchant(organisation.organisation_id, f"Merchant {name}", "5812", "Asia/Shanghai", duplicate_policy=policy)
            ids[f"merchant.{name}"] = merchant.merchant_id
            keys[f"merchant.{name}"] = (await office.key("merchant", merchant_id=merchant.merchant_id)).text
        for name, host, merchants in (("single", shop.host, ("one", "three")), ("dual", shop.dual, ("two",))):
            acquirer = await office.acquirer(name, "iso87_ascii", "127.0.0.1", host.port, message_mode=name, institution_code="12345678",
                                             answer_timeout_ms=ANSWER_TIMEOUT_MS, reversal_grace_ms=GRACE_MS)
            ids[f"acquirer.{name}"] = acquirer.acquirer_id
            for merchant_name in merchants:
                await office.route(acquirer.acquirer_id, ids[f"merchant.{merchant_name}"])
        for till, merchant_name, store in (("till", "one", "first"), ("neighbour", "one", "first"), ("branch", "one", "second"), ("dual", "two", "two"),
                                           ("strict", "three", "three"), ("lost", "four", "four")):
            if f"store.{store}" not in ids:
                ids[f"store.{store}"] = (await office.store(ids[f"merchant.{merchant_name}"], f"Store {store}", city="Shanghai")).store_id
            terminal = await office.terminal(ids[f"store.{store}"], till)
            ids[f"terminal.{till}"] = terminal.terminal_id
            keys[till] = (await office.key("terminal", terminal_id=terminal.terminal_id)).text
        keys["operator"] = (await office.key("operator", person="Flow Tester")).text
        keys["administrator"] = (await office.key("administrator", person="Flow Administrator")).text
    finally:
        await pool.close()


@asynccontextmanager
async def open_shop(url: str, folder: Path, **more: str) -> AsyncIterator[Shop]:
    """A switch on the database `url` with its stubs; all end with the body. `more` are settings."""
    folders = [folder / name for name in ("single", "dual")]
    for each in folders:
        each.mkdir()
    with stub(folders[0]) as single, stub(folders[1]) as dual:
        settings = load({"SWITCH_HOME": str(folder), "SWITCH_PORT": "0", "SWITCH_DATABASE_URL": url, "SWITCH_SCHEDULES": "off", **more})
        shop = Shop(url, settings, Host(*single), Host(*dual))
        await onboard(shop)
        await shop.start()
        try:
            yield shop
        finally:
            await shop.stop()


Reply = tuple[float, Message]


@asynccontextmanager
async def scripted_host(script: Callable[[Message], list[Reply]]) -> AsyncIterator[int]:
    """A host that answers as told: `script` gives the answers to a money message, each with its delay in seconds. Yields the port."""
    pending: set[asyncio.Task[None]] = set()

    async def later(writer: asyncio.StreamWriter, seconds: float, message: Message) -> None:
        await asyncio.sleep(seconds)
        writer.write(frame(encode(message)))

    async def line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rest = b""
        with suppress(OSError, BadLength):
            while data := await reader.read(65536):
                bodies, rest = split(rest + data)
                for body in bodies:
                    message = decode(body)
                    if message[0][1] == "8":
                        writer.write(frame(encode({0: "0810", **{de: message[de] for de in (7, 11)}, 39: "00", 70: message[70]})))
                        continue
                    for seconds, answer in script(message):
                        pending.add(asyncio.create_task(later(writer, seconds, answer)))
        writer.close()

    server = await asyncio.start_server(line, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in pending:
            task.cancel()


def answer_to(message: Message, code: str, **changed: str) -> Message:
    """The answer that a sound host gives; `changed` like `de38="123456"`."""
    echoed = {de: message[de] for de in (3, 4, 7, 11, 37, 41, 42, 49)}
    answer = {0: f"{message[0][:2]}{int(message[0][2]) + 1}0", **echoed, 39: code}
    if code in ("00", "10"):
        answer[38] = "A00001"
    answer |= {int(name[2:]): value for name, value in changed.items()}
    return {de: answer[de] for de in sorted(answer)}


def local_now(**shift: float) -> str:
    """The wall clock of the stores, shifted."""
    return f"{datetime.now(UTC) + timedelta(hours=8) + timedelta(**shift):%Y-%m-%dT%H:%M:%S}"



async def staffed(shop: Shop, url: str) -> None:
    """Keys of a person of support, of the first merchant's owner and of another merchant's."""
    pool = await database.pool(url, "switch_writer", 1)
    office = Onboarding(pool)
    shop.keys["support"] = (await office.key("support", person="Wu Min")).text
    shop.keys["owner"] = (await office.key("merchant", merchant_id=shop.ids["merchant.one"])).text
    shop.keys["stranger"] = (await office.key("merchant", merchant_id=shop.ids["merchant.two"])).text
    await pool.close()


async def forgotten(shop: Shop, job: str) -> int:
    """What a job that removes what nobody asks for any more removes in an hour."""
    async def hold(connection: Any) -> None:
        assert connection.is_in_transaction()

    kind, pool = shop.switch.foreman.kinds[job], await database.pool(shop.url, "switch_writer", 1)
    try:
        (due,) = await kind.due(datetime(2026, 11, 27, 9, 30, tzinfo=UTC))  # type: ignore[misc]
        assert due.key == "2026-11-27T09"
        told = await kind.do(SimpleNamespace(pool=pool, hold=hold))  # type: ignore[arg-type]
        return int(told["removed"])  # type: ignore[index]
    finally:
        await pool.close()
