"""What a certification runs on: a database, the dialect's stub, a switch, a few terminals, keys where the dialect has them; every process a child."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from loadtests.chip import MASTER as ISSUER
from messages.dialect import Dialect, load
from switch import database
from switch.ids import show
from switch.merchants.onboarding import Onboarding
from switch.security.ciphers import ClearKey, kcv
from tests.faults.stage import Server, Stub, free_port, new_database
from tests.keyed import KEYED, MASTER, PARTS, REASON, TERMINAL_KEY, part, pin, xor
from tests.processes import BROKEN, CARD, Answer, ask, stub_book

ANSWER_MS, GRACE_MS = 1000, 200
KEYED_ANSWER_MS = 2500  # longer than an answer is held whose MAC is not right
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
    organisation: str
    acquirer: str
    terminals: dict[str, str]
    begun: asyncio.Event = field(default_factory=asyncio.Event)  # by a scenario beside the rest: from here on it disturbs nobody

    @property
    def holds(self) -> bool:
        """Whether an authorization holds and is cleared by file, without captures."""
        return "capture" not in self.dialect.messages and "purchase.single" not in self.dialect.messages

    @property
    def keyed(self) -> bool:
        """Whether the acquirer has a master key, so that sign-ons bring working keys and messages carry MACs."""
        return has_keys(self.dialect)

    @property
    def answer_ms(self) -> int:
        """So long an answer is waited for."""
        return KEYED_ANSWER_MS if self.keyed else ANSWER_MS

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

    def pinned(self, digits: str = "1234") -> dict[str, Any]:
        """The card with a PIN block of the till's key; 1234 is its PIN where the host can tell."""
        return {**CARD, "pin": pin(digits, CARD["pan"])["pin"]}

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

    @asynccontextmanager
    async def misbehaving(self, action: str, value: object, match: object) -> AsyncIterator[None]:
        """The host does so each time, to the end of the block; then it behaves in every respect."""
        await self.order(action, value, match, None)
        try:
            yield
        finally:
            assert (await ask(self.control, "DELETE", "/faults", "")).status == 200

    async def act(self, **orders: object) -> None:
        assert (await ask(self.control, "POST", "/host", "", orders)).status == 200

    async def received(self, **fields: str) -> list[dict[str, Any]]:
        """What the host received with these elements, oldest first: `_4="..."`; "0" is its MTI."""
        found = [{"0": line["mti"], **line["fields"]} for line in await stub_book(self.control) if line["kind"] == "received" and "fields" in line]
        return [each for each in found if all(each.get(name.strip("_")) == value for name, value in fields.items())]

    async def stands(self) -> int:
        """Minor units that stand at the host: posted, or held where nothing is posted."""
        return int(sum(line["held" if self.holds else "net"] for line in await stub_book(self.control) if line["kind"] == "decision"))

    async def sign_ons(self) -> int:
        return len(await self.received(_70="001"))

    async def link(self, acquirer: str = "") -> dict[str, Any]:
        """What the switch shows of an acquirer's lines; of the one under test unless another is named."""
        items = (await self.ask("GET", "/v1/links", key="operator")).body["items"]
        return dict(next(each for each in items if each["acquirer"] == (acquirer or self.acquirer)))

    async def line(self) -> str:
        return str((await self.link())["state"])

    async def up(self, wanted: str = "up", seconds: float = 20.0) -> None:
        """As soon as the line is up, and sells."""
        async def reached() -> bool:
            try:
                return await self.line() == wanted
            except (*BROKEN, KeyError, StopIteration):
                return False

        await eventually(reached, f"the line is not {wanted}", seconds)

    async def unmatched(self) -> list[dict[str, Any]]:
        return list((await self.ask("GET", "/v1/unmatched-answers", key="operator")).body["items"])

    async def made(self, path: str, body: object) -> dict[str, Any]:
        """What an operator adds."""
        answer = await self.ask("POST", path, body, "operator")
        assert answer.status == 201, answer.raw
        return dict(answer.body)

    async def load_key(self, owner: str, purpose: str, key: ClearKey, name: str = "") -> None:
        """In two components by two people, approved by the first of them."""
        octets = key.reveal()
        begun = await self.made("/v1/crypto-keys", {"owner": owner, "purpose": purpose, "name": name, "algorithm": "tdes", "kcv": kcv(key),
                                                    "components": {"count": 2, **part(PARTS[0])}, "reason": REASON})
        second = {**part(xor(PARTS[0], octets)), "reason": REASON}
        whole = await self.ask("POST", f"/v1/crypto-keys/{begun['id']}/components", second, "second")
        assert whole.status == 202, whole.raw
        approved = await self.ask("POST", f"/v1/approvals/{whole.body['id']}", {}, "operator")
        assert approved.status == 200, approved.raw

    async def crypto_keys(self, **wanted: str) -> list[dict[str, Any]]:
        """The acquirer's, by what they show."""
        items = (await self.ask("GET", f"/v1/crypto-keys?limit=200&owner={self.acquirer}", key="operator")).body["items"]
        return [each for each in items if all(each[name] == value for name, value in wanted.items())]

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
    stub = Stub(folder, HOST, free_port(), 0.0, name, "--imk", ISSUER, *(("--master-key", MASTER.hex()) if has_keys(dialect) else ()))
    try:
        keys, organisation, acquirer, terminals = await _furnish(url, dialect, stub.port)
        server = Server(folder, "certified", url, **(KEYED if has_keys(dialect) else {}))
    except BaseException:
        stub.end()
        raise
    bench = Bench(dialect, folder, url, stub, server, keys, organisation, acquirer, terminals)
    try:
        await asyncio.to_thread(server.wait_ready)
        await bench.up()
        if bench.keyed:
            await _keyed(bench)
    except BaseException:
        bench.end()
        raise
    return bench


async def _keyed(bench: Bench) -> None:
    """The till's PIN key and the acquirer's master key are loaded, and the line has signed on with them."""
    await bench.load_key(bench.terminals["till"], "pin", TERMINAL_KEY, "tpk-1")
    await bench.load_key(bench.acquirer, "tmk", ClearKey("tdes", MASTER))

    async def works() -> bool:
        return (await bench.once(100, card=bench.pinned())).body.get("status") == "approved"

    await eventually(works, "nothing is sold under the keys", 30.0)


def has_keys(dialect: Dialect) -> bool:
    return dialect.mac is not None and dialect.key_exchange is not None


def mode_of(dialect: Dialect) -> Literal["single", "dual"]:
    return "single" if "purchase.single" in dialect.messages else "dual"


async def _furnish(url: str, dialect: Dialect, port: int) -> tuple[dict[str, str], str, str, dict[str, str]]:
    await database.migrate(url)
    pool = await database.pool(url, "switch_writer", 2)
    try:
        office = Onboarding(pool)
        await office.install_bins()
        organisation = await office.organisation("Certification")
        merchant = await office.merchant(organisation.organisation_id, "Certified merchant", "5812", "Asia/Shanghai")
        store = await office.store(merchant.merchant_id, "Certified store", city="Shanghai")
        made = await office.acquirer("certified", dialect.name, "127.0.0.1", port, message_mode=mode_of(dialect), institution_code="12345678",
                                     answer_timeout_ms=KEYED_ANSWER_MS if has_keys(dialect) else ANSWER_MS, reversal_grace_ms=GRACE_MS)
        await office.route(made.acquirer_id, merchant.merchant_id)
        keys, terminals = {}, {}
        for till in ("till", "neighbour", "aside", "apart"):
            terminal = await office.terminal(store.store_id, till)
            terminals[till] = show("terminal", terminal.terminal_id)
            keys[till] = (await office.key("terminal", terminal_id=terminal.terminal_id)).text
        keys["merchant"] = (await office.key("merchant", merchant_id=merchant.merchant_id)).text
        for key, person in (("operator", "Certifier"), ("second", "Second certifier")):
            keys[key] = (await office.key("operator", person=person)).text
        return keys, show("organisation", organisation.organisation_id), show("acquirer", made.acquirer_id), terminals
    finally:
        await pool.close()
