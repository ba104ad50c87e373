"""The month's one order over several acquirers: business date, capture time, id; and what was priced before an earlier sale was known.

Whose day is cut over first says nothing about whose sales come first. Each settlement therefore leaves a row for the other acquirers' lines that
come after it and were priced without it, and the next cut-over of those prices them again, in the order: a difference is an adjustment.
"""

from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Connection
from switch.settlement.fees import charges
from switch.settlement.fees.charges import Costs, Original, Priced, Sale, Schedule, Tariff
from switch.settlement.fees.matching import REFUND, SALE

AT_ONCE = 1_000

# What waits for a cut-over: whose lines of which currency.
WAITING = "SELECT DISTINCT merchant_id, currency FROM tier_correction WHERE acquirer_id = $1 AND settled_on IS NULL ORDER BY merchant_id, currency"
NOTICE = """INSERT INTO tier_correction (merchant_id, cause, acquirer_id, currency, from_date)
SELECT DISTINCT s.merchant_id, $2::uuid, s.acquirer_id, s.currency, $5::date FROM settlement s
WHERE s.merchant_id = $1 AND s.acquirer_id <> $3 AND s.currency = $4 AND s.business_date >= $5
  AND s.business_date < (date_trunc('month', $5::date) + interval '1 month')::date ON CONFLICT DO NOTHING"""
LOOKED_AT = """WITH seen AS (UPDATE tier_correction SET settled_on = $4 WHERE merchant_id = $1 AND acquirer_id = $2 AND currency = $3
  AND settled_on IS NULL RETURNING from_date) SELECT min(from_date) FROM seen"""
BEFORE = """SELECT coalesce(sum(coalesce(volume, sales)), 0)::bigint FROM settlement
WHERE merchant_id = $1 AND currency = $2 AND business_date >= date_trunc('month', $3::date)::date AND business_date < $3"""
# By how much a line changed the volume of its month: as the cut-over counted it.
COUNTS = """CASE WHEN l.type = 'refund' THEN 0 WHEN l.gross >= 0 THEN l.gross ELSE -least(-l.gross, greatest(0, (
  SELECT coalesce(sum(e.gross), 0) FROM settlement_line e WHERE e.merchant_id = l.merchant_id AND e.transaction_id = l.transaction_id
  AND e.business_date < l.business_date AND e.business_date >= date_trunc('month', l.business_date)::date))) END::bigint"""
OTHERS = f"""SELECT l.captured_at, l.transaction_id, {COUNTS} AS counts FROM settlement s JOIN settlement_line l USING (merchant_id, settlement_id)
WHERE s.merchant_id = $1 AND s.currency = $2 AND s.business_date = $3 AND s.acquirer_id <> $4 AND l.type <> 'refund' AND l.gross <> 0
ORDER BY l.captured_at, l.transaction_id"""
# Each line that moved money, with what its transaction came to by then (`stands`) and has cost so far.
LINES = f"""SELECT l.*, l.acquirer_id = $3 AS own, {COUNTS} AS counts, own.*,
  CASE WHEN l.type IN ('capture', 'tip') THEN (SELECT o.business_date FROM history_transaction o WHERE o.transaction_id = l.original_id
    AND o.merchant_id = l.merchant_id) ELSE l.for_date END AS authorised_on
FROM settlement s JOIN settlement_line l USING (merchant_id, settlement_id) LEFT JOIN LATERAL (
  SELECT coalesce(sum(e.gross) FILTER (WHERE e.business_date <= l.business_date), 0)::bigint AS stands, sum(e.fee)::bigint AS fee_now,
    sum(e.interchange)::bigint AS interchange_now, sum(e.scheme_fee)::bigint AS scheme_fee_now, sum(e.acquirer_fee)::bigint AS acquirer_fee_now
  FROM settlement_line e WHERE e.merchant_id = l.merchant_id AND e.transaction_id = l.transaction_id) own ON l.acquirer_id = $3
WHERE s.merchant_id = $1 AND s.currency = $2 AND s.business_date >= $4 AND s.business_date < $5 AND l.gross <> 0
ORDER BY l.business_date, l.captured_at, l.transaction_id"""
# Of the sale behind a refund, what stood before the refund: with the corrections since.
ORIGINAL = """SELECT coalesce(sum(l.gross) FILTER (WHERE l.type <> 'refund'), 0)::bigint,
  coalesce(sum(l.fee) FILTER (WHERE l.type <> 'refund'), 0)::bigint,
  coalesce(sum(l.interchange) FILTER (WHERE l.type <> 'refund'), 0)::bigint, coalesce(sum(l.scheme_fee) FILTER (WHERE l.type <> 'refund'), 0)::bigint,
  coalesce(sum(l.acquirer_fee) FILTER (WHERE l.type <> 'refund'), 0)::bigint, coalesce(-sum(l.gross) FILTER (WHERE l.type = 'refund'), 0)::bigint
FROM (SELECT $2::uuid AS transaction_id UNION ALL
      SELECT c.transaction_id FROM history_transaction c WHERE c.merchant_id = $1 AND c.original_id = $2) AS kin
JOIN settlement_line l ON l.merchant_id = $1 AND l.transaction_id = kin.transaction_id
  AND (CASE WHEN l.gross = 0 THEN l.for_date ELSE l.business_date END, l.captured_at, l.transaction_id) < ($3, $4, $5)"""

Fees = tuple[int, int, int, int]  # fee, interchange, scheme fee, acquirer fee: minor units
NOTHING: Fees = (0, 0, 0, 0)


class Counted(NamedTuple):
    """A sale settled at another acquirer, and by how much it changed the month's volume."""

    captured_at: datetime
    transaction_id: UUID
    counts: int


class Correction(NamedTuple):
    """`row`: the line that is corrected; `sale`: the one behind it. `change`: what is charged more."""

    row: asyncpg.Record
    sale: UUID
    change: Fees
    rule: str
    tariff_id: UUID | None


@dataclass(slots=True)
class Corrections:
    """Of a merchant, currency and acquirer; at most one per transaction, and none that changes nothing."""

    by_transaction: dict[UUID, Correction] = field(default_factory=dict)
    by_sale: dict[UUID, dict[UUID, Fees]] = field(default_factory=dict)  # of sales with their captures and tips, never of refunds

    def put(self, row: asyncpg.Record, change: Fees, priced: Priced | None) -> None:
        sale = sale_of(row)
        if row["type"] != "refund":
            self.by_sale.setdefault(sale, {})[row["transaction_id"]] = change
        self.by_transaction.pop(row["transaction_id"], None)
        if any(change):
            rule = priced.rule if priced is not None else ""
            self.by_transaction[row["transaction_id"]] = Correction(
                row, sale, change, f"by the month's sales at all acquirers: {rule}" if rule else "no rule",
                priced.tariff_id if priced is not None else None)

    def of_sale(self, sale: UUID) -> Fees:
        """By how much what was charged for a sale changes."""
        total = NOTHING
        for change in self.by_sale.get(sale, {}).values():
            total = added(total, change)
        return total


def added(one: Fees, other: Fees) -> Fees:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2], one[3] + other[3]


def sale_of(row: asyncpg.Record) -> UUID:
    sale: UUID | None = row["original_id"] if row["type"] in ("capture", "tip", "refund") else None
    return sale if sale is not None else row["transaction_id"]


def tiered(tariffs: Schedule[Tariff], costs: Schedule[Costs]) -> bool:
    """Whether any price of them depends on the volume."""
    terms: list[Tariff | Costs] = [*tariffs.latest_first, *costs.latest_first]
    return any(price.tiers for each in terms for rule in each.rules for price in rule.prices)


async def notice(connection: Connection, merchant_id: UUID, settlement_id: UUID, acquirer_id: UUID, currency: str, business_date: date) -> None:
    """A settlement tells the other acquirers' lines of its month that come after it, in the transaction that writes it."""
    await connection.execute(NOTICE, merchant_id, settlement_id, acquirer_id, currency, business_date)


async def others(connection: Connection, merchant_id: UUID, currency: str, business_date: date, acquirer_id: UUID) -> list[Counted]:
    """What other acquirers have settled for the same day, in the order."""
    return [Counted(*row) for row in await connection.fetch(OTHERS, merchant_id, currency, business_date, acquirer_id)]


async def replay(connection: Connection, tariffs: Schedule[Tariff], costs: Schedule[Costs], merchant_id: UUID, currency: str, acquirer_id: UUID,
                 until: date) -> Corrections:
    """Prices the acquirer's settled lines before `until` again from the first one that waits, and marks what waited as looked at."""
    found, since = Corrections(), await connection.fetchval(LOOKED_AT, merchant_id, acquirer_id, currency, until)
    if since is None or not tiered(tariffs, costs):
        return found
    volume, month = await connection.fetchval(BEFORE, merchant_id, currency, since), (since.year, since.month)
    async for row in connection.cursor(LINES, merchant_id, currency, acquirer_id, since, until, prefetch=AT_ONCE):
        if (row["business_date"].year, row["business_date"].month) != month:
            volume, month = 0, (row["business_date"].year, row["business_date"].month)
        if row["own"]:
            priced, now = None, (row["fee_now"], row["interchange_now"], row["scheme_fee_now"], row["acquirer_fee_now"])
            if row["stands"]:
                original = await _original(connection, row, found) if row["type"] == "refund" else None
                priced = charges.price(tariffs.on(row["authorised_on"]), costs.on(row["authorised_on"]), _as_sale(row, original), volume)
            wanted = NOTHING if priced is None else (priced.fee, priced.interchange, priced.scheme_fee, priced.acquirer_fee)
            found.put(row, (wanted[0] - now[0], wanted[1] - now[1], wanted[2] - now[2], wanted[3] - now[3]), priced)
        volume += row["counts"]
    return found


async def _original(connection: Connection, row: asyncpg.Record, found: Corrections) -> Original | None:
    if row["original_id"] is None:
        return None
    books = await connection.fetchrow(ORIGINAL, row["merchant_id"], row["original_id"], row["business_date"], row["captured_at"],
                                      row["transaction_id"])
    assert books is not None
    amount, *fees, refunded = books
    return Original(amount, *added((fees[0], fees[1], fees[2], fees[3]), found.of_sale(row["original_id"])), refunded) if amount else None


def _as_sale(row: asyncpg.Record, original: Original | None) -> Sale:
    return Sale(row["transaction_id"], row["captured_at"], abs(row["stands"]), REFUND if row["type"] == "refund" else SALE, row["currency"],
                row["brand"],
                row["card_type"], "qr" if row["entry_mode"] == "qr" else "card", row["entry_mode"], row["mcc"], row["authorised_on"], None,
                sale_of(row), original)
