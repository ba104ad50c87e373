"""A switch whose UnionPay acquirer has keys, with a stub that makes and checks its own MACs and PIN blocks; and terminals' keys, made by hand."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from switch import database
from switch.ids import show
from switch.merchants.onboarding import Onboarding
from switch.security.ciphers import ClearKey, encrypt, kcv
from switch.security.pinblocks import clear_block
from tests import flows
from tests.processes import stub, stub_book

MASTER = bytes.fromhex("13579BDF02468ACE1122334455667788")
PARTS = (bytes.fromhex("0123456789ABCDEFFEDCBA9876543210"), bytes(16))
TERMINAL_KEY = ClearKey("tdes", bytes.fromhex("A1B2C3D4E5F60718293A4B5C6D7E8F90"))
REASON = "Key letter of 1 March, envelopes unopened"
PAN = "4111111111111111"
KEYED = {"SWITCH_HSM": "software", "SWITCH_TESTING": "1"}


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(left ^ right for left, right in zip(one, other, strict=True))


def part(octets: bytes, algorithm: Any = "tdes") -> dict[str, Any]:
    return {"component": octets.hex().upper(), "kcv": kcv(ClearKey(algorithm, octets))}


def pin(digits: str = "1234", pan: str = PAN, form: str = "iso0", key: ClearKey = TERMINAL_KEY, **named: str) -> dict[str, Any]:
    block = encrypt(key, clear_block(digits, form, pan, lambda count: bytes(range(count))))
    return {"entry_mode": "chip", "pan": PAN, "expiry": "3012", "pin": {"block": block.hex().upper(), "format": form, **(named or {"key_id": "tpk-1"})}}


@dataclass(slots=True)
class Desk:
    shop: flows.Shop
    host: flows.Host
    acquirer_id: UUID
    folder: Path

    @property
    def acquirer(self) -> str:
        return show("acquirer", self.acquirer_id)

    async def ask(self, method: str, path: str, body: object = None, person: str = "operator") -> Any:
        return await self.shop.ask(method, path, body, person)

    async def load(self, octets: bytes, owner: str | None = None, purpose: str = "tmk", name: str = "", algorithm: Any = "tdes") -> str:
        """A key in two components by two people, approved by the first of them; its cky_ id."""
        first = PARTS[0][:len(octets)].ljust(len(octets), b"\x5a")
        wanted = {"owner": owner or self.acquirer, "purpose": purpose, "name": name, "algorithm": algorithm, "kcv": kcv(ClearKey(algorithm, octets)),
                  "components": {"count": 2, **part(first, algorithm)}, "reason": REASON}
        begun = await self.ask("POST", "/v1/crypto-keys", wanted)
        assert begun.status == 201, begun.raw
        whole = await self.ask("POST", f"/v1/crypto-keys/{begun.body['id']}/components", {**part(xor(first, octets), algorithm), "reason": REASON}, "second")
        assert whole.status == 202, whole.raw
        approved = await self.ask("POST", f"/v1/approvals/{whole.body['id']}", {})
        assert approved.status == 200, approved.raw
        identity, store = UUID(begun.body["id"][4:]), self.shop.switch.custody.store

        async def known() -> bool:
            return any(held.key.key_id == identity for held in store.current.values())

        await flows.eventually(known, "the key is not followed", 20.0)
        return str(begun.body["id"])

    async def keys(self, **wanted: str) -> list[dict[str, Any]]:
        answer = await self.ask("GET", f"/v1/crypto-keys?limit=200&owner={wanted.pop('owner', self.acquirer)}")
        assert answer.status == 200, answer.raw
        return [item for item in answer.body["items"] if all(item[name] == value for name, value in wanted.items())]

    async def line(self) -> dict[str, Any]:
        lines = (await self.ask("GET", "/v1/links")).body["items"]
        return next(line for line in lines if line["acquirer"] == self.acquirer)

    async def up(self) -> None:
        """The line is signed on with working keys."""
        async def reached() -> bool:
            return (await self.line())["state"] == "up" and self.shop.switch.custody.store.find(self.acquirer_id, "mac") is not None

        await flows.eventually(reached, "the line is not up", 30.0)

    async def till(self, name: str) -> str:
        """Another terminal of the same store: a reversal that is not done holds up its own terminal alone."""
        office = self.shop.switch.onboarding
        terminal = await office.terminal(self.shop.ids["store.four"], name)
        self.shop.keys[name] = (await office.key("terminal", terminal_id=terminal.terminal_id)).text
        await self.shop.caught_up()
        return name

    async def sell(self, amount: int = 1000, till: str = "lost", **changed: Any) -> Any:
        async def sold() -> Any:
            answer = await self.shop.pay(amount, key=till, **changed)
            return answer if answer.status != 503 else None

        return await flows.eventually(sold, "nothing is sold", 10.0)

    async def received(self) -> list[dict[str, Any]]:
        return [line for line in await stub_book(self.host.control) if line["kind"] == "received"]

    async def sign_ins(self) -> int:
        return sum(line.get("mti") == "0800" for line in await self.received())


@asynccontextmanager
async def open_desk(url: str, folder: Path, *options: str, keyed: bool = True, dialect: str = "unionpay_pos") -> AsyncIterator[Desk]:
    """`options` of the stub. `keyed`: its master key is loaded already."""
    for each in ("host", "shop"):
        (folder / each).mkdir()
    with stub(folder / "host", "--dialect", dialect, "--master-key", MASTER.hex(), *options) as host:
        pool = await database.pool(url, "switch_writer", 2)
        try:
            async with flows.open_shop(url, folder / "shop", **KEYED) as shop:
                office = Onboarding(pool)
                for key, person in (("second", "Second Person"), ("third", "Third Person")):
                    shop.keys[key] = (await office.key("operator", person=person)).text
                acquirer = await office.acquirer("unionpay", dialect, "127.0.0.1", host[0], institution_code="12345678",
                                                 answer_timeout_ms=3000, reversal_grace_ms=flows.GRACE_MS)
                await office.route(acquirer.acquirer_id, shop.ids["merchant.four"])
                await shop.caught_up()
                desk = Desk(shop, flows.Host(*host), acquirer.acquirer_id, folder)
                if keyed:
                    await desk.load(MASTER)
                    await desk.up()
                yield desk
        finally:
            await pool.close()


async def together(*sales: Any) -> list[Any]:
    return list(await asyncio.gather(*sales))
