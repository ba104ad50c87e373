"""Terminal batches: what a terminal counted since its last close, compared with our books in one commit, and kept as it was found."""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from messages.dialect import load
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import lowest, show, uuid7
from switch.settlement.batches import totals
from switch.settlement.batches.totals import Entry, Sums
from switch.settlement.batches.wording import BATCH_CLOSE

PAGE_MAX = 200
ENTRIES_MAX = 20_000
LOOK_BACK = timedelta(days=2)  # before the last close: what was closed then and is worth something else now
FIRST = timedelta(days=31)  # of a terminal that never closed
CLOSE_S = 8.0

LOCK = "SELECT pg_advisory_xact_lock(3583015, hashtext($1))"
LAST = "SELECT number, closed_at, now() AS now FROM terminal_batch WHERE terminal_id = $1 ORDER BY number DESC LIMIT 1"
NOW = "SELECT now()"
OPEN = """SELECT EXISTS (SELECT FROM transaction WHERE merchant_id = $1 AND transaction_id >= $2 AND terminal_id = $3 AND caller = $3
AND state = 'SENT' AND exchange = 'request')"""
# What the terminal's own doing is worth to its merchant now. An advice says what has happened, so it counts from its intent on; the capture that
# a dual-message sale owes by itself is counted with the sale.
WORTH = """CASE WHEN NOT (t.state IN ('APPROVED', 'CONFIRMED') OR t.exchange = 'advice' AND t.state = 'SENT') THEN 0
  WHEN t.type = 'refund' THEN -t.amount
  WHEN t.type IN ('capture', 'tip') THEN CASE WHEN t.idempotency_key IS NOT NULL AND o.state IN ('APPROVED', 'CONFIRMED') AND o.voided = 0
                                              THEN t.amount ELSE 0 END
  WHEN t.type = 'offline_sale' OR t.type IN ('purchase', 'cash_advance') AND t.capture_method = 'automatic'
    THEN CASE WHEN t.voided = 0 THEN coalesce(t.approved_amount, t.amount) ELSE 0 END
  ELSE 0 END"""
ENTRIES = f"""
SELECT w.transaction_id, w.acquirer_id, w.currency, (w.worth - w.before)::bigint AS amount FROM (
  SELECT t.transaction_id, t.acquirer_id, t.currency, {WORTH} AS worth,
    coalesce((SELECT sum(e.amount) FROM batch_entry e WHERE e.merchant_id = t.merchant_id AND e.transaction_id = t.transaction_id), 0) AS before
  FROM transaction t LEFT JOIN transaction o ON o.merchant_id = t.merchant_id AND o.transaction_id = t.original_id
  WHERE t.merchant_id = $1 AND t.transaction_id >= $2 AND t.terminal_id = $3 AND t.caller = $3) w
WHERE w.worth <> w.before ORDER BY w.transaction_id LIMIT $4"""
# What was sold and voided since the last close, or before it by a commit that came late: nothing between terminal and books, but some hosts count
# both. The void of a capture, and of a sale with its tip, names what these followed.
ADD_VOIDS = """WITH added AS (INSERT INTO batch_void (merchant_id, transaction_id, void_id, batch_id, amount)
  SELECT t.merchant_id, t.transaction_id, v.transaction_id, $4, coalesce(t.approved_amount, t.amount) FROM transaction t
  JOIN transaction v ON v.merchant_id = t.merchant_id AND v.original_id = coalesce(t.original_id, t.transaction_id) AND v.type = 'void'
    AND v.state IN ('APPROVED', 'CONFIRMED')
  WHERE t.merchant_id = $1 AND t.transaction_id >= $2 AND t.terminal_id = $3 AND t.caller = $3 AND t.state IN ('APPROVED', 'CONFIRMED')
    AND (t.voided > 0 OR t.original_id IS NOT NULL) AND (t.type IN ('capture', 'tip') AND t.idempotency_key IS NOT NULL OR t.type = 'offline_sale'
         OR t.type IN ('purchase', 'cash_advance') AND t.capture_method = 'automatic')
    AND NOT EXISTS (SELECT FROM batch_entry e WHERE e.merchant_id = t.merchant_id AND e.transaction_id = t.transaction_id)
  ON CONFLICT DO NOTHING RETURNING transaction_id)
SELECT t.acquirer_id, t.currency FROM added a JOIN transaction t ON t.merchant_id = $1 AND t.transaction_id = a.transaction_id GROUP BY 1, 2"""
ADD = """INSERT INTO terminal_batch (merchant_id, batch_id, terminal_id, number, opened_at, in_balance, totals, differences)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb)"""
ADD_ENTRIES = """INSERT INTO batch_entry (merchant_id, transaction_id, batch_id, amount)
SELECT $1, e.transaction_id, $3, e.amount FROM unnest($2::uuid[], $4::bigint[]) AS e(transaction_id, amount)"""
ADD_TOTAL = """INSERT INTO batch_total (merchant_id, batch_id, acquirer_id, currency, terminal_id, business_date, sales_count, sales, refunds_count,
refunds, state) SELECT $1, $2, $3, $4, $5, coalesce((SELECT max(d.business_date) FROM business_day d WHERE d.acquirer_id = $3 AND d.state = 'open'),
  (now() AT TIME ZONE 'UTC')::date), $6, $7, $8, $9, $10"""
TERMS = """SELECT a.acquirer_id, a.dialect, coalesce(b.forward, false) AS forward FROM acquirer a LEFT JOIN batch_terms b USING (acquirer_id)
WHERE a.acquirer_id = ANY($1::uuid[])"""
COLUMNS = "merchant_id, batch_id, terminal_id, number, opened_at, closed_at, in_balance, totals, differences"
ONE = f"SELECT {COLUMNS} FROM terminal_batch WHERE batch_id = $1 AND terminal_id = $2 AND ($3::uuid IS NULL OR merchant_id = $3)"
PAGE = f"""SELECT {COLUMNS} FROM terminal_batch WHERE terminal_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2)
AND ($3::uuid IS NULL OR number < (SELECT number FROM terminal_batch WHERE batch_id = $3)) ORDER BY number DESC LIMIT $4"""
TOTALS = """SELECT acquirer_id, currency, sales_count, sales, refunds_count, refunds, state, transmissions, answered_at, code,
  (SELECT CASE WHEN bool_or(u.state = 'waiting') THEN 'waiting' WHEN bool_or(u.state = 'refused') THEN 'refused'
          WHEN bool_or(u.state = 'accepted') THEN 'accepted' END
   FROM batch_upload u WHERE u.merchant_id = b.merchant_id AND u.batch_id = b.batch_id AND u.acquirer_id = b.acquirer_id
     AND u.currency = b.currency) AS upload
FROM batch_total b
WHERE merchant_id = (SELECT merchant_id FROM terminal_batch WHERE batch_id = $1) AND batch_id = $1 ORDER BY acquirer_id, currency"""
SET_TERMS = """INSERT INTO batch_terms (acquirer_id, forward) SELECT acquirer_id, $2 FROM acquirer WHERE acquirer_id = $1
ON CONFLICT (acquirer_id) DO UPDATE SET forward = EXCLUDED.forward RETURNING forward"""


@dataclass(frozen=True, slots=True)
class Counted:
    """What a terminal says: sums by currency, and, if it likes, each transaction with its signed amount."""

    sums: Mapping[str, Sums]
    listed: Mapping[UUID, int] | None


class Closed(NamedTuple):
    """A batch with what its acquirers say."""

    row: asyncpg.Record
    acquirers: Sequence[asyncpg.Record]


class Batches:
    """Raises Problem: not_found, follow_up_open, not_supported, not_ready."""

    def __init__(self, readers: Pool, writers: Pool) -> None:
        self.readers, self.writers = readers, writers

    async def close(self, connection: Connection, merchant_id: UUID, terminal_id: UUID, counted: Counted) -> Closed:
        """Closes the terminal's batch, in the caller's database transaction. In balance or not, it is closed: the next begins here."""
        await connection.execute(LOCK, str(terminal_id))
        last = await connection.fetchrow(LAST, terminal_id)
        now: datetime = await connection.fetchval(NOW)
        since = lowest(last["closed_at"] - LOOK_BACK if last is not None else now - FIRST)
        if await connection.fetchval(OPEN, merchant_id, since, terminal_id, timeout=CLOSE_S):
            raise Problem("follow_up_open", "A payment of this terminal has no outcome yet.", retry_after=2)
        rows = await connection.fetch(ENTRIES, merchant_id, since, terminal_id, ENTRIES_MAX + 1, timeout=CLOSE_S)
        if len(rows) > ENTRIES_MAX:
            raise Problem("not_supported", f"A batch has at most {ENTRIES_MAX} transactions; close more often.")
        entries = [Entry(*row) for row in rows]
        books = totals.sums(entries)
        in_balance = totals.balanced(counted.sums, books) and (counted.listed is None or not totals.differences({}, entries, counted.listed))
        differing = [] if in_balance else totals.differences(counted.sums, entries, counted.listed)
        batch_id = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        shown = [{"currency": currency, "terminal": counted.sums.get(currency, Sums())._asdict(), "books": books.get(currency, Sums())._asdict(),
                  "difference": _difference(counted.sums.get(currency, Sums()), books.get(currency, Sums()))}
                 for currency in sorted(counted.sums.keys() | books.keys())]
        which = [{"kind": each.kind, "transaction": show("transaction", each.transaction_id), "terminal_amount": each.terminal_amount,
                  "books_amount": each.books_amount} for each in differing]
        await connection.execute(ADD, merchant_id, batch_id, terminal_id, last["number"] + 1 if last else 1, last["closed_at"] if last else None,
                                 in_balance, json.dumps(shown), json.dumps(which))
        if entries:
            await connection.execute(ADD_ENTRIES, merchant_id, [entry.transaction_id for entry in entries], batch_id,
                                     [entry.amount for entry in entries])
        voided = [tuple(row) for row in await connection.fetch(ADD_VOIDS, merchant_id, since, terminal_id, batch_id, timeout=CLOSE_S)]
        if entries or voided:
            await self._totals(connection, merchant_id, batch_id, terminal_id, entries, voided)
        return await _whole(connection, batch_id, terminal_id)

    async def _totals(self, connection: Connection, merchant_id: UUID, batch_id: UUID, terminal_id: UUID, entries: Sequence[Entry],
                      voided: Sequence[tuple[UUID, str]]) -> None:
        """Per acquirer and currency; a host that counts voids is told of those alone, too."""
        acquirers = {entry.acquirer_id for entry in entries} | {acquirer_id for acquirer_id, _ in voided}
        for row in sorted(await connection.fetch(TERMS, list(acquirers)), key=itemgetter("acquirer_id")):
            acquirer_id, dialect = row["acquirer_id"], load(row["dialect"])
            forwarded = row["forward"] and BATCH_CLOSE in dialect.messages
            alone = {currency: Sums() for each, currency in voided if each == acquirer_id and forwarded and dialect.batch.voids}
            for currency, of in (alone | totals.sums(entry for entry in entries if entry.acquirer_id == acquirer_id)).items():
                await connection.execute(ADD_TOTAL, merchant_id, batch_id, acquirer_id, currency, terminal_id, *of,
                                         "waiting" if forwarded else "not_forwarded")

    async def one(self, batch_id: UUID, terminal_id: UUID, merchant_id: UUID | None) -> Closed:
        try:
            async with self.readers.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
                return await _whole(connection, batch_id, terminal_id, merchant_id)
        except UNKNOWN:
            raise _away() from None

    async def page(self, terminal_id: UUID, merchant_id: UUID | None, before: UUID | None, limit: int) -> list[Closed]:
        """The latest first."""
        try:
            async with self.readers.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
                rows = await connection.fetch(PAGE, terminal_id, merchant_id, before, min(limit, PAGE_MAX + 1))
                return [Closed(row, await connection.fetch(TOTALS, row["batch_id"])) for row in rows]
        except UNKNOWN:
            raise _away() from None

    async def set_forward(self, acquirer_id: UUID, forward: bool) -> bool:
        """Whether an acquirer gets the totals of batches from now on. Raises Problem also when its dialect has no such message."""
        try:
            async with self.writers.acquire() as connection, connection.transaction():
                known = await connection.fetch(TERMS, [acquirer_id])
                if not known:
                    raise Problem("not_found")
                if forward and BATCH_CLOSE not in load(known[0]["dialect"]).messages:
                    raise Problem("not_supported", "The acquirer's dialect has no message for it.")
                return bool(await connection.fetchval(SET_TERMS, acquirer_id, forward))
        except UNKNOWN:
            raise _away() from None

    async def forward(self, acquirer_id: UUID) -> bool:
        try:
            known = await self.readers.fetch(TERMS, [acquirer_id])
        except UNKNOWN:
            raise _away() from None
        if not known:
            raise Problem("not_found")
        return bool(known[0]["forward"])


async def _whole(connection: Connection, batch_id: UUID, terminal_id: UUID, merchant_id: UUID | None = None) -> Closed:
    row = await connection.fetchrow(ONE, batch_id, terminal_id, merchant_id)
    if row is None:
        raise Problem("not_found")
    return Closed(row, await connection.fetch(TOTALS, batch_id))


def _difference(counted: Sums, books: Sums) -> dict[str, Any]:
    """The terminal's figures less ours."""
    return {name: mine - ours for name, mine, ours in zip(Sums._fields, counted, books, strict=True)}


def _away() -> Problem:
    return Problem("not_ready", "The books do not answer just now.", retry_after=2)
