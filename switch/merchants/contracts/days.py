"""The days of contracts: one begins on its first day, ends after its last, and is told of before. Each is a job: a worker that dies leaves none
undone.

Sales stop by the clock, at the instant that the directory tells (callers.selling): they wait for no job.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from switch.clock import clock
from switch.database import Connection, Pool
from switch.errors import Problem
from switch.ids import read, show
from switch.merchants.contracts import force
from switch.merchants.contracts.cases import held_and, told
from switch.merchants.contracts.life import IN_FORCE
from switch.settlement.jobs.table import Due, NotYet, Run, Unfit

AT_ONCE, AGAIN_S = 200, 5.0
BEGIN, END, WARN = "begin", "end", "warn"
WARNED = (7, 30)  # days before its end at which the merchant is told, the last first: of several that have come one is
DUE = """SELECT contract_id, least(CASE WHEN begun_at IS NULL THEN begins_at END, ends_at) AS at, begun_at IS NULL AND begins_at <= $1 AS begins
FROM contract WHERE state = 'in_force' AND least(CASE WHEN begun_at IS NULL THEN begins_at END, ends_at) <= $1 ORDER BY 2 LIMIT $2"""

ENDING = """SELECT c.contract_id, t.days FROM contract c CROSS JOIN LATERAL (
  SELECT min(days) AS days FROM unnest($2::integer[]) AS days WHERE c.ends_at - $1 <= make_interval(days => days)) t
WHERE c.state = 'in_force' AND c.ends_at > $1 AND t.days IS NOT NULL AND NOT EXISTS (
  SELECT FROM notice n WHERE n.merchant_id = c.merchant_id AND n.kind = 'contract.ending' AND n.object = 'con_' || c.contract_id || ':days' || t.days)
ORDER BY c.ends_at LIMIT $3"""


class Days:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def due(self, now: datetime) -> list[Due]:
        """A job for each contract whose day has come."""
        warned = [Due(f"{show('contract', row['contract_id'])}:{WARN}:{row['days']}",
                      {"contract": show("contract", row["contract_id"]), "what": WARN, "at": now.isoformat(), "days": row["days"]})
                  for row in await self.pool.fetch(ENDING, now, list(WARNED), AT_ONCE)]
        return warned + [Due(f"{show('contract', row['contract_id'])}:{BEGIN if row['begins'] else END}:{row['at']:%Y-%m-%dT%H:%M:%SZ}",
                    {"contract": show("contract", row["contract_id"]), "what": BEGIN if row["begins"] else END, "at": row["at"].isoformat()})
                for row in await self.pool.fetch(DUE, now, AT_ONCE)]

    async def do(self, run: Run) -> Mapping[str, Any]:
        now = max(clock.now(), datetime.fromisoformat(run.job.arguments["at"]))  # whoever looked has seen it come, by a clock a little ahead of ours
        try:
            async with run.pool.acquire() as connection, connection.transaction():
                done = await keep(connection, run.job.arguments["contract"], run.job.arguments["what"], now,
                                  run.job.arguments.get("days"))
                await run.hold(connection)
        except Problem as problem:
            if problem.code == "not_ready":  # the business day of its charges is being closed just now
                raise NotYet(AGAIN_S, problem.detail) from None
            raise Unfit(f"The contract cannot be moved: {problem.code}.") from None
        return {"moved": done}


async def keep(connection: Connection, shown: str, what: str, now: datetime, days: int | None = None) -> bool:
    """Does what is due now, in the caller's transaction; False when it was done meanwhile, or is due no more. Raises Problem."""
    contract_id = read("contract", shown)
    assert contract_id is not None
    row, merchant = await held_and(connection, contract_id)
    if row["state"] != IN_FORCE:
        return False
    if what == WARN:
        if row["ends_at"] is None or row["ends_at"] <= now:
            return False
        await told(connection, row, "contract.ending", f"days{days}")
        return True
    if what == BEGIN:
        if row["begun_at"] is not None or row["begins_at"] > now:
            return False
        await force.begun(connection, row, merchant)
        return True
    if row["ends_at"] is None or row["ends_at"] > now:
        return False
    await force.ended(connection, row, merchant, force.SWITCH, "Its last day is over.")
    return True
