"""A cut-over in a process of its own, with commits so small that a handful of rows makes several: `python -m tests.cutting URL ACQUIRER DATE`."""

import asyncio
import sys
from datetime import date
from uuid import UUID

from switch import database
from switch.errors import Problem
from switch.settlement.cutover import steps, tempo

BUSY = 7


async def main(url: str, acquirer: str, day: str) -> int:
    tempo.BRISK = tempo.BRISK._replace(keys=3, lines=2, lines_per_commit=3, settlements=2)
    try:
        done = await steps.run(lambda: database.connect(url, "switch_writer"), UUID(acquirer), date.fromisoformat(day), grace_s=0.0, wait_s=0.0,
                                 confirm_s=5.0)
    except Problem:
        return BUSY
    return 0 if done.done else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
