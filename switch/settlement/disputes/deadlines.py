"""The time that disputes leave: somebody is called before it ends, and what nobody answered is lost when it has ended."""

import asyncio
import os
import time
from datetime import datetime
from uuid import UUID

import asyncpg

from switch import alerts, logs
from switch.clock import clock
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import show, uuid7
from switch.settlement.disputes.cases import SWITCH, Cases, Step, locked, told

LOOK_S = 60.0
AT_ONCE = 200

DUE = """SELECT dispute_id FROM dispute WHERE answer_by <= $1 ORDER BY answer_by LIMIT $2"""
SOON = """SELECT dispute_id FROM dispute WHERE warn_at <= $1 AND warned_at IS NULL ORDER BY warn_at LIMIT $2"""
WARNED = "UPDATE dispute SET warned_at = $2, version = version + 1 WHERE dispute_id = $1 AND warned_at IS NULL AND warn_at <= $2 RETURNING true"


class Deadlines:
    """Every worker looks; a dispute is moved once, with its sale and itself locked."""

    def __init__(self, pool: Pool, cases: Cases) -> None:
        self.pool, self.cases = pool, cases

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look(clock.now())
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("disputes_not_looked_at", error=type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def look(self, now: datetime) -> tuple[int, int]:
        """How many are lost by it, and about how many somebody was called. Raises what UNKNOWN lists."""
        lost = sum([await self._each(row[0], now, "dispute_overdue") for row in await self.pool.fetch(DUE, now, AT_ONCE)])
        warned = sum([await self._each(row[0], now, "dispute_due") for row in await self.pool.fetch(SOON, now, AT_ONCE)])
        return lost, warned

    async def _each(self, dispute_id: UUID, now: datetime, kind: str) -> bool:
        async with self.pool.acquire() as connection, connection.transaction():
            if not await (self._expire if kind == "dispute_overdue" else self._warn)(connection, dispute_id, now):
                return False
            await connection.execute(alerts.RAISE, uuid7(time.time_ns() // 1_000_000, os.urandom(10)), kind, show("dispute", dispute_id))
        alerts.announce(kind, show("dispute", dispute_id))
        return True

    async def _expire(self, connection: Connection, dispute_id: UUID, now: datetime) -> bool:
        row = await locked(connection, dispute_id, None)
        if row["answer_by"] is None or row["answer_by"] > now:
            return False  # answered meanwhile, or another worker was first
        try:
            await self.cases.move(connection, dispute_id, Step("expire", SWITCH), now)
        except Problem as problem:
            logs.error("dispute_not_expired", detail=show("dispute", dispute_id), code=problem.code)
            return False
        return True

    async def _warn(self, connection: Connection, dispute_id: UUID, now: datetime) -> bool:
        row = await locked(connection, dispute_id, None)
        if not await connection.fetchval(WARNED, dispute_id, now):
            return False
        await self.cases.tell(connection, row["merchant_id"], "dispute.due", f"{show('dispute', dispute_id)}:{row['state']}", told(row))
        return True
