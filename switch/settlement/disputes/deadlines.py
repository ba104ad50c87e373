"""The time that disputes leave: somebody is called before it ends, and what nobody answered is lost when it has ended. Each of both is a job."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from switch import alerts
from switch.clock import clock
from switch.database import Connection, Pool
from switch.errors import Problem
from switch.ids import read, show
from switch.settlement.disputes.cases import SWITCH, Cases, Step, locked, told
from switch.settlement.jobs.table import Due, NotYet, Run, Unfit

AT_ONCE, AGAIN_S = 200, 1.0
DUE, OVERDUE = "dispute_due", "dispute_overdue"  # kinds of alerts

# What is over, and what will be soon. Another stage has other times, so that each is looked at once.
ENDED = "SELECT dispute_id, state, answer_by AS at FROM dispute WHERE answer_by <= $1 ORDER BY answer_by LIMIT $2"
SOON = "SELECT dispute_id, state, warn_at AS at FROM dispute WHERE warn_at <= $1 AND warned_at IS NULL AND answer_by > $1 ORDER BY warn_at LIMIT $2"
WARNED = "UPDATE dispute SET warned_at = $2, version = version + 1 WHERE dispute_id = $1 AND warned_at IS NULL AND warn_at <= $2 RETURNING true"


class Deadlines:
    """A dispute is moved once, with its sale and itself locked, however many workers look."""

    def __init__(self, pool: Pool, cases: Cases) -> None:
        self.pool, self.cases = pool, cases

    async def due(self, now: datetime) -> list[Due]:
        """A job for each time of a dispute that has come."""
        return [Due(f"{show('dispute', row['dispute_id'])}:{row['state']}:{what}:{row['at']:%Y-%m-%dT%H:%M:%SZ}",
                    {"dispute": show("dispute", row["dispute_id"]), "what": what, "at": row["at"].isoformat()})
                for what, statement in ((OVERDUE, ENDED), (DUE, SOON)) for row in await self.pool.fetch(statement, now, AT_ONCE)]

    async def do(self, run: Run) -> Mapping[str, Any]:
        dispute_id, what = read("dispute", run.job.arguments["dispute"]), run.job.arguments["what"]
        assert dispute_id is not None
        now = max(clock.now(), datetime.fromisoformat(run.job.arguments["at"]))  # whoever looked has seen it come, by a clock a little ahead of ours
        try:
            async with run.pool.acquire() as connection, connection.transaction():
                done = await self.keep(connection, dispute_id, what, now)
                await run.hold(connection)
        except Problem as problem:
            if problem.code == "not_ready":  # its business day is being closed just now
                raise NotYet(AGAIN_S, problem.detail) from None
            raise Unfit(f"The dispute cannot be moved: {problem.code}.") from None
        if done:
            alerts.announce(what, show("dispute", dispute_id))
        return {"moved": done}

    async def keep(self, connection: Connection, dispute_id: UUID, what: str, now: datetime) -> bool:
        """Does what is due now, in the caller's transaction; False when it was answered or done meanwhile. Raises Problem."""
        done = await (self._expire if what == OVERDUE else self._warn)(connection, dispute_id, now)
        if done:
            await alerts.raise_within(connection, what, show("dispute", dispute_id))
        return done

    async def _expire(self, connection: Connection, dispute_id: UUID, now: datetime) -> bool:
        row = await locked(connection, dispute_id, None)
        if row["answer_by"] is None or row["answer_by"] > now:
            return False
        await self.cases.move(connection, dispute_id, Step("expire", SWITCH), now)
        return True

    async def _warn(self, connection: Connection, dispute_id: UUID, now: datetime) -> bool:
        row = await locked(connection, dispute_id, None)
        if not await connection.fetchval(WARNED, dispute_id, now):
            return False
        await self.cases.tell(connection, row["merchant_id"], "dispute.due", f"{show('dispute', dispute_id)}:{row['state']}", told(row))
        return True
