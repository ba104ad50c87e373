"""Payouts are asked for: what is due to each merchant moves from its balance to what is on its way, in one commit each.

A run reads what stands in the books, so that it may be called again at any time, and by several at once: what was asked for is no longer in the
balance. What the bank gave back is, and is paid again when the account has been agreed anew.
"""

from datetime import UTC, date, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import show
from switch.notices import tell
from switch.settlement import ledger
from switch.settlement.funding import reserves
from switch.settlement.funding.business_days import Days
from switch.settlement.funding.payable import Shares, shares
from switch.settlement.payouts import life
from switch.settlement.payouts.bank_accounts import new_id
from switch.settlement.payouts.life import Payout

AT_ONCE, PAGE_MAX = 500, 200
RUN_LOCK = 3583037

CANDIDATES = """
SELECT a.merchant_id, a.currency FROM account a
WHERE a.kind = 'merchant' AND ($1::uuid IS NULL OR a.merchant_id = $1) AND ($2::text IS NULL OR a.currency = $2)
  AND ($3::uuid IS NULL OR (a.merchant_id, a.currency) > ($3, $4::text))
  AND coalesce((SELECT sum(t.amount) FROM transfer t WHERE t.credit_account = a.account_id), 0)
    <> coalesce((SELECT sum(t.amount) FROM transfer t WHERE t.debit_account = a.account_id), 0)
ORDER BY a.merchant_id, a.currency LIMIT $5"""
# One statement is one snapshot: a day that is posted meanwhile is in both sums or in none.
DUE = """
SELECT m.minimum_payout, m.calendar, d.today, b.bank_account_id, b.state AS account,
  coalesce((SELECT sum(e.amount) FROM ledger_entry e JOIN account a USING (account_id)
            WHERE a.kind = 'merchant' AND a.merchant_id = $1 AND a.currency = $2), 0)::bigint AS balance,
  coalesce((SELECT sum(s.net - s.reserve_held) FROM settlement s WHERE s.merchant_id = $1 AND s.currency = $2 AND s.state <> 'priced'
            AND s.due_on > d.today AND s.payout_id IS NULL), 0)::bigint AS not_due,
  EXISTS (SELECT FROM merchant_hold h WHERE h.merchant_id = $1 AND h.currency = $2 AND h.amount IS NULL AND h.released_at IS NULL) AS held,
  ARRAY(SELECT s.settlement_id FROM settlement s WHERE s.merchant_id = $1 AND s.currency = $2 AND s.state <> 'priced' AND s.due_on <= d.today
        AND s.payout_id IS NULL) AS settlements
FROM merchant m CROSS JOIN LATERAL (SELECT coalesce($3::date, (now() AT TIME ZONE m.time_zone)::date) AS today) d
LEFT JOIN bank_account b ON b.merchant_id = m.merchant_id AND b.currency = $2 AND b.state IN ('active', 'suspended')
WHERE m.merchant_id = $1"""
ASK = """INSERT INTO payout (merchant_id, payout_id, currency, amount, bank_account_id, end_to_end_id, requested_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)"""
PAID = "UPDATE settlement SET payout_id = $3 WHERE merchant_id = $1 AND settlement_id = ANY($2::uuid[])"

SHOWN = """p.payout_id, p.merchant_id, p.currency, p.amount, p.state, p.file_id, p.end_to_end_id, p.reason, p.requested_by, p.requested_at, p.sent_at,
p.confirmed_at, p.returned_at, p.bank_account_id, b.holder, b.last4"""
PAGE = f"""SELECT {SHOWN} FROM payout p JOIN bank_account b USING (bank_account_id) WHERE ($1::uuid IS NULL OR p.merchant_id = $1)
AND ($2::text IS NULL OR p.state = $2) AND ($3::text IS NULL OR p.currency = $3) AND ($4::uuid IS NULL OR p.file_id = $4)
AND ($5::uuid IS NULL OR p.payout_id < $5) ORDER BY p.payout_id DESC LIMIT $6"""
ONE = f"""SELECT {SHOWN}, ARRAY(SELECT s.settlement_id FROM settlement s WHERE s.merchant_id = p.merchant_id AND s.payout_id = p.payout_id
  ORDER BY s.settlement_id) AS settlements
FROM payout p JOIN bank_account b USING (bank_account_id) WHERE p.payout_id = $1 AND ($2::uuid IS NULL OR p.merchant_id = $2)"""


class Outcome(NamedTuple):
    """What a run did about one merchant and currency. `payout_id`: None when nothing was paid, and `shares.reason` says why."""

    merchant_id: UUID
    currency: str
    shares: Shares
    payout_id: UUID | None


class Run(NamedTuple):
    outcomes: list[Outcome]
    more: bool  # it was bounded: call again, `after` the last outcome


async def run(pool: Pool, by: str, *, merchant_id: UUID | None = None, currency: str | None = None, after: tuple[UUID, str] | None = None,
              limit: int = AT_ONCE, today: date | None = None) -> Run:
    """Asks for what is due, a commit for each merchant and currency. `today`: the merchants' own days unless a test says otherwise.

    Raises Problem not_ready: what was committed stays; call again.
    """
    try:
        async with pool.acquire() as connection:
            while True:
                async with connection.transaction():
                    if not await reserves.release(connection, today or datetime.now(UTC).date()):
                        break
            found = await connection.fetch(CANDIDATES, merchant_id, currency, *(after or (None, None)), limit + 1, timeout=60)
            days = Days(connection)
            outcomes = [await _pay(connection, row["merchant_id"], row["currency"], by, today, days) for row in found[:limit]]
            return Run(outcomes, len(found) > limit)
    except UNKNOWN:
        raise Problem("not_ready", "The database went away. Call it again: nothing is paid twice.", retry_after=2) from None


async def _pay(connection: Connection, merchant_id: UUID, currency: str, by: str, today: date | None, days: Days) -> Outcome:
    async with connection.transaction():
        # Taken before anything is read: who waits here reads what the other has committed.
        await connection.execute("SELECT pg_advisory_xact_lock($1, hashtext($2))", RUN_LOCK, f"{merchant_id} {currency}")
        row = await connection.fetchrow(DUE, merchant_id, currency, today)
        assert row is not None
        works = (await days.calendar(row["calendar"], row["today"])).counts(row["today"])
        found = shares(row["balance"], row["not_due"], row["minimum_payout"], row["held"], row["account"], works)
        if not found.paid:
            return Outcome(merchant_id, currency, found, None)
        asked = Payout(merchant_id, new_id(), currency, found.paid)
        await connection.execute(ASK, merchant_id, asked.payout_id, currency, asked.amount, row["bank_account_id"], asked.payout_id.hex, by)
        await connection.execute(PAID, merchant_id, row["settlements"], asked.payout_id)
        await ledger.post(connection, life.requested(asked, row["today"]))
        await told(connection, asked, "requested")
        failpoint("payout.requested")
    return Outcome(merchant_id, currency, found, asked.payout_id)


async def told(connection: Connection, about: Payout, state: str, reason: str = "") -> None:
    """A payout moved: its merchant is told in the same commit."""
    await tell(connection, about.merchant_id, f"payout.{state}", show("payout", about.payout_id),
               {"id": show("payout", about.payout_id), "state": state, "amount": about.amount, "currency": about.currency, "reason": reason})


class Payouts:
    """Reads. Raises Problem: not_found, not_ready."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def page(self, merchant_id: UUID | None, state: str | None, currency: str | None, file_id: UUID | None, before: UUID | None,
                   limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        return await self._fetch(PAGE, merchant_id, state, currency, file_id, before, min(limit, PAGE_MAX + 1))

    async def one(self, payout_id: UUID, merchant_id: UUID | None) -> asyncpg.Record:
        """With the settlements that it pays."""
        found = await self._fetch(ONE, payout_id, merchant_id)
        if not found:
            raise Problem("not_found")
        return found[0]

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.pool.fetch(statement, *arguments)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
