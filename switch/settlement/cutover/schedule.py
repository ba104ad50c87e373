"""Business days that have ended. Looked at each minute of UTC; the wall clock of the acquirer decides."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from switch.database import Connection
from switch.errors import Problem
from switch.ids import read, show
from switch.settlement.cutover.steps import Cutover, LostHold
from switch.settlement.funding.calendar import cut_over
from switch.settlement.jobs.table import Due, NotYet, Run, Unfit

AGAIN_S = 15.0  # a cut-over that waits for workers or outcomes says why, and is looked at again

# Of each acquirer the oldest day that is not finished: days are cut over in their order.
UNFINISHED = """SELECT d.acquirer_id, a.time_zone, a.cut_over_minute, min(d.business_date) AS business_date
FROM business_day d JOIN directory_acquirer a ON a.acquirer_id = d.acquirer_id
    LEFT JOIN cutover c ON c.acquirer_id = d.acquirer_id AND c.business_date = d.business_date
WHERE d.state <> 'closed' OR c.business_date IS NOT NULL AND c.ended_at IS NULL GROUP BY d.acquirer_id, a.time_zone, a.cut_over_minute"""


class CutOvers:
    """The end of each acquirer's business day."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], run: Callable[[UUID, date], Awaitable[Cutover]]) -> None:
        """`connect` opens a reader's connection, `run` carries a cut-over as far as it goes."""
        self.connect, self.run = connect, run

    async def due(self, now: datetime) -> list[Due]:
        connection = await self.connect()
        try:
            rows = await connection.fetch(UNFINISHED)
        finally:
            connection.terminate()
        return [Due(f"{show('acquirer', row['acquirer_id'])}:{row['business_date']}",
                    {"acquirer": show("acquirer", row["acquirer_id"]), "business_date": row["business_date"].isoformat()})
                for row in rows if cut_over(row["business_date"], row["cut_over_minute"], ZoneInfo(row["time_zone"])) <= now]

    async def do(self, run: Run) -> Mapping[str, Any]:
        """Goes on where the last run was: every step of a cut-over is a row, and its own lock keeps a second runner away."""
        acquirer_id = read("acquirer", run.job.arguments["acquirer"])
        assert acquirer_id is not None
        try:
            stands = await self.run(acquirer_id, date.fromisoformat(run.job.arguments["business_date"]))
        except LostHold:
            raise NotYet(AGAIN_S, "Another runner has taken the cut-over over.") from None
        except Problem as problem:
            if problem.code == "conflict":
                raise NotYet(AGAIN_S, problem.detail) from None
            raise Unfit(problem.detail or "There is no such business day.") from None
        if not stands.done:
            raise NotYet(AGAIN_S, f"{stands.step}: {stands.waits_for}"[:500])
        return {"next_date": stands.next_date.isoformat()}
