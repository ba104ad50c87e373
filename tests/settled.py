"""A shop whose books are written by hand-made rows, for tests of settlement: merchants, an acquirer, sales of any day, and cut-overs."""

import json
import os
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import rows

from switch import database
from switch.payments.transaction import Transaction
from switch.settlement.cutover import steps
from switch.settlement.cutover.steps import Cutover

DAY = date(2026, 11, 23)
ONE_DAY = timedelta(days=1)
Row = dict[str, Any]


@dataclass(slots=True)
class Till:
    """One merchant with a store and a terminal at one acquirer; `owner` may do what hand-written SQL may."""

    url: str
    owner: asyncpg.Connection
    acquirer: UUID
    merchant: UUID
    day: date = DAY
    others: dict[str, UUID] = field(default_factory=dict)
    number: int = 0

    async def new(self, type_: str = "purchase", amount: int = 1000, **changes: Any) -> Transaction:
        """A row that is SENT, received at noon of its business date."""
        self.number += 1
        day = changes.get("business_date", self.day)
        at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC) + timedelta(seconds=self.number)
        values = {"type": type_, "amount": amount, "merchant_id": self.merchant, "acquirer_id": self.acquirer, "business_date": day, "received_at": at,
                  "rrn": f"{day:%Y%j}"[3:] + f"{self.number:08d}", "pan_token": bytes(32)} | changes
        row = rows.transaction(**values)
        await rows.insert(self.owner, "transaction", **{name: value for name, value in asdict(row).items() if value is not None})
        return row

    async def step(self, row: Transaction, state: str, **sets: Any) -> None:
        """One step of its life, with its duty where one belongs to it."""
        async with self.owner.transaction():
            if state == "REVERSING":
                owed = rows.duty(row)
                await self.owner.execute("""INSERT INTO duty (merchant_id, transaction_id, acquirer_id, kind, cause, stan, transmitted_at, match_key,
                    next_attempt_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (merchant_id, transaction_id)
                    DO UPDATE SET state = 'open', closed_at = NULL, closed_by = NULL""", *owed)
            elif state == "PARKED":
                await self.owner.execute("UPDATE duty SET state = 'parked' WHERE transaction_id = $1", row.transaction_id)
            elif state in ("REVERSED", "CONFIRMED"):
                await self.owner.execute("UPDATE duty SET state = 'done', closed_at = now(), closed_by = 'person' WHERE transaction_id = $1",
                                         row.transaction_id)
            if state == "APPROVED":
                approved = sets.pop("approved_amount", row.amount)
                sets = {"outcome": "APPROVED", "outcome_at": row.received_at + timedelta(seconds=1), "response_code": "00",
                        "approved_amount": approved, "approval_code": "A00001"} | sets
                if row.original_id is None and row.type != "refund":
                    captured = approved if row.capture_method == "automatic" else 0
                    sets = {"authorised": approved, "capturable": approved, "captured": captured} | sets
            if state == "CONFIRMED":
                sets = {"authorised": row.amount, "capturable": row.amount, "captured": row.amount, "approved_amount": row.amount} | sets
            names = "".join(f", {name} = ${place}" for place, name in enumerate(sets, 3))
            done = await self.owner.execute(f"UPDATE transaction SET version = version + 1, state = $2{names} WHERE transaction_id = $1",
                                            row.transaction_id, state, *sets.values())
            assert done == "UPDATE 1"

    async def made(self, type_: str = "purchase", amount: int = 1000, **changes: Any) -> Transaction:
        """A row that is approved."""
        row = await self.new(type_, amount, **changes)
        await self.step(row, "APPROVED")
        return row

    async def follow(self, original: Transaction, type_: str, amount: int, approved: bool = True, **changes: Any) -> Transaction:
        row = await self.new(type_, amount, original_id=original.transaction_id,
                             exchange="advice" if type_ in ("capture", "tip") else "request", **changes)
        if approved:
            await self.step(row, "APPROVED")
        return row

    async def cut(self, business_date: date | None = None, **more: Any) -> Cutover:
        """The cut-over of the oldest day, without waits."""
        done = await steps.run(self.connect, self.acquirer, business_date, **{"grace_s": 0.0, "wait_s": 0.0, "confirm_s": 0.5} | more)
        self.day = max(self.day, done.next_date)
        return done

    async def connect(self) -> Any:
        return await database.connect(self.url, "switch_writer")

    async def fetch(self, statement: str, *arguments: object) -> list[Row]:
        return [dict(row) for row in await self.owner.fetch(statement, *arguments)]

    async def settlements(self) -> list[Row]:
        return await self.fetch("SELECT * FROM settlement WHERE acquirer_id = $1 ORDER BY business_date, merchant_id, currency", self.acquirer)

    async def lines(self, transaction: Transaction | None = None) -> list[Row]:
        return await self.fetch("""SELECT * FROM settlement_line WHERE acquirer_id = $1 AND ($2::uuid IS NULL OR transaction_id = $2)
            ORDER BY business_date, captured_at, transaction_id""", self.acquirer, transaction.transaction_id if transaction else None)

    async def balance(self, kind: str = "merchant", merchant: UUID | None = None, currency: str = "CNY") -> int:
        found = await self.fetch("""SELECT coalesce(sum(e.amount), 0)::bigint AS sum FROM ledger_entry e JOIN account a USING (account_id)
            WHERE a.kind = $1 AND a.currency = $2 AND ($1 NOT IN ('merchant', 'reserve', 'hold') OR a.merchant_id = $3)
              AND ($1 <> 'acquirer' OR a.acquirer_id = $4)""", kind, currency, merchant or self.merchant, self.acquirer)
        return int(found[0]["sum"])


async def open_till(url: str, basis_points: int = 100, day: date = DAY, owner: asyncpg.Connection | None = None, **merchant: Any) -> Till:
    """`owner`: a connection to be shared."""
    owner = owner or await asyncpg.connect(url)
    organisation, merchant_id, acquirer_id = uuid4(), uuid4(), uuid4()
    await rows.insert(owner, "organisation", organisation_id=organisation, name="Settled")
    await rows.insert(owner, "merchant", merchant_id=merchant_id, organisation_id=organisation, name="Settled", mcc="5411", time_zone="UTC", **merchant)
    await rows.insert(owner, "acquirer", acquirer_id=acquirer_id, name=f"a{os.urandom(6).hex()}", dialect="iso87_ascii", message_mode="single")
    await rows.insert(owner, "business_day", acquirer_id=acquirer_id, business_date=day)
    async with owner.transaction():  # other tests have closed days in this database
        await owner.execute("ALTER TABLE merchant_tariff DISABLE TRIGGER merchant_tariff_of_open_days")
        await rows.insert(owner, "tariff", merchant_id=merchant_id, effective_from=date(2020, 1, 1), basis_points=basis_points)
        await owner.execute("ALTER TABLE merchant_tariff ENABLE TRIGGER merchant_tariff_of_open_days")
    return Till(url, owner, acquirer_id, merchant_id, day)


async def agree(till: Till, terms: dict[str, Any] | None, costs: dict[str, Any] | None = None) -> None:
    """A tariff for its merchant, and costs for its acquirer, since 2020."""
    async with till.owner.transaction():
        for table, ident, owner, of, document in (("merchant_tariff", "tariff", "merchant", till.merchant, terms), ("acquirer_cost", "cost", "acquirer", till.acquirer, costs)):
            if document is not None:
                await till.owner.execute(f"ALTER TABLE {table} DISABLE TRIGGER {table}_of_open_days")
                await till.owner.execute(f"""INSERT INTO {table} ({ident}_id, {owner}_id, effective_from, version, terms, created_by)
                    VALUES (gen_random_uuid(), $1, '2020-01-01', 2, $2::jsonb, 'test')""", of, json.dumps(document))
                await till.owner.execute(f"ALTER TABLE {table} ENABLE TRIGGER {table}_of_open_days")
