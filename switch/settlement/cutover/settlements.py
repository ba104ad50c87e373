"""What a merchant reads of its money: settlements and their lines, balances, and the transfers behind them. In one snapshot each."""

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import lowest
from switch.settlement import ledger
from switch.settlement.cutover.batch_rows import GROSS, ORIGINAL
from switch.settlement.funding.payable import Payable, payable, why_not

PAGE_MAX = 200
CLOCKS = timedelta(days=1)  # by how much an id may be older than its day: its worker's clock

_SETTLEMENT = """settlement_id, merchant_id, acquirer_id, business_date, currency, state, sales_count, sales, refunds_count, refunds,
adjustments_count, adjustments, fees, tax, net, reserve_held, reserve_release_on, due_on, payout_id, extras, priced_at, stated_at"""
# What was taken or given back at once on that date: in the balance, and not in the net.
BESIDE = """LEFT JOIN LATERAL (SELECT coalesce(sum(b.amount) FILTER (WHERE b.cause IN ('chargeback', 'chargeback_won')), 0)::bigint AS disputes,
  coalesce(-sum(b.amount) FILTER (WHERE b.cause = 'dispute_fee'), 0)::bigint AS dispute_fees,
  coalesce(sum(b.amount) FILTER (WHERE b.cause IN ('reconciliation_adjust', 'reconciliation_correction')), 0)::bigint AS corrections,
  coalesce(-sum(b.amount) FILTER (WHERE b.cause = 'contract_charge'), 0)::bigint AS contract_charges,
  coalesce(sum(b.amount) FILTER (WHERE b.cause IN ('hold_placed', 'hold_released')), 0)::bigint AS deposits
  FROM settled_beside b WHERE b.merchant_id = s.merchant_id AND b.acquirer_id = s.acquirer_id AND b.currency = s.currency
    AND b.business_date = s.business_date) beside ON true"""
PAGE = f"""SELECT s.*, beside.* FROM (SELECT {_SETTLEMENT} FROM settlement WHERE ($1::uuid IS NULL OR merchant_id = $1)
AND (state = 'stated' OR NOT $2) AND ($3::uuid IS NULL OR acquirer_id = $3) AND ($4::text IS NULL OR currency = $4)
AND ($5::date IS NULL OR business_date >= $5) AND ($6::date IS NULL OR business_date <= $6)
AND ($7::uuid IS NULL OR settlement_id < $7) ORDER BY settlement_id DESC LIMIT $8) s {BESIDE} ORDER BY s.settlement_id DESC"""
ONE = f"""SELECT s.*, beside.* FROM settlement s {BESIDE} WHERE s.settlement_id = $1 AND ($2::uuid IS NULL OR s.merchant_id = $2)
AND (s.state = 'stated' OR NOT $3)"""
# What is told of each, by whatever way: minor units.
FIGURES = ("currency", "sales_count", "sales", "refunds_count", "refunds", "adjustments_count", "adjustments", "fees", "tax", "net", "disputes",
           "dispute_fees", "corrections", "contract_charges", "deposits", "reserve_held")
LINES = """SELECT transaction_id, kind, type, for_date, gross, fee, currency, rule, original_id, store_id, terminal_id, brand, card_type, entry_mode,
card_last4, rrn, approval_code, reference, captured_at FROM settlement_line WHERE settlement_id = $1 AND ($2::uuid IS NULL OR store_id = $2)
AND ($3::uuid IS NULL OR terminal_id = $3) AND ($4::text IS NULL OR brand = $4) AND ($5::date IS NULL OR for_date = $5)
AND ($6::uuid IS NULL OR transaction_id < $6) ORDER BY transaction_id DESC LIMIT $7"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a list of settlements is narrowed by; None is no limit. `stated`: only what merchants are shown."""

    merchant_id: UUID | None
    stated: bool
    acquirer_id: UUID | None = None
    currency: str | None = None
    since: date | None = None
    until: date | None = None
    before: UUID | None = None


class Balance(NamedTuple):
    """Of one currency, minor units. `posted`: what is owed by the ledger; `not_settled`: sold and given back on days that are not settled, and what
    moved after its day was, before fees; `not_due`: what of `posted` is due later, the next on `next_due_on`; `reason`: why nothing is paid out."""

    currency: str
    posted: int
    not_settled: int
    not_due: int
    reserved: int
    on_hold: int
    in_payout: int
    disputed: int
    payable: Payable
    reason: str
    next_due_on: date | None


UNFINISHED = """SELECT d.acquirer_id, d.business_date, d.opened_at FROM business_day d LEFT JOIN cutover c USING (acquirer_id, business_date)
WHERE d.state <> 'closed' OR c.ended_at IS NULL"""
NOT_SETTLED = f"""
SELECT t.currency, sum({GROSS})::bigint AS gross FROM history_transaction t {ORIGINAL}
JOIN unnest($3::uuid[], $4::date[]) AS d(acquirer_id, business_date) ON d.acquirer_id = t.acquirer_id AND d.business_date = t.business_date
WHERE t.merchant_id = $1 AND t.transaction_id >= $2 AND t.state IN ('APPROVED', 'CONFIRMED')
  AND NOT EXISTS (SELECT FROM settlement s WHERE s.acquirer_id = t.acquirer_id AND s.business_date = t.business_date AND s.merchant_id = t.merchant_id
                  AND s.currency = t.currency AND s.state <> 'priced') GROUP BY t.currency"""
# What was decided after its day was taken, and all that follows the same original: what it is worth now, over what was settled of it.
LATE = f"""
WITH kin AS (
    SELECT transaction_id FROM late_change WHERE merchant_id = $1 AND settled_on IS NULL
    UNION SELECT t.original_id FROM late_change l JOIN history_transaction t USING (merchant_id, transaction_id)
      WHERE l.merchant_id = $1 AND l.settled_on IS NULL AND t.original_id IS NOT NULL
), late AS (
    SELECT transaction_id FROM kin
    UNION SELECT t.transaction_id FROM kin JOIN history_transaction t ON t.merchant_id = $1 AND t.original_id = kin.transaction_id)
SELECT t.currency, sum({GROSS} - s.settled)::bigint AS gross FROM late
JOIN history_transaction t ON t.merchant_id = $1 AND t.transaction_id = late.transaction_id {ORIGINAL}
CROSS JOIN LATERAL (SELECT coalesce(sum(l.gross), 0)::bigint AS settled FROM settlement_line l
  WHERE l.merchant_id = $1 AND l.transaction_id = t.transaction_id) s
WHERE NOT EXISTS (SELECT FROM unnest($2::uuid[], $3::date[]) AS d(acquirer_id, business_date)
  WHERE d.acquirer_id = t.acquirer_id AND d.business_date = t.business_date) GROUP BY t.currency"""
ACCOUNTS = "SELECT currency, state FROM bank_account WHERE merchant_id = $1 AND state IN ('active', 'suspended')"
NOT_DUE = """SELECT currency, sum(net - reserve_held)::bigint AS amount, min(due_on) AS next_due_on FROM settlement
WHERE merchant_id = $1 AND state <> 'priced' AND due_on > $2 AND payout_id IS NULL GROUP BY currency"""
HELD = "SELECT currency FROM merchant_hold WHERE merchant_id = $1 AND amount IS NULL AND released_at IS NULL"
# The dispute account is only passed through: the money of an open dispute is with the issuer.
DISPUTED = """SELECT currency, sum(charged)::bigint AS amount FROM dispute WHERE merchant_id = $1 AND closed_at IS NULL AND charged > 0
GROUP BY currency"""
MERCHANT = """SELECT minimum_payout, (now() AT TIME ZONE time_zone)::date AS today, now() AS at FROM directory_merchant WHERE merchant_id = $1"""
# A page of each account at most, however long they are.
ENTRIES = """SELECT e.transfer_id, a.kind, e.amount, e.currency, e.cause, e.object, e.business_date, e.posted_at, e.note, e.corrects
FROM account a CROSS JOIN LATERAL (
    SELECT * FROM ledger_entry e WHERE e.account_id = a.account_id AND ($4::timestamptz IS NULL OR e.posted_at >= $4)
      AND ($5::timestamptz IS NULL OR e.posted_at < $5) AND ($6::uuid IS NULL OR e.transfer_id < $6) ORDER BY e.transfer_id DESC LIMIT $7) e
WHERE a.merchant_id = $1 AND ($2::text IS NULL OR a.kind = $2) AND ($3::text IS NULL OR a.currency = $3)
ORDER BY e.transfer_id DESC, a.kind LIMIT $7"""


def figures(row: asyncpg.Record) -> dict[str, Any]:
    """Of a settlement with what moved beside it, as JSON."""
    release_on = row["reserve_release_on"]
    return {**{name: row[name] for name in FIGURES}, "extra_fees": json.loads(row["extras"]), "business_date": row["business_date"].isoformat(),
            "reserve_release_on": None if release_on is None else release_on.isoformat(), "due_on": row["due_on"].isoformat()}


class Settlements:
    """Raises Problem: not_found, not_ready (the database is away)."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @asynccontextmanager
    async def _snapshot(self) -> AsyncIterator[Connection]:
        try:
            async with self.pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
                yield connection
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None

    async def page(self, wanted: Wanted, limit: int) -> list[asyncpg.Record]:
        """Newest first, at most `limit`."""
        async with self._snapshot() as connection:
            return await connection.fetch(PAGE, wanted.merchant_id, wanted.stated, wanted.acquirer_id, wanted.currency, wanted.since, wanted.until,
                                          wanted.before, min(limit, PAGE_MAX + 1))

    async def one(self, settlement_id: UUID, merchant_id: UUID | None, stated: bool) -> asyncpg.Record:
        async with self._snapshot() as connection:
            return await _one(connection, settlement_id, merchant_id, stated)

    async def lines(self, settlement_id: UUID, merchant_id: UUID | None, stated: bool, limit: int, *, store_id: UUID | None = None,
                    terminal_id: UUID | None = None, brand: str | None = None, for_date: date | None = None,
                    before: UUID | None = None) -> list[asyncpg.Record]:
        """Of one settlement, newest first, at most `limit`."""
        async with self._snapshot() as connection:
            await _one(connection, settlement_id, merchant_id, stated)
            return await connection.fetch(LINES, settlement_id, store_id, terminal_id, brand, for_date, before, min(limit, PAGE_MAX + 1))

    async def balances(self, merchant_id: UUID) -> tuple[datetime, list[Balance]]:
        """When, and what stands then, one for each currency of the merchant."""
        async with self._snapshot() as connection:
            return await balances(connection, merchant_id)

    async def entries(self, merchant_id: UUID, limit: int, *, account: str | None = None, currency: str | None = None,
                      since: datetime | None = None, until: datetime | None = None, before: UUID | None = None) -> list[asyncpg.Record]:
        """The transfers of a merchant's accounts, newest first; `amount` is signed, positive for the merchant. One between two of them is two."""
        async with self._snapshot() as connection:
            return await connection.fetch(ENTRIES, merchant_id, account, currency, since, until, before, limit)


async def _one(connection: Connection, settlement_id: UUID, merchant_id: UUID | None, stated: bool) -> asyncpg.Record:
    row = await connection.fetchrow(ONE, settlement_id, merchant_id, stated)
    if row is None:
        raise Problem("not_found")
    return row


async def balances(connection: Connection, merchant_id: UUID) -> tuple[datetime, list[Balance]]:
    """In the caller's snapshot. Raises Problem not_found: no such merchant."""
    merchant = await connection.fetchrow(MERCHANT, merchant_id)
    if merchant is None:
        raise Problem("not_found")
    days = await connection.fetch(UNFINISHED)
    since = lowest(min((day["opened_at"] for day in days), default=merchant["at"]) - CLOCKS)
    open_days = [day["acquirer_id"] for day in days], [day["business_date"] for day in days]
    not_settled: Counter[str] = Counter()
    for row in (*await connection.fetch(NOT_SETTLED, merchant_id, since, *open_days), *await connection.fetch(LATE, merchant_id, *open_days)):
        not_settled[row["currency"]] += row["gross"]
    not_due = {row["currency"]: row for row in await connection.fetch(NOT_DUE, merchant_id, merchant["today"])}
    held = {row["currency"] for row in await connection.fetch(HELD, merchant_id)}
    disputed = {row["currency"]: row["amount"] for row in await connection.fetch(DISPUTED, merchant_id)}
    where_to = {row["currency"]: row["state"] for row in await connection.fetch(ACCOUNTS, merchant_id)}
    accounts = {(account.kind, account.currency): amount for account, amount in (await ledger.balances(connection, merchant_id)).items()}
    found = []
    for currency in sorted({currency for _, currency in accounts} | set(not_settled)):
        later, posted = not_due.get(currency), accounts.get(("merchant", currency), 0)
        waits, next_due_on = (0, None) if later is None else (later["amount"], later["next_due_on"])
        reserved, on_hold, in_payout = (accounts.get((kind, currency), 0) for kind in ("reserve", "hold", "payout"))
        free = payable(posted, waits, merchant["minimum_payout"], currency in held)
        found.append(Balance(currency, posted, not_settled[currency], waits, reserved, on_hold, in_payout, disputed.get(currency, 0), free,
                             why_not(free, where_to.get(currency)), next_due_on))
    return merchant["at"], found
