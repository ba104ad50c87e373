"""The jobs that move money in a process of its own, in small commits, for the test that kills it: `python -m tests.money_worker URL`."""

import asyncio
import sys
from collections.abc import Mapping
from datetime import date
from functools import partial
from typing import Any

from switch import database
from switch.settlement.cutover import steps, tempo
from switch.settlement.cutover.schedule import CutOvers
from switch.settlement.jobs.foreman import Foreman
from switch.settlement.jobs.table import Kind, NotYet, Run, kinds_of
from switch.settlement.payouts import runs as payout_runs
from switch.settlement.payouts.schedule import PayDays
from switch.settlement.reconciliation.runs import Runs

CUT_OVER, PAY = "cut_over_now", "pay_now"  # kinds of its own: the switch beside it knows neither
LEASE_S, AGAIN_S = 1.0, 0.2
FAR = date(2100, 1, 1)  # everything is due


class CutOversNow(CutOvers):
    """A day that another runner has is looked at again soon."""

    async def do(self, run: Run) -> Mapping[str, Any]:
        try:
            return await super().do(run)
        except NotYet as waits:
            raise NotYet(AGAIN_S, str(waits)) from None


async def main(url: str) -> None:
    tempo.BRISK = tempo.BRISK._replace(keys=25, lines=25, lines_per_commit=25, settlements=1)
    connect = partial(database.connect, url)
    writer = partial(connect, "switch_writer")
    pool = await database.pool(url, "switch_writer", 3)
    days = CutOversNow(writer, lambda acquirer_id, day: steps.run(writer, acquirer_id, day, grace_s=0.02, wait_s=0.1, confirm_s=5.0))
    pays = PayDays(lambda after: payout_runs.run(pool, "switch", after=after, today=FAR))
    again = {"attempts": 1000, "pause_s": AGAIN_S}
    foreman = Foreman(kinds_of(Kind(CUT_OVER, "ends days", days.do, **again), Kind(PAY, "pays", pays.do, **again),
                               Kind("reconciliation", "reconciles", Runs(pool, writer).do, **again)),
                      connect, partial(database.pool, url, "switch_writer", 4), LEASE_S)
    await foreman.work()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
