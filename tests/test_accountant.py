"""Everything that moves money, in any order, over HTTP: in every snapshot the books agree, exports add up, and nothing is a fault of the switch.

`ACCOUNTANT=SEED:STEPS` draws another and a longer order than the suite does.
"""

import asyncio
import csv
import io
import os
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest_asyncio

from switch import database
from switch.merchants.onboarding import Onboarding
from tests.bank import OUR_IBAN, Booked, every_day, statement
from tests.conftest import create_database
from tests.flows import Shop, eventually, new_key, open_shop
from tests.processes import Answer
from tests.snapshots import wrong
from tests.test_payouts_flow import Bank
from tests.test_reconciliation_flow import bring, stub_file

SEED, STEPS = (int(part) for part in os.environ.get("ACCOUNTANT", "9:90").split(":"))
TEMPORARY = {"not_ready", "acquirer_unavailable", "overloaded"}
WEIGHTS = {"sell": 36, "follow": 24, "cancel": 6, "dispute": 12, "decide": 14, "cut_over": 5, "hold": 3, "pay_out": 7, "answer": 5, "clear": 2, "resolve": 4, "close_batch": 3,
           "arrange": 2, "read": 3}


class Accountant:
    """Draws what to do next; `seen` counts what came of it."""

    def __init__(self, bank: Bank, chance: Random) -> None:
        self.bank, self.shop, self.chance, self.seen = bank, bank.shop, chance, Counter[str]()
        self.sold: list[tuple[str, str]] = []  # id and till
        self.keys: list[tuple[str, str]] = []
        self.disputes: list[str] = []
        self.holds: list[str] = []
        self.number = 0

    def saw(self, what: str, answer: Answer) -> Answer:
        code = answer.body.get("code", "") if isinstance(answer.body, dict) else ""
        self.seen[f"{what} {answer.status} {code}".strip()] += 1
        assert answer.status < 500 or code in TEMPORARY, (what, answer.status, answer.raw)
        return answer

    async def ask(self, what: str, method: str, path: str, body: Any = None, key: str = "operator", keyed: bool = False) -> Answer:
        return self.saw(what, await self.shop.ask(method, path, body, key, **({"Idempotency_Key": new_key()} if keyed else {})))

    async def sell(self) -> None:
        till, key, drawn = self.chance.choice(["till", "neighbour", "branch", "dual"]), new_key(), self.chance.random()
        if drawn < 0.08:
            await self.shop.host_of(till).order(*self.chance.choice([("silence", None), ("delay", 0.4)]))
        more = {"capture_method": "manual"} if till == "dual" and drawn > 0.6 else {}
        answer = self.saw("sale", await self.shop.pay(self.chance.randrange(1, 400) * 100 + self.chance.choice([0, 0, 0, 51]), key, till, **more))
        self.keys.append((key, till))
        if answer.status in (201, 202):
            self.sold.append((answer.body["id"], till))

    async def follow(self) -> None:
        if self.sold:
            sale, till = self.chance.choice(self.sold[-25:])
            verb, amount = self.chance.choice(["captures", "increments", "voids", "tips", "refunds"]), self.chance.choice([1, 100, 999, 5000, 40_000])
            body = {"captures": {"amount": amount}, "increments": {"amount": amount}, "voids": {}, "tips": {"tip_amount": amount},
                    "refunds": {"authorization": sale, "amount": amount}}[verb]
            await self.ask(verb, "POST", "/v1/refunds" if verb == "refunds" else f"/v1/authorizations/{sale}/{verb}", body, till, keyed=True)

    async def cancel(self) -> None:
        if self.keys:
            self.saw("cancel", await self.shop.cancel(*self.chance.choice(self.keys[-25:])))

    async def dispute(self) -> None:
        if self.sold:
            sale, till = self.chance.choice(self.sold[-40:])
            today = (await self.shop.sql("SELECT current_date::text AS day"))[0]["day"]
            answer = await self.ask("notice", "POST", "/v1/disputes", {
                "acquirer": self.shop.shown("acquirer.dual" if till == "dual" else "acquirer.single"), "kind": self.chance.choice(["chargeback", "chargeback", "retrieval"]),
                "reference": new_key()[:12], "transaction": sale, "amount": self.chance.choice([1, 100, 5000]), "currency": "CNY", "reason_code": "4853", "noticed_on": today}, keyed=True)
            if answer.status == 201:
                self.disputes.append(answer.body["id"])

    async def decide(self) -> None:
        if self.disputes:
            path, drawn = f"/v1/disputes/{self.chance.choice(self.disputes[-6:])}", self.chance.random()
            if drawn < 0.3:
                await self.ask("answer of the merchant", "POST", f"{path}/{'represent' if drawn < 0.2 else 'accept'}", {"statement": "Papers are here"}, "merchant.one", keyed=True)
            else:
                await self.ask("outcome", "POST", f"{path}/decide", {"outcome": self.chance.choice(["won", "won", "lost", "withdrawn", "pre_arbitration"])}, keyed=True)

    async def cut_over(self) -> None:
        which = self.chance.choice(["acquirer.single", "acquirer.dual"])
        await self.ask("cut-over", "POST", f"/v1/acquirers/{self.shop.shown(which)}/cutovers", {})
        if self.chance.random() < 0.4:
            async def over() -> bool:
                return not await self.shop.sql("SELECT FROM cutover WHERE acquirer_id = $1 AND ended_at IS NULL", self.shop.ids[which])

            await eventually(over, "the cut-over does not end", 25)

    async def hold(self) -> None:
        path = f"/v1/merchants/{self.shop.shown('merchant.one')}/holds"
        if self.holds and self.chance.random() < 0.8:
            await self.ask("release", "POST", f"{path}/{self.holds.pop()}/release", {})
        else:
            amount = {"amount": self.chance.choice([1, 5000, 20_000])} if self.chance.random() < 0.8 else {}
            answer = await self.ask("hold", "POST", path, {"currency": "CNY", "reason": f"Because of {new_key()}", **amount})
            self.holds += [answer.body["id"]] if answer.status == 201 else []

    async def pay_out(self) -> None:
        await self.ask("payouts", "POST", "/v1/payouts/run", {})
        made = await self.ask("file", "POST", "/v1/payouts/files", {"currency": "CNY", "format": self.chance.choice(["csv", "pain001"])})
        if made.status in (200, 201) and self.chance.random() < 0.8:
            await self.ask("sent", "POST", f"/v1/payouts/files/{made.body['id']}/sent")

    async def answer(self) -> None:
        """Paid, returned, both, more than once, not in order, or by another amount."""
        items = (await self.ask("list", "GET", "/v1/payouts?limit=200")).body["items"]
        self.number += 1
        booked = []
        for each in (each for each in items if self.chance.random() < 0.5):
            drawn = self.chance.random()
            booked += [Booked(f"R{self.number}-{len(booked)}", each["amount"], each["end_to_end_id"])] if drawn < 0.7 else []
            booked += [Booked(f"B{self.number}-{len(booked)}", each["amount"] + (drawn > 0.9), each["end_to_end_id"], came=True, reason="closed")] if drawn > 0.5 else []
        if booked:
            self.chance.shuffle(booked)
            self.saw("bank", await self.bank.answer(statement(booked, f"S-{self.number}", OUR_IBAN, "CNY", number=self.number, opening=10**10)))
            await self.bank.agreed(f"/v1/merchants/{self.shop.shown('merchant.one')}/bank-account", currency="CNY")

    async def clear(self) -> None:
        days = await self.shop.sql("SELECT business_date FROM business_day WHERE acquirer_id = $1 ORDER BY 1", self.shop.ids["acquirer.single"])
        self.number += 1
        planted = ("--amount", "1", "--missing", "1") if len(self.sold) > 25 else ()
        data, _ = await asyncio.to_thread(stub_file, self.shop, self.chance.choice(days)["business_date"], "--number", str(self.number), "--extra", "1", *planted)
        self.saw("clearing file", await bring(self.shop, data))

    async def resolve(self) -> None:
        for each in (await self.ask("list", "GET", "/v1/exceptions?limit=50")).body["items"][:6]:
            wanted = {"resolution": self.chance.choice(["write_off", "suspense", "adjust", "claim", "accept"]), "reason": "Drawn by a test"}
            answer = await self.ask("resolve", "POST", f"/v1/exceptions/{each['id']}/resolve", wanted)
            if answer.status == 202 and self.chance.random() < 0.7:
                await self.ask("approve", "POST", f"/v1/approvals/{answer.body['id']}", {}, "second")

    async def close_batch(self) -> None:
        till = self.chance.choice(["till", "neighbour", "dual"])
        counted = {"currency": "CNY", "sales_count": 1, "sales": 100, "refunds_count": 0, "refunds": 0}
        await self.ask("batch", "POST", f"/v1/terminals/{self.shop.shown(f'terminal.{till}')}/batches", {"totals": [counted]}, till, keyed=True)

    async def arrange(self) -> None:
        await self.ask("funding", "PUT", f"/v1/merchants/{self.shop.shown('merchant.one')}/funding", {
            "calendar": "daily", "funding_days": self.chance.randrange(2), "minimum_payout": self.chance.choice([0, 5000]),
            "reserve_basis_points": self.chance.choice([0, 10_000, 333]), "reserve_days": 1})

    async def read(self) -> None:
        for key in ("merchant.one", "merchant.two"):
            for path in ("/v1/balance", "/v1/balance/history?limit=200", "/v1/disputes", "/v1/payouts"):
                await self.ask("read", "GET", path, key=key)
            for each in (await self.ask("read", "GET", "/v1/settlements?limit=2", key=key)).body["items"]:
                path = f"{self.shop.base}/v1/settlements/{each['id']}"
                async with httpx.AsyncClient(trust_env=False, headers={"Authorization": f"Bearer {self.shop.keys[key]}"}) as client:
                    exported, printed = await client.get(f"{path}/export"), await client.get(f"{path}/statement")
                rows = list(csv.DictReader(io.StringIO(exported.text, newline="")))
                assert sum(int(row["net"]) for row in rows if row["kind"] != "chargeback") == each["net"] and printed.status_code == 200


@pytest_asyncio.fixture
async def bank(cluster_url: str, tmp_path: Path) -> AsyncIterator[Bank]:
    async with open_shop(await create_database(cluster_url), tmp_path) as shop:
        pool = await database.pool(shop.url, "switch_writer", 1)
        shop.keys["second"] = (await Onboarding(pool).key("operator", person="Second Person")).text
        await pool.close()
        await arranged(shop)
        await every_day(shop.url)
        opened = Bank(shop, (await shop.ask("GET", "/openapi.json")).body)
        await opened.agreed("/v1/payouts/bank-account", currency="CNY", holder="Payment Service", country="DE", iban=OUR_IBAN)
        await opened.agreed(f"/v1/merchants/{shop.shown('merchant.one')}/bank-account", currency="CNY")
        yield opened


async def arranged(shop: Shop) -> None:
    """The days that are cut over are over, so that what they settle is due; disputes cost something."""
    await shop.sql("INSERT INTO business_day (acquirer_id, business_date) SELECT acquirer_id, current_date - 30 FROM acquirer")
    await shop.sql("DELETE FROM business_day WHERE business_date > current_date - 30")
    await shop.sql("UPDATE merchant SET calendar = 'daily', funding_days = 0, reserve_basis_points = 500, reserve_days = 1")
    await shop.sql("UPDATE acquirer SET institution_code = '87654321' WHERE name = 'dual'")
    await shop.sql("INSERT INTO tariff (merchant_id, effective_from, basis_points) SELECT merchant_id, '2020-01-01', 60 FROM merchant ON CONFLICT DO NOTHING")
    await shop.sql("INSERT INTO dispute_fee (acquirer_id, kind, currency, fee, cost) SELECT acquirer_id, 'chargeback', 'CNY', 70, 30 FROM acquirer")
    await shop.caught_up()


async def test_whatever_the_order_the_books_agree_and_nothing_is_a_fault_of_ours(bank: Bank) -> None:
    accountant, connection = Accountant(bank, Random(SEED)), await database.connect(bank.shop.url, "switch_reader")
    done: list[str] = []
    try:
        for number in range(STEPS):
            (what,) = accountant.chance.choices([*WEIGHTS], [*WEIGHTS.values()]) if number % 15 else ("cut_over",)
            done.append(what)
            await getattr(accountant, what)()
            assert await wrong(connection) == {}, (SEED, done[-10:])
    finally:
        with suppress(Exception):
            await connection.close()
    kinds = {each.split()[0] for each in accountant.seen}
    assert kinds >= {"sale", "notice", "cut-over", "payouts"}, accountant.seen
    if "ACCOUNTANT" in os.environ:  # which answers there were
        print(*sorted(accountant.seen.items()), sep="\n")
