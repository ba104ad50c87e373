"""The rows of a closed day's batch, in the order in which they are priced, seen as of one instant.

First the keys are gathered, in pieces, into a temporary table that is in that order; then the rows are read by them. A sort of the whole day
would hold a core for a second per 150,000 rows, and payments beside it would wait.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import date
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Connection
from switch.settlement.cutover.tempo import Tempo

STATEMENT_S = 3600.0


class Day(NamedTuple):
    acquirer_id: UUID
    business_date: date


_SETTLED_AT_ONCE = "(t.type = 'offline_sale' OR t.type IN ('purchase', 'cash_advance') AND t.capture_method = 'automatic' AND t.mti LIKE '02%')"
# Minor units, from the merchant's point of view. A dual-message sale and what is captured by hand settle by their captures. A void takes all.
GROSS = f"""CASE WHEN t.state NOT IN ('APPROVED', 'CONFIRMED') THEN 0
  WHEN t.type = 'refund' THEN -t.amount
  WHEN t.type IN ('capture', 'tip') THEN CASE WHEN o.state IN ('APPROVED', 'CONFIRMED') AND o.voided = 0 THEN t.amount ELSE 0 END
  WHEN {_SETTLED_AT_ONCE} AND t.voided = 0 THEN coalesce(t.approved_amount, t.amount) ELSE 0 END"""
ORIGINAL = "LEFT JOIN history_transaction o ON o.transaction_id = t.original_id AND t.type IN ('capture', 'tip')"
# Whoever waits in late_change, with its original and all that follows the same one: an outcome of one may change what the others are worth.
FAMILY = """
SELECT merchant_id, transaction_id FROM late_change WHERE acquirer_id = $1 AND settled_on IS NULL
UNION SELECT t.merchant_id, t.original_id FROM late_change l JOIN history_transaction t USING (merchant_id, transaction_id)
  WHERE l.acquirer_id = $1 AND l.settled_on IS NULL AND t.original_id IS NOT NULL"""

KEYS = """CREATE TEMPORARY TABLE IF NOT EXISTS batch_key (merchant_id uuid, currency text, captured_at timestamptz, transaction_id uuid, late bool,
  PRIMARY KEY (merchant_id, currency, captured_at, transaction_id)) ON COMMIT DELETE ROWS"""
# Each row by its index: a hash of all transactions that there are would not end, and a sort of the day is what the keys are for.
JOINS = "SET LOCAL enable_hashjoin = off; SET LOCAL enable_mergejoin = off"
PLANS = "; ".join(f"SET LOCAL enable_{way} = off" for way in ("seqscan", "bitmapscan", "sort", "incremental_sort"))
_KEY = "t.merchant_id, t.currency, coalesce(t.outcome_at, t.received_at), t.transaction_id"
_TAKEN = """t.business_date = $2 AND t.state IN ('APPROVED', 'CONFIRMED')
  AND t.type IN ('purchase', 'cash_advance', 'offline_sale', 'capture', 'tip', 'refund')"""
# A day's own numbers begin with it (links/numbering.py), so their index is a way through the day that can be left and gone on.
_NUMBERS = "(to_char($2::date, 'YDDD') || '00000000') AND (to_char($2::date, 'YDDD') || '99999999')"
PIECE = f"""
WITH piece AS MATERIALIZED (
  SELECT rrn, merchant_id, currency, outcome_at, received_at, transaction_id, business_date, state, type FROM history_transaction
  WHERE acquirer_id = $1 AND business_date = $2 AND rrn BETWEEN {_NUMBERS} AND rrn > $3 ORDER BY rrn LIMIT $4
), kept AS (INSERT INTO batch_key SELECT {_KEY}, false FROM piece t WHERE {_TAKEN})
SELECT max(rrn) FROM piece"""
OTHER_NUMBERS = f"""
INSERT INTO batch_key SELECT {_KEY}, false FROM history_transaction t WHERE t.acquirer_id = $1 AND t.rrn NOT BETWEEN {_NUMBERS} AND {_TAKEN}"""
LATE = f"""
INSERT INTO batch_key
WITH kin AS ({FAMILY}), late AS (
  SELECT merchant_id, transaction_id FROM kin
  UNION SELECT t.merchant_id, t.transaction_id FROM kin k
    JOIN history_transaction t ON t.merchant_id = k.merchant_id AND t.original_id = k.transaction_id
)
SELECT {_KEY}, true FROM late JOIN history_transaction t USING (merchant_id, transaction_id) {ORIGINAL}
WHERE t.acquirer_id = $1 AND t.business_date < $2 AND t.state NOT IN ('SENT', 'REVERSING', 'PARKED')
  AND coalesce(o.state, t.state) NOT IN ('SENT', 'REVERSING', 'PARKED')"""
# OFFSET: the other way round is all transactions that there are, each looked for among the keys.
# What has a settlement of this day was written before a restart. What was settled before of what came late is read from its lines.
ROWS = f"""
SELECT * FROM (
  SELECT k.merchant_id, k.currency, k.captured_at, k.transaction_id, t.type, t.business_date AS for_date,
    coalesce(o.business_date, t.business_date) AS authorised_on, t.original_id, t.store_id, t.terminal_id, t.brand, t.entry_mode, t.mcc,
    t.masked_pan, t.card_last4, t.rrn, t.stan, t.acquirer_rrn, t.approval_code, t.reference, coalesce(o.refunded, t.refunded) > 0 AS given_back,
    {GROSS} AS gross, s.gross AS settled, s.of_month, s.fee, s.interchange, s.scheme_fee, s.acquirer_fee
  FROM batch_key k CROSS JOIN LATERAL (SELECT * FROM history_transaction t
    WHERE t.merchant_id = k.merchant_id AND t.transaction_id = k.transaction_id OFFSET 0) t {ORIGINAL}
  CROSS JOIN LATERAL (SELECT coalesce(sum(l.gross), 0)::bigint AS gross, coalesce(sum(l.fee), 0)::bigint AS fee,
    coalesce(sum(l.gross) FILTER (WHERE l.business_date >= date_trunc('month', $2::date)::date), 0)::bigint AS of_month,
    coalesce(sum(l.interchange), 0)::bigint AS interchange, coalesce(sum(l.scheme_fee), 0)::bigint AS scheme_fee,
    coalesce(sum(l.acquirer_fee), 0)::bigint AS acquirer_fee
    FROM settlement_line l WHERE k.late AND l.merchant_id = k.merchant_id AND l.transaction_id = k.transaction_id) s
) AS b WHERE b.gross <> b.settled
  AND NOT EXISTS (SELECT FROM settlement s WHERE s.acquirer_id = $1 AND s.business_date = $2 AND s.merchant_id = b.merchant_id)
ORDER BY b.merchant_id, b.currency, b.captured_at, b.transaction_id"""


async def prepare(reader: Connection) -> None:
    """Before the transaction: one that only reads may fill the table, but not make it."""
    await reader.execute(KEYS)


async def gather(reader: Connection, day: Day, pace: Tempo) -> None:
    """The keys of the day, and of what came late. Within a transaction of `reader`, whose rows are seen as of its first statement."""
    await reader.execute(PLANS)
    last: str | None = ""
    while last is not None:
        last = await reader.fetchval(PIECE, *day, last, pace.keys, timeout=STATEMENT_S)
        await asyncio.sleep(pace.pause_s)
    await reader.execute("SET LOCAL enable_bitmapscan = on")  # the index of dates knows pages, not rows
    await reader.execute(OTHER_NUMBERS, *day, timeout=STATEMENT_S)
    await reader.execute("SET LOCAL enable_bitmapscan = off")
    await reader.execute(LATE, *day, timeout=STATEMENT_S)


async def in_order(reader: Connection, day: Day, pace: Tempo) -> AsyncIterator[asyncpg.Record]:
    """By merchant, currency, time of capture and id. Within the transaction in which they were gathered. The next rows are read meanwhile."""
    cursor = await reader.cursor(ROWS, *day, timeout=STATEMENT_S)
    ahead = asyncio.create_task(cursor.fetch(pace.lines, timeout=STATEMENT_S))
    try:
        while rows := await ahead:
            ahead = asyncio.create_task(cursor.fetch(pace.lines, timeout=STATEMENT_S))
            for row in rows:
                yield row
    finally:
        await asyncio.wait([ahead])  # or whoever gives up could not end the transaction
