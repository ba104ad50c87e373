"""A worker's foreman in a process of its own, for the tests that kill it: `python -m tests.job_worker URL FOLDER LEASE_S`."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from switch import database
from switch.settlement.jobs.foreman import Foreman
from switch.settlement.jobs.table import Kind, Run, kinds_of


def kinds(folder: Path) -> Mapping[str, Kind]:
    """`steps`: as many steps as its arguments say, each a line of the file `steps`, carried on from where the last worker's commit stands."""
    async def steps(run: Run) -> Mapping[str, Any]:
        done, total = int(run.job.detail.get("step", 0)), int(run.job.arguments["steps"])
        while done < total:
            await asyncio.sleep(run.job.arguments["pause_s"])
            async with run.pool.acquire() as connection, connection.transaction():
                await run.hold(connection)
                await connection.execute("UPDATE job SET detail = detail || jsonb_build_object('step', $2::integer), progress_done = $2 WHERE job_id = $1",
                                         run.job.job_id, done + 1)
            done += 1
            with (folder / "steps").open("a") as file:
                file.write(f"{os.getpid()} {run.job.attempts} {done}\n")
        return {"finished_by": os.getpid()}

    return kinds_of(Kind("steps", "counts", steps))


async def main(url: str, folder: Path, lease_s: float) -> None:
    foreman = Foreman(kinds(folder), lambda role: database.connect(url, role), lambda: database.pool(url, "switch_writer", 4), lease_s)
    print(os.getpid(), flush=True)
    await foreman.work()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])))
