"""The books while everything happens at once, and workers are killed: in every snapshot the money adds up, and nothing is settled twice."""

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest_asyncio

from switch import database
from switch.ids import show
from switch.merchants.onboarding import Onboarding
from switch.settlement.jobs import table
from switch.settlement.jobs.table import Due
from tests.bank import OUR_IBAN, Booked, every_day, statement
from tests.conftest import create_database
from tests.flows import Shop, eventually, new_key, open_shop
from tests.money_worker import CUT_OVER, PAY
from tests.processes import ROOT, Process, environment
from tests.snapshots import FAULTS, wrong
from tests.test_payouts_flow import Bank
from tests.test_reconciliation_flow import bring, stub_file

SECONDS_MAX, DRAIN_S, LOOKS, KILLS = 120.0, 40.0, 100, 6
WANTED = ("sale 201", "sale 202", "refund 201", "cancelled 202", "dispute 201", "confirmed", "returned", "file 201", "resolved 200")
TARIFF = {"name": "Taxed", "currency": "CNY", "rules": [{"name": "All", "price": {"basis_points": 60}}], "tax": {"name": "VAT", "basis_points": 600}}
OLDEST = """SELECT d.acquirer_id, min(d.business_date) FROM business_day d LEFT JOIN cutover c USING (acquirer_id, business_date)
WHERE d.state <> 'closed' OR c.ended_at IS NULL GROUP BY d.acquirer_id"""
WORTH = """SELECT t.transaction_id FROM transaction t JOIN business_day d USING (acquirer_id, business_date)
LEFT JOIN transaction o ON o.merchant_id = t.merchant_id AND o.transaction_id = t.original_id
LEFT JOIN (SELECT merchant_id, transaction_id, sum(gross) AS gross FROM settlement_line GROUP BY 1, 2) l ON l.merchant_id = t.merchant_id AND l.transaction_id = t.transaction_id
WHERE d.state = 'closed' AND t.mti LIKE '02%' AND t.type IN ('purchase', 'refund') AND t.acquirer_id = $1 AND coalesce(l.gross, 0) <>
  CASE WHEN t.state NOT IN ('APPROVED', 'CONFIRMED') OR t.voided > 0 THEN 0 WHEN t.type = 'refund' THEN -t.amount ELSE coalesce(t.approved_amount, t.amount) END"""


@dataclass(slots=True)
class Chaos:
    """What happens, until it is over; `seen` counts it."""

    shop: Shop
    bank: Bank
    chance: random.Random
    over: asyncio.Event = field(default_factory=asyncio.Event)
    seen: Counter[str] = field(default_factory=Counter)
    sold: list[str] = field(default_factory=list)
    statements: int = 0
    worker: Process | None = None

    async def again(self, do: Callable[[], Awaitable[None]], low: float, high: float) -> None:
        while not self.over.is_set():
            await do()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.over.wait(), self.chance.uniform(low, high))

    async def sell(self) -> None:
        key, idempotency_key = self.chance.choice(["till", "neighbour", "branch", "dual"]), new_key()
        fault = self.chance.random()
        if fault < 0.3 and key != "dual":  # its outcome comes after its day was taken, now and then
            await self.shop.host.order("delay", 0.5, {"0": "0200"})
        elif fault > 0.96:
            await self.shop.host_of(key).order("silence")
        answer = await self.shop.pay(self.chance.randrange(100, 50_000) // 100 * 100, idempotency_key, key)
        self.seen[f"sale {answer.status}"] += 1
        if answer.status == 201 and answer.body["status"] == "approved":
            if key != "dual" and self.chance.random() < 0.1:
                self.seen[f"cancelled {(await self.shop.cancel(idempotency_key, key)).status}"] += 1
            elif key == "till":
                self.sold.append(answer.body["id"])

    async def give_back(self) -> None:
        if self.sold:
            answer = await self.shop.ask("POST", "/v1/refunds", {"authorization": self.chance.choice(self.sold), "amount": self.chance.randrange(1, 90)}, "till",
                                         Idempotency_Key=new_key())
            self.seen[f"refund {answer.status}"] += 1

    async def contest(self) -> None:
        if not self.sold:
            return
        body = {"acquirer": self.shop.shown("acquirer.single"), "kind": "chargeback", "reference": new_key()[:12], "transaction": self.chance.choice(self.sold), "amount": 100,
                "currency": "CNY", "reason_code": "4853", "noticed_on": (await self.shop.sql("SELECT current_date::text AS day"))[0]["day"]}
        answer = await self.shop.ask("POST", "/v1/disputes", body, "operator", Idempotency_Key=new_key())
        self.seen[f"dispute {answer.status}"] += 1
        if answer.status == 201 and self.chance.random() < 0.7:
            decided = await self.shop.ask("POST", f"/v1/disputes/{answer.body['id']}/decide", {"outcome": self.chance.choice(["won", "lost", "withdrawn"])}, "operator",
                                          Idempotency_Key=new_key())
            assert decided.status == 200, decided.raw

    async def pay_out(self) -> None:
        """What was asked for goes to the bank; the bank pays it, and some of that comes back."""
        made = await self.bank.ask("POST", "/v1/payouts/files", {"currency": "CNY", "format": "csv"})
        if made.status in (200, 201):
            assert (await self.bank.ask("POST", f"/v1/payouts/files/{made.body['id']}/sent")).status == 200
        items = (await self.bank.ask("GET", "/v1/payouts?limit=200")).body["items"]
        for each in [each for each in items if each["state"] == "sent"]:
            self.statements += 1
            booked = [Booked(f"R{self.statements}", each["amount"], each["end_to_end_id"])]
            back = self.chance.random() < 0.3
            if back:
                booked.append(Booked(f"B{self.statements}", each["amount"], each["end_to_end_id"], came=True, reason="closed"))
            answer = await self.bank.answer(statement(booked, f"STMT-{self.statements}", OUR_IBAN, "CNY", number=self.statements, opening=10**10))
            assert answer.status == 201, answer.raw
            self.seen["returned" if back else "confirmed"] += 1
            if back:
                await self.bank.agreed(f"/v1/merchants/{self.shop.shown('merchant.one')}/bank-account", currency="CNY")

    async def reconcile(self) -> None:
        """A file of a day that is over, with differences; people resolve what it opens."""
        rows = await self.shop.sql("""SELECT b.business_date FROM business_day b JOIN cutover c USING (acquirer_id, business_date) WHERE acquirer_id = $1 AND c.ended_at IS NOT NULL
            AND NOT EXISTS (SELECT FROM clearing_file f WHERE f.acquirer_id = b.acquirer_id AND f.business_date = b.business_date) ORDER BY 1 LIMIT 1""",
                                   self.shop.ids["acquirer.single"])
        if rows:
            data, _ = await asyncio.to_thread(stub_file, self.shop, rows[0]["business_date"], "--amount", "1", "--missing", "1", "--extra", "1")
            self.seen[f"file {(await bring(self.shop, data)).status}"] += 1
        for each in (await self.bank.ask("GET", "/v1/exceptions?limit=50")).body["items"]:
            resolution = "accept" if not each["difference"] else self.chance.choice(["write_off", "suspense", "adjust" if each["merchant"] else "claim"])
            answer = await self.bank.ask("POST", f"/v1/exceptions/{each['id']}/resolve", {"resolution": resolution, "reason": "Drawn by a test"})
            self.seen[f"resolved {answer.status}"] += 1

    async def look_at_the_clock(self) -> None:
        """A day ends each second, and what is due is paid."""
        pool = self.shop.switch.writers
        rows = await pool.fetch(OLDEST)
        async with pool.acquire() as connection, connection.transaction():
            for acquirer, day in rows:
                await table.ask(connection, CUT_OVER, Due(f"{acquirer}:{day}", {"acquirer": show("acquirer", acquirer), "business_date": day.isoformat()}), "Tester")
            await table.ask(connection, PAY, Due(new_key()), "Tester")

    async def work_and_die(self) -> None:
        """A worker that does the jobs, killed in the middle of what it does; the last one lives."""
        if self.seen["killed"] == KILLS:
            return
        if self.worker is not None:
            running = await self.shop.sql("SELECT 1 FROM job WHERE state = 'running' AND kind = $1 AND lease_until > now()", self.chance.choice([CUT_OVER, CUT_OVER, PAY]))
            if not running:
                return
            self.worker.popen.send_signal(signal.SIGKILL)
            await asyncio.to_thread(self.worker.popen.wait)
            self.seen["killed"] += 1
        self.worker = Process(self.shop.settings.home, "money", (sys.executable, "-m", "tests.money_worker", self.shop.url),
                              environment(self.shop.settings.home) | {"PYTHONPATH": str(ROOT)})

    async def everything(self) -> None:
        await asyncio.gather(*(self.again(self.sell, 0.0, 0.1) for _ in range(4)), self.again(self.give_back, 0.05, 0.3), self.again(self.contest, 0.2, 0.6),
                             self.again(self.pay_out, 0.4, 1.0), self.again(self.reconcile, 0.5, 1.5), self.again(self.look_at_the_clock, 0.8, 1.2), self.again(self.work_and_die, 0.0, 0.15))


@pytest_asyncio.fixture
async def chaos(cluster_url: str, tmp_path: Path) -> AsyncIterator[Chaos]:
    async with open_shop(await create_database(cluster_url), tmp_path) as shop:
        pool = await database.pool(shop.url, "switch_writer", 1)
        shop.keys["second"] = (await Onboarding(pool).key("operator", person="Second Person")).text
        await pool.close()
        await shop.sql("UPDATE merchant SET reserve_basis_points = 500, reserve_days = 1 WHERE merchant_id = $1", shop.ids["merchant.one"])
        await shop.sql("UPDATE acquirer SET institution_code = '87654321' WHERE name = 'dual'")
        await shop.sql("""INSERT INTO merchant_tariff (tariff_id, merchant_id, effective_from, version, terms, created_by)
            SELECT gen_random_uuid(), merchant_id, '2020-01-01', 2, $1::jsonb, 'test' FROM merchant""", json.dumps(TARIFF))
        await every_day(shop.url)
        await shop.caught_up()
        bank = Bank(shop, (await shop.ask("GET", "/openapi.json")).body)
        await bank.agreed("/v1/payouts/bank-account", currency="CNY", holder="Payment Service", country="DE", iban=OUR_IBAN)
        await bank.agreed(f"/v1/merchants/{shop.shown('merchant.one')}/bank-account", currency="CNY")
        opened = Chaos(shop, bank, random.Random(20))
        try:
            yield opened
        finally:
            if opened.worker is not None:
                opened.worker.popen.kill()
                opened.worker.popen.wait()


async def test_in_every_snapshot_the_money_adds_up_whatever_happens_and_whoever_is_killed(chaos: Chaos) -> None:
    connection = await database.connect(chaos.shop.url, "switch_reader")
    happening = asyncio.create_task(chaos.everything())
    looks, begun = 0, asyncio.get_running_loop().time()
    try:
        while looks < LOOKS or not await enough(chaos):
            assert await wrong(connection) == {}, (looks, chaos.seen)
            assert not happening.done(), happening.exception()
            assert asyncio.get_running_loop().time() < begun + SECONDS_MAX, await stands(chaos)
            looks += 1
        chaos.over.set()
        await happening
        await settled_at_last(chaos, connection)
    finally:
        chaos.over.set()
        happening.cancel()
        await asyncio.gather(happening, return_exceptions=True)
        await connection.close()


async def stands(chaos: Chaos) -> str:
    """Why not everything has happened."""
    lines = await chaos.shop.sql("SELECT kind, count(*), count(DISTINCT business_date) AS days FROM settlement_line GROUP BY 1")
    jobs = await chaos.shop.sql("SELECT kind, state, count(*), max(error) AS error FROM job GROUP BY 1, 2")
    steps = await chaos.shop.sql("SELECT step, detail FROM cutover_step WHERE state = 'running'")
    return f"{dict(chaos.seen)}\n{lines}\n{jobs}\n{steps}\n{chaos.worker.err[-2000:] if chaos.worker else ''}"


async def enough(chaos: Chaos) -> bool:
    """Everything has happened while somebody looked, outcomes that came after their day was taken among it."""
    if min(chaos.seen[what] for what in WANTED) < 1 or chaos.seen["killed"] < KILLS:
        return False
    kinds = await chaos.shop.sql("SELECT kind, count(*) AS days FROM (SELECT DISTINCT kind, business_date FROM settlement_line) AS l GROUP BY kind")
    return {row["kind"] for row in kinds} == {"sale", "refund", "adjustment"} and max(row["days"] for row in kinds) >= 4


async def settled_at_last(chaos: Chaos, connection: Any) -> None:
    """One worker is left alone: what was sold on days that are over is settled, once and in full."""
    shop, acquirer = chaos.shop, chaos.shop.ids["acquirer.single"]
    (last,) = await shop.sql("SELECT max(business_date) AS day FROM transaction WHERE acquirer_id = $1", acquirer)

    async def quiet() -> bool:
        await chaos.look_at_the_clock()
        assert await wrong(connection) == {}
        open_ = await shop.sql("SELECT 1 FROM transaction WHERE state IN ('SENT', 'REVERSING')")
        ended = await shop.sql("SELECT 1 FROM cutover WHERE acquirer_id = $1 AND business_date > $2 AND ended_at IS NOT NULL", acquirer, last["day"] + timedelta(days=1))
        return not open_ and bool(ended)

    await eventually(quiet, "the days do not end", DRAIN_S)
    assert await shop.sql(WORTH, acquirer) == []


async def test_a_fault_is_seen_in_a_snapshot(chaos: Chaos) -> None:
    """The statements find what they look for: each is shown books that break it."""
    shop, connection = chaos.shop, await database.connect(chaos.shop.url, "switch_reader")
    assert await wrong(connection) == {}
    sold = (await shop.pay(10_000)).body["id"]
    row = await shop.row(sold)
    await shop.sql("INSERT INTO cutover (acquirer_id, business_date, next_date) VALUES ($1, $2, $3)", row["acquirer_id"], row["business_date"], row["business_date"] + timedelta(1))
    await shop.sql("""INSERT INTO settlement (merchant_id, settlement_id, acquirer_id, business_date, currency, state, sales_count, sales, fees, net, due_on)
        VALUES ($1, $2, $3, $4, 'CNY', 'posted', 1, 10000, 60, 9940, $4)""", row["merchant_id"], row["transaction_id"], row["acquirer_id"], row["business_date"])
    assert set(await wrong(connection)) == {"a settlement is not the sum of its lines", "a settlement is not what was posted for it"}
    assert set(FAULTS) >= set(await wrong(connection))
    await connection.close()
