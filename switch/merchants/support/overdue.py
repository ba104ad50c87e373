"""Tickets whose time is over: somebody is called once about each deadline that was missed, and again when a reopened ticket misses one."""

import asyncio

import asyncpg

from switch import alerts, logs
from switch.clock import clock
from switch.database import UNKNOWN, Pool
from switch.ids import show

LOOK_S = 20.0
AT_ONCE = 200
OVERDUE = "ticket_overdue"

# Several workers look: each ticket is one's.
MISSED = """WITH missed AS (SELECT merchant_id, ticket_id FROM ticket WHERE resolve_by IS NOT NULL
  AND (answer_by <= $1 AND answer_missed_at IS NULL OR resolve_by <= $1 AND resolve_missed_at IS NULL) LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED)
UPDATE ticket t SET answer_missed_at = CASE WHEN t.answer_by <= $1 THEN coalesce(t.answer_missed_at, $1) ELSE t.answer_missed_at END,
  resolve_missed_at = CASE WHEN t.resolve_by <= $1 THEN coalesce(t.resolve_missed_at, $1) ELSE t.resolve_missed_at END
FROM missed m WHERE (t.merchant_id, t.ticket_id) = (m.merchant_id, m.ticket_id) RETURNING t.ticket_id"""


class Overdue:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            try:
                while await self.look() == AT_ONCE:
                    pass
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("tickets_not_looked_at", error=type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> int:
        """About how many somebody was called. Raises what UNKNOWN lists."""
        async with self.pool.acquire() as connection, connection.transaction():
            missed = [show("ticket", row[0]) for row in await connection.fetch(MISSED, clock.now(), AT_ONCE)]
            for each in missed:
                await alerts.raise_within(connection, OVERDUE, each)
        for each in missed:
            alerts.announce(OVERDUE, each)
        return len(missed)
