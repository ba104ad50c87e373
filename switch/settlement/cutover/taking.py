"""The batch of a closed business date: taken merchant by merchant in one walk through the day, priced, and written as settlements with lines.

What a transaction is worth to its merchant (GROSS) is compared with what was settled of it: all of it on its own day, and a difference that
came later as an adjustment that names that day. Each commit holds whole merchants, so a restart goes on with those that have none.
"""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from switch import alerts
from switch.database import Connection
from switch.failpoints import failpoint
from switch.ids import show, uuid7
from switch.settlement.cutover import batch_rows, quiet
from switch.settlement.cutover.batch_rows import STATEMENT_S, Day
from switch.settlement.cutover.tempo import Tempo
from switch.settlement.fees import corrections
from switch.settlement.fees.pricing import NO_RULE, Price, Pricer, Pricing, Settled, Taken
from switch.settlement.funding import payable
from switch.settlement.funding.business_days import calendar_of
from switch.settlement.funding.calendar import Calendar, due

CARD_TYPES_KEPT = 10_000

# What was settled before of the sales behind refunds: their own lines, and those of their captures, tips and earlier refunds.
BEFORE = """
SELECT f.original_id, coalesce(sum(l.gross) FILTER (WHERE l.type <> 'refund'), 0)::bigint,
  coalesce(sum(l.fee) FILTER (WHERE l.type <> 'refund'), 0)::bigint,
  coalesce(sum(l.interchange) FILTER (WHERE l.type <> 'refund'), 0)::bigint, coalesce(sum(l.scheme_fee) FILTER (WHERE l.type <> 'refund'), 0)::bigint,
  coalesce(sum(l.acquirer_fee) FILTER (WHERE l.type <> 'refund'), 0)::bigint, coalesce(-sum(l.gross) FILTER (WHERE l.type = 'refund'), 0)::bigint
FROM unnest($2::uuid[]) AS f(original_id)
CROSS JOIN LATERAL (SELECT f.original_id AS transaction_id UNION ALL SELECT c.transaction_id FROM history_transaction c
                    WHERE c.merchant_id = $1 AND c.original_id = f.original_id) AS kin
JOIN settlement_line l ON l.merchant_id = $1 AND l.transaction_id = kin.transaction_id AND l.business_date < $3 GROUP BY f.original_id"""
# What waited and has an outcome, of merchants that have no settlement of this day yet: the batch deals with it.
DECIDED = """
SELECT l.merchant_id, l.change FROM late_change l JOIN history_transaction t USING (merchant_id, transaction_id)
WHERE l.acquirer_id = $1 AND l.settled_on IS NULL AND l.for_date < $2 AND t.state NOT IN ('SENT', 'REVERSING', 'PARKED')
  AND NOT EXISTS (SELECT FROM history_transaction o WHERE o.transaction_id = t.original_id AND o.state IN ('SENT', 'REVERSING', 'PARKED'))
  AND NOT EXISTS (SELECT FROM settlement s WHERE s.acquirer_id = $1 AND s.business_date = $2 AND s.merchant_id = l.merchant_id)
"""
BESIDE = "SELECT DISTINCT merchant_id, currency FROM settled_beside WHERE acquirer_id = $1 AND business_date = $2"
SETTLED_TODAY = "SELECT EXISTS (SELECT FROM settlement WHERE acquirer_id = $1 AND business_date = $2 AND merchant_id = $3 AND currency = $4)"
DEALT_WITH = "UPDATE late_change SET settled_on = $2 WHERE acquirer_id = $1 AND settled_on IS NULL AND change = ANY($3::bigint[])"
MERCHANT = "SELECT calendar, funding_days, reserve_basis_points, reserve_days FROM directory_merchant WHERE merchant_id = $1"
BINS = "SELECT low, high, card_type FROM directory_bin_range WHERE card_type <> 'unknown' ORDER BY length(low) DESC, low"
SETTLEMENT_COLUMNS = ("merchant_id", "settlement_id", "acquirer_id", "business_date", "currency", "sales_count", "sales", "refunds_count", "refunds",
                      "adjustments_count", "adjustments", "fees", "tax", "costs", "net", "reserve_held", "reserve_release_on", "due_on", "extras",
                      "volume")
LINE_COLUMNS = ("merchant_id", "settlement_id", "business_date", "transaction_id", "acquirer_id", "kind", "type", "for_date", "gross", "fee",
                "interchange", "scheme_fee", "acquirer_fee", "currency", "tariff_id", "rule", "original_id", "store_id", "terminal_id", "brand",
                "card_type", "entry_mode", "mcc", "card_last4", "rrn", "stan", "acquirer_rrn", "approval_code", "reference", "captured_at")


@dataclass(slots=True)
class Settlement:
    """One as it grows; every attribute is a column."""

    merchant_id: UUID
    settlement_id: UUID
    acquirer_id: UUID
    business_date: date
    currency: str
    sales_count: int = 0
    sales: int = 0
    refunds_count: int = 0
    refunds: int = 0
    adjustments_count: int = 0
    adjustments: int = 0
    fees: int = 0
    tax: int = 0
    costs: int = 0
    net: int = 0
    reserve_held: int = 0
    reserve_release_on: date | None = None
    due_on: date = date.min
    extras: str = "[]"
    volume: int = 0  # of sales, what counts towards the tiers of the month

    def add(self, kind: str, gross: int, price: Price) -> None:
        if kind == "sale":
            self.sales_count, self.sales = self.sales_count + 1, self.sales + gross
        elif kind == "refund":
            self.refunds_count, self.refunds = self.refunds_count + 1, self.refunds - gross
        else:
            self.adjustments_count, self.adjustments = self.adjustments_count + 1, self.adjustments + gross
        self.fees += price.fee
        self.costs += price.interchange + price.scheme_fee + price.acquirer_fee


@dataclass(slots=True)
class Group:
    """The settlement of one merchant and currency while it is being filled."""

    settlement: Settlement
    pricer: Pricer
    terms: asyncpg.Record
    rows: list[asyncpg.Record] = field(default_factory=list)
    counted: bool = False  # something of it counts towards the tiers
    moved: set[UUID] = field(default_factory=set)  # settled before, and again now: their whole price is taken anew


def _counts(row: asyncpg.Record) -> int:
    """By how much a sale changes the month's volume. What is undone leaves the month that it counted in, and no other."""
    change: int = row["gross"] - row["settled"]
    return change if change > 0 else -min(-change, max(0, row["of_month"]))


class Batch:
    """One walk through a closed day. `progress` is told in every commit how many lines there are; it raises when the day is no longer ours."""

    def __init__(self, reader: Connection, writer: Connection, day: Day, pricing: Pricing, progress: Callable[[int], Awaitable[None]],
                 pace: Tempo) -> None:
        self.pace = pace
        self.reader, self.writer, self.day, self.pricing, self.progress = reader, writer, day, pricing, progress
        self.calendars: dict[str, Calendar] = {}
        self.bins: list[tuple[str, str, str]] = []
        self.card_types: dict[str, str] = {}
        self.ready: list[Settlement] = []
        self.unpriced: set[UUID] = set()  # merchants of `ready` whose tariff is for other sales
        self.lines, self.written = 0, 0
        self.to_correct: dict[tuple[UUID, str], None] = {}  # merchant and currency, in order; each leaves when it is begun
        self.beside: set[tuple[UUID, str]] = set()  # whose balance moved beside its sales that day; each leaves when it is begun
        self.quiet: set[tuple[UUID, str]] = set()  # who owes the month's fees without a sale in it; each leaves when it is begun
        self.decided: dict[UUID, list[int]] = {}  # late changes of this snapshot; as few as there are reversals after a day's end

    async def settle(self) -> int:
        """Writes the settlements that are missing; returns how many lines were written now. All rows are seen as of one instant."""
        self.bins = [(row[0], row[1], row[2]) for row in await self.writer.fetch(BINS)]
        await batch_rows.prepare(self.reader)
        async with self.reader.transaction(isolation="repeatable_read", readonly=True):
            await self.reader.execute(batch_rows.JOINS)
            for merchant_id, change in await self.reader.fetch(DECIDED, *self.day, timeout=STATEMENT_S):
                self.decided.setdefault(merchant_id, []).append(change)
            self.to_correct = {(each[0], each[1]): None for each in await self.reader.fetch(corrections.WAITING, self.day.acquirer_id)}
            self.beside = {(each[0], each[1]) for each in await self.reader.fetch(BESIDE, *self.day, timeout=STATEMENT_S)}
            self.quiet = await quiet.owing(self.reader, *self.day, STATEMENT_S)
            await batch_rows.gather(self.reader, self.day, self.pace)
            transaction = self.writer.transaction()
            await transaction.start()
            try:
                group: Group | None = None
                async for row in batch_rows.in_order(self.reader, self.day, self.pace):
                    if group is None or (group.settlement.merchant_id, group.settlement.currency) != (row["merchant_id"], row["currency"]):
                        if group is not None:
                            await self._end(group)
                            if self._full() and group.settlement.merchant_id != row["merchant_id"]:
                                transaction = await self._next(transaction)
                        group = await self._begin(row["merchant_id"], row["currency"])
                    group.rows.append(row)
                    if len(group.rows) >= self.pace.lines:
                        await self._piece(group)
                if group is not None:
                    await self._end(group)
                transaction = await self._without_sales(transaction)
                await self._commit(transaction, {*self.decided})
            except BaseException:
                await transaction.rollback()
                raise
        return self.written

    def _full(self) -> bool:
        return self.lines >= self.pace.lines_per_commit or len(self.ready) >= self.pace.merchants_per_commit

    async def _next(self, transaction: Any) -> Any:
        """Commits the merchants that are ready, and begins the next transaction."""
        await self._commit(transaction, {each.merchant_id for each in self.ready})
        transaction = self.writer.transaction()
        await transaction.start()
        return transaction

    async def _without_sales(self, transaction: Any) -> Any:
        """Settlements of merchants that have nothing new today, but lines that were priced before an earlier sale was known, money that was
        taken or given back beside it, or a month's fees: the day explains itself."""
        for number, (merchant_id, currency) in enumerate(sorted(self.beside.union(self.to_correct, self.quiet)), 1):
            if not number % self.pace.merchants_per_commit:
                transaction = await self._next(transaction)
            if await self.writer.fetchval(SETTLED_TODAY, *self.day, merchant_id, currency):
                continue
            moved_beside, quiet_month = (merchant_id, currency) in self.beside, (merchant_id, currency) in self.quiet
            group = await self._begin(merchant_id, currency)
            if moved_beside or (quiet_month and group.pricer.owes_month) or group.pricer.corrections.by_transaction:
                await self._end(group)
        return transaction

    async def _begin(self, merchant_id: UUID, currency: str) -> Group:
        terms = await self.writer.fetchrow(MERCHANT, merchant_id)
        assert terms is not None
        if terms["calendar"] not in self.calendars:
            self.calendars[terms["calendar"]] = await calendar_of(self.writer, terms["calendar"], self.day.business_date)
        settlement = Settlement(merchant_id, uuid7(time.time_ns() // 1_000_000, os.urandom(10)), *self.day, currency)
        waited = (merchant_id, currency) in self.to_correct
        self.to_correct.pop((merchant_id, currency), None)
        self.beside.discard((merchant_id, currency))
        self.quiet.discard((merchant_id, currency))
        return Group(settlement, await self.pricing.of(self.writer, *self.day, merchant_id, currency, waited), terms)

    async def _piece(self, group: Group) -> None:
        """Prices what has gathered, in order, and copies it."""
        rows, settlement, business_date = group.rows, group.settlement, self.day.business_date
        before = await self._before(group)
        taken = [self._taken(row, before) for row in rows]
        prices = group.pricer.prices(taken)
        records = []
        for row, each, price in zip(rows, taken, prices, strict=True):
            kind = "adjustment" if row["for_date"] < business_date else "sale" if each.amount > 0 else "refund"
            if row["for_date"] < business_date:
                group.moved.add(each.transaction_id)
            if row["settled"]:
                price = price._replace(fee=price.fee - row["fee"], interchange=price.interchange - row["interchange"],
                                       scheme_fee=price.scheme_fee - row["scheme_fee"], acquirer_fee=price.acquirer_fee - row["acquirer_fee"])
            if price.rule == NO_RULE:
                self.unpriced.add(settlement.merchant_id)
            gross = each.amount - row["settled"]
            settlement.add(kind, gross, price)
            settlement.volume += each.counts
            group.counted = group.counted or each.counts != 0
            records.append((
                settlement.merchant_id, settlement.settlement_id, business_date, each.transaction_id, self.day.acquirer_id, kind, each.type,
                each.for_date, gross, price.fee, price.interchange, price.scheme_fee, price.acquirer_fee, each.currency, price.tariff_id, price.rule,
                row["original_id"], each.store_id, each.terminal_id, each.brand, each.card_type, each.entry_mode, each.mcc, row["card_last4"],
                row["rrn"], row["stan"], row["acquirer_rrn"], row["approval_code"], row["reference"], each.captured_at))
        await self.writer.copy_records_to_table("settlement_line", records=records, columns=LINE_COLUMNS, timeout=STATEMENT_S)
        self.lines += len(records)
        group.rows = []
        await asyncio.sleep(self.pace.pause_s)

    async def _before(self, group: Group) -> dict[UUID, Settled]:
        sales = list({row["original_id"] for row in group.rows if row["type"] == "refund" and row["original_id"] is not None})
        if not sales:
            return {}
        found = await self.writer.fetch(BEFORE, group.settlement.merchant_id, sales, self.day.business_date)
        before = {row[0]: Settled(*tuple(row)[1:]) for row in found}
        for sale, books in before.items():
            fees = corrections.added((books.fee, books.interchange, books.scheme_fee, books.acquirer_fee), group.pricer.corrections.of_sale(sale))
            before[sale] = Settled(books.amount, *fees, books.refunded)
        return before

    def _taken(self, row: asyncpg.Record, before: Mapping[UUID, Settled]) -> Taken:
        sale = row["original_id"] if row["type"] in ("capture", "tip", "refund") else row["transaction_id"]
        return Taken(row["transaction_id"], row["type"], row["gross"], row["currency"], row["authorised_on"], row["for_date"], row["captured_at"],
                     row["brand"], self._card_type(row["masked_pan"]), row["entry_mode"], row["mcc"], row["store_id"], row["terminal_id"],
                     sale, row["given_back"], before.get(sale) if row["type"] == "refund" else None, 0 if row["type"] == "refund" else _counts(row))

    def _card_type(self, masked: str) -> str:
        """As the longest installed range says whose digits the masked number still shows."""
        shown = masked[:8].rstrip("*")
        known = self.card_types.get(shown)
        if known is None:
            if len(self.card_types) > CARD_TYPES_KEPT:
                self.card_types.clear()
            known = self.card_types[shown] = next((card_type for low, high, card_type in self.bins
                                                   if len(low) <= len(shown) and low <= shown[:len(low)] <= high), "unknown")
        return known

    async def _end(self, group: Group) -> None:
        await self._piece(group)
        await self._corrected(group)
        settlement, terms, day = group.settlement, group.terms, self.day.business_date
        closing = group.pricer.close(settlement.fees)
        settlement.fees += sum(extra.amount for extra in closing.extras)
        settlement.tax = closing.tax
        settlement.extras = json.dumps([extra._asdict() for extra in closing.extras])
        settlement.net = settlement.sales - settlement.refunds + settlement.adjustments - settlement.fees - settlement.tax
        settlement.reserve_held = payable.reserved(settlement.sales, settlement.net, terms["reserve_basis_points"])
        if settlement.reserve_held:
            settlement.reserve_release_on = day + timedelta(days=terms["reserve_days"])
        settlement.due_on = due(day, terms["funding_days"], self.calendars[terms["calendar"]])
        self.ready.append(settlement)
        if group.counted:
            await corrections.notice(self.writer, settlement.merchant_id, settlement.settlement_id, settlement.acquirer_id, settlement.currency, day)

    async def _corrected(self, group: Group) -> None:
        """Adjustments without an amount, each naming the day whose fee it changes."""
        settlement, records = group.settlement, []
        for each in group.pricer.corrections.by_transaction.values():
            if each.row["transaction_id"] in group.moved:
                continue
            price = Price(*each.change, each.tariff_id, each.rule)
            settlement.add("adjustment", 0, price)
            changed = dict(zip(("fee", "interchange", "scheme_fee", "acquirer_fee"), each.change, strict=True)) | {
                "settlement_id": settlement.settlement_id, "business_date": self.day.business_date, "kind": "adjustment", "gross": 0,
                "tariff_id": each.tariff_id, "rule": each.rule}
            records.append(tuple(changed.get(name, each.row[name]) for name in LINE_COLUMNS))
        if records:
            await self.writer.copy_records_to_table("settlement_line", records=records, columns=LINE_COLUMNS, timeout=STATEMENT_S)
            self.lines += len(records)

    async def _commit(self, transaction: Any, merchants: set[UUID]) -> None:
        """`merchants`: those whose late changes are dealt with by this commit."""
        await self.progress(self.written + self.lines)
        changes = [change for merchant_id in merchants for change in self.decided.pop(merchant_id, ())]
        await self.writer.execute(DEALT_WITH, *self.day, changes)
        rows = [tuple(getattr(each, name) for name in SETTLEMENT_COLUMNS) for each in self.ready]
        await self.writer.copy_records_to_table("settlement", records=rows, columns=SETTLEMENT_COLUMNS, timeout=STATEMENT_S)
        unpriced = [show("merchant", merchant_id) for merchant_id in sorted(self.unpriced)]
        for merchant in unpriced:
            await alerts.raise_within(self.writer, "sales_unpriced", merchant)
        failpoint("cutover.price")
        await transaction.commit()
        failpoint("cutover.priced")
        for merchant in unpriced:
            alerts.announce("sales_unpriced", merchant)
        self.written, self.lines, self.ready, self.unpriced = self.written + self.lines, 0, [], set()

