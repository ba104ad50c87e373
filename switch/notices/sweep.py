"""Events about transactions, found by reading what was decided: the payments themselves write nothing for it.

Why no row is missed, although ids and outcomes do not become visible in their order:
- What is read is a window, not what is newer than the last one seen, and a row that was told already is known by its event (unique per object
  and type). So a row that becomes visible late is found by the next look, as long as its id is within the window.
- The short window covers the longest answer timeout and is read every two seconds. The long one begins at the cursor, which stays OVERLAP
  behind now, and is read every few minutes: for machines whose clock is behind, and for commits that took minutes.
- An outcome exists only for an intent that was durable before its request left, two seconds after the id was made. So an id that becomes
  visible later than OVERLAP was never sent: it has no outcome, and what is made of it, its reversal, is told from the duty.
- What has no outcome yet when the cursor passes is noted first and asked after for as long as it takes. In this order: noting reads before
  telling reads, so an outcome that comes between the two is told, and one that comes after both was noted.
- Reversals are read by the time of their close, in the same two windows; closing commits take milliseconds, and OVERLAP is minutes.
"""

import asyncio
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch import logs
from switch.database import UNKNOWN, Connection, Pool
from switch.ids import lowest, show
from switch.notices import webhooks
from switch.notices.events import Event, tell_all
from switch.notices.subscribed import Subscribed

POLL_S = 0.5
EVERY = timedelta(seconds=2)  # a merchant is looked at so often, whatever the number of workers
WHOLE_EVERY = timedelta(minutes=5)
RECENT = timedelta(seconds=45)
OVERLAP = timedelta(minutes=15)
MERCHANTS_MAX = 50
PAGE = 100  # the hot path shares the loop: what is made of a page is a millisecond's work
PAGES_MAX = 100  # of a merchant in one turn: after a long stand-still the rest comes with the next
OF_SWEEP = sorted({*webhooks.APPROVED.values(), *webhooks.DECIDED.values(), *webhooks.CLOSED.values(), "*"})
OF_CLOSE = sorted(webhooks.CLOSED.values())

CLAIM = """
SELECT c.merchant_id, c.read_to, c.closed_to, c.whole_at <= now() - $2::interval AS whole, now() AS now,
  (SELECT min(w.since) FROM webhook_endpoint w WHERE w.merchant_id = c.merchant_id AND w.state = 'enabled') AS since,
  ARRAY(SELECT DISTINCT type FROM webhook_endpoint w, unnest(w.types) AS type WHERE w.merchant_id = c.merchant_id AND w.state = 'enabled') AS wanted
FROM webhook_cursor c WHERE c.swept_at <= now() - $1::interval AND EXISTS (SELECT FROM webhook_endpoint w WHERE w.merchant_id = c.merchant_id
  AND w.state = 'enabled' AND w.types && $3::text[])
ORDER BY c.swept_at LIMIT $4 FOR NO KEY UPDATE OF c SKIP LOCKED
"""
NOTE = """
INSERT INTO webhook_undecided (merchant_id, transaction_id)
SELECT t.merchant_id, t.transaction_id FROM history_transaction t
WHERE t.merchant_id = $1 AND t.transaction_id > $2 AND t.transaction_id <= $3 AND t.state = 'SENT'
ON CONFLICT DO NOTHING
"""
_SHOWN = """t.merchant_id, t.transaction_id, t.type, t.original_id, t.outcome, t.state, t.amount, t.approved_amount, t.currency, t.masked_pan,
t.brand, t.response_code, t.reason, t.approval_code, t.rrn, t.stan, t.store_id, t.terminal_id, t.reference, t.terminal_trace, t.business_date,
t.outcome_at, t.advice"""
# Only what somebody wants: what nobody does is never told, and would fill the pages at each look anew. An attempt that another one followed
# (ask_again) is no outcome of its sale.
DECIDED = f"""
SELECT {_SHOWN} FROM history_transaction t WHERE t.merchant_id = $1 AND t.transaction_id > $2
  AND t.advice IS DISTINCT FROM 'ask_again' AND (t.type, t.outcome) IN (SELECT * FROM unnest($5::text[], $6::text[]))
  AND NOT EXISTS (SELECT FROM webhook_event e WHERE e.merchant_id = t.merchant_id AND e.object = 'txn_' || t.transaction_id AND e.type <> ALL($3))
ORDER BY t.transaction_id LIMIT $4
"""
NOTED = f"""
SELECT {_SHOWN} FROM webhook_undecided u JOIN history_transaction t USING (merchant_id, transaction_id)
WHERE u.merchant_id = $1 AND u.told_at IS NULL AND t.state <> 'SENT' ORDER BY u.transaction_id LIMIT $2
"""
NOTED_TOLD = "UPDATE webhook_undecided SET told_at = now() WHERE merchant_id = $1 AND transaction_id = ANY($2::uuid[])"
CLOSED = f"""
SELECT {_SHOWN}, d.closed_at FROM history_duty d JOIN history_transaction t USING (merchant_id, transaction_id)
WHERE d.merchant_id = $1 AND d.closed_at IS NOT NULL AND d.kind = 'reversal' AND (d.closed_at, d.transaction_id) > ($2::timestamptz, $3::uuid)
  AND t.state IN ('REVERSED', 'CONFIRMED')
  AND NOT EXISTS (SELECT FROM webhook_event e WHERE e.merchant_id = t.merchant_id AND e.object = 'txn_' || t.transaction_id AND e.type = ANY($4))
ORDER BY d.closed_at, d.transaction_id LIMIT $5
"""
SWEPT = "UPDATE webhook_cursor SET swept_at = now() WHERE merchant_id = ANY($1::uuid[])"
MOVE = """UPDATE webhook_cursor SET read_to = greatest(read_to, $2), closed_to = greatest(closed_to, $3),
whole_at = CASE WHEN $4 THEN now() ELSE whole_at END WHERE merchant_id = $1"""

NOBODY = UUID(int=0)


class Cursor(NamedTuple):
    """A merchant whose turn it is. `whole`: from the cursor on, not only what is recent. `since`: nobody is told what happened before."""

    merchant_id: UUID
    read_to: UUID
    closed_to: datetime
    whole: bool
    now: datetime
    since: datetime
    wanted: list[str]


def data_of(row: Any, status: str) -> dict[str, Any]:
    """What is said of a transaction: never more of the card than its masked number."""
    return {
        "id": show("transaction", row["transaction_id"]), "type": row["type"], "status": status,
        "original": show("transaction", row["original_id"]) if row["original_id"] is not None else None,
        "amount": row["amount"], "approved_amount": row["approved_amount"] or 0 if status in ("approved", "confirmed") else 0,
        "currency": row["currency"], "card": {"masked_pan": row["masked_pan"], "brand": row["brand"]}, "response_code": row["response_code"],
        "reason": row["reason"], "approval_code": row["approval_code"], "rrn": row["rrn"], "stan": row["stan"],
        "store": show("store", row["store_id"]), "terminal": show("terminal", row["terminal_id"]), "reference": row["reference"],
        "terminal_trace": row["terminal_trace"], "business_date": row["business_date"].isoformat(),
    }


def of_outcome(row: Any) -> Event:
    type_ = webhooks.decided(row["type"], row["outcome"])
    return Event(row["merchant_id"], type_, show("transaction", row["transaction_id"]), row["outcome_at"], data_of(row, row["outcome"].lower()))


def of_close(row: Any) -> Event:
    type_ = webhooks.CLOSED[row["state"]]
    return Event(row["merchant_id"], type_, show("transaction", row["transaction_id"]), row["closed_at"], data_of(row, row["state"].lower()))


class Sweep:
    """Any number of workers may sweep: a merchant is swept by one at a time."""

    def __init__(self, pool: Pool, subscribed: Subscribed) -> None:
        self.pool, self.subscribed = pool, subscribed

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            full = False
            await self.subscribed.some.wait()
            try:
                full = await self.turn() == MERCHANTS_MAX
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("webhook_sweep_interrupted", error=type(error).__name__)
                await asyncio.sleep(1)
            if not full:
                await asyncio.sleep(POLL_S)

    async def turn(self, every: timedelta = EVERY, whole_every: timedelta = WHOLE_EVERY) -> int:
        """Looks at the merchants whose turn it is; what is found, its deliveries and the cursor are one commit. Returns how many merchants."""
        async with self.pool.acquire() as connection, connection.transaction():
            cursors = [Cursor(*row) for row in await connection.fetch(CLAIM, every, whole_every, OF_SWEEP, MERCHANTS_MAX)]
            for cursor in cursors:
                await self._one(connection, cursor)
            if cursors:
                await connection.execute(SWEPT, [cursor.merchant_id for cursor in cursors])
        return len(cursors)

    async def _one(self, connection: Connection, cursor: Cursor) -> None:
        horizon, recent = cursor.now - OVERLAP, cursor.now - RECENT
        read_to = lowest(horizon)
        if cursor.whole:
            await connection.execute(NOTE, cursor.merchant_id, cursor.read_to, read_to)
        noted = await connection.fetch(NOTED, cursor.merchant_id, PAGE)
        await tell_all(connection, [of_outcome(row) for row in noted if row["outcome"] is not None and row["advice"] != "ask_again"])
        if noted:
            await connection.execute(NOTED_TOLD, cursor.merchant_id, [row["transaction_id"] for row in noted])
        begin = cursor.since - OVERLAP if cursor.whole else recent
        reached = await self._decided(connection, cursor, max(cursor.read_to, lowest(begin)))
        reached_close = await self._closed(connection, cursor, max(cursor.closed_to, begin))
        if cursor.whole:
            await connection.execute(MOVE, cursor.merchant_id, min(read_to, reached or read_to), min(horizon, reached_close or horizon),
                                     reached is None and reached_close is None)

    async def _decided(self, connection: Connection, cursor: Cursor, after: UUID) -> UUID | None:
        """Tells outcomes from `after` on, in the order of ids. Where it stopped, None at the end."""
        outcomes = webhooks.outcomes(cursor.wanted)
        for _ in range(PAGES_MAX if outcomes else 0):
            rows = await connection.fetch(DECIDED, cursor.merchant_id, after, OF_CLOSE, PAGE, *zip(*outcomes, strict=True))
            await tell_all(connection, sorted(map(of_outcome, rows), key=lambda event: (event.happened_at, event.object)))
            if len(rows) < PAGE:
                return None
            after = rows[-1]["transaction_id"]
        return after if outcomes else None

    async def _closed(self, connection: Connection, cursor: Cursor, since: datetime) -> datetime | None:
        """Tells reversals closed since then. Where it stopped, a moment earlier, so that those of the same commit are read again."""
        last = NOBODY
        for _ in range(PAGES_MAX):
            rows = await connection.fetch(CLOSED, cursor.merchant_id, since, last, OF_CLOSE, PAGE)
            await tell_all(connection, list(map(of_close, rows)))
            if len(rows) < PAGE:
                return None
            since, last = rows[-1]["closed_at"], rows[-1]["transaction_id"]
        return since - timedelta(microseconds=1)
