"""How fast owed reversals leave: N sales in doubt, then W workers that drain them. `python -m loadtests.reversals --help`.

The sales are real ones, answered by the stub with a code of doubt (amounts that end in 96) while the acquirer's pace holds their reversals back. The
clock runs from the moment the pace is lifted to the moment no reversal is owed. Every reversal must be booked by the stub, and each but once.
"""
import argparse
import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from loadtests.driver import Driver, Workload
from loadtests.measured import Result, measured, parser
from loadtests.processes import Processes, RunError, call, cpu_seconds
from loadtests.services import SWITCH, Cluster, Service, environment, start_stub, start_switch

CONNECTIONS = 64
RATE_MIN = 1000.0
HELD = "UPDATE acquirer SET reversals_per_second = 1, reversals_at_once = 1"
LIFTED = "UPDATE acquirer SET reversals_per_second = 10000, reversals_at_once = 200"
OWED = "SELECT count(*) FROM duty WHERE state = 'open' AND kind = 'reversal'"
ANY_OWED = "SELECT EXISTS (SELECT FROM duty WHERE state = 'open' AND kind = 'reversal')"
ENDED = """SELECT count(*) FILTER (WHERE t.state = 'REVERSED' AND d.state = 'done' AND d.closed_by = 'ack') AS reversed, count(*) AS sales,
coalesce(sum(d.transmissions), 0)::bigint AS transmissions FROM transaction t JOIN duty d USING (merchant_id, transaction_id)"""


class Doubtful(Workload):
    """Sales whose amounts end in 96: the stub answers with a code that is neither yes nor no."""

    def next(self) -> tuple[bytes, int]:
        self.count += 1
        number, amount = self.count % 1_000_000, 100_096 + self.count % 8999 * 100
        return self.template % (self.count, amount, self.pans[self.count % 4999], number, number), amount


async def plant(service: Service, count: int) -> None:
    driver = Driver(Doubtful(service.url, service.key))
    try:
        await driver.connect(min(CONNECTIONS, count))
        await driver.closed(600.0, count)
        if driver.total.statuses["202 reversing"] != count:
            raise RunError(f"planting was answered {dict(driver.total.statuses)}")
    finally:
        driver.close()


async def drain(connection: "asyncpg.Connection[Any]", seconds: float) -> float:
    """Lifts the pace; the seconds until nothing is owed."""
    await connection.execute(LIFTED)
    started = time.perf_counter()
    while await connection.fetchval(ANY_OWED):
        if time.perf_counter() - started > seconds:
            raise RunError(f"{await connection.fetchval(OWED)} are still owed after {seconds:g} s")
        await asyncio.sleep(0.05)
    return time.perf_counter() - started


def another(processes: Processes, home: Path, url: str, number: int) -> subprocess.Popen[bytes]:
    """One more switch on the database, as on a machine of its own: a home of its own with the same keys."""
    own = home / f"machine-{number}"
    own.mkdir(mode=0o700)
    variables = environment(own, SWITCH_DATABASE_URL=url, SWITCH_KEYS_FILE=str(home / "keys.json"), SWITCH_HOST="127.0.0.1", SWITCH_PORT="0")
    return processes.start("switch", [*SWITCH, "serve"], variables, "base_url")[0]


async def measure(options: argparse.Namespace, processes: Processes, home: Path) -> dict[str, Any]:
    cluster = Cluster(processes, home)
    await cluster.check()
    async with cluster.fresh() as url:
        stub = start_stub(processes, home)
        service = start_switch(processes, home, url, stub)
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(HELD)
            await asyncio.sleep(1.5)  # every worker reads its records each second
            await plant(service, options.count)
            workers = [service.process] + [another(processes, home, url, number) for number in range(2, options.workers + 1)]
            owed = await connection.fetchval(OWED)
            used = sum(cpu_seconds(worker.pid) for worker in workers)
            seconds = await drain(connection, options.timeout)
            service_us = (sum(cpu_seconds(worker.pid) for worker in workers) - used) / owed * 1e6
            row = await connection.fetchrow(ENDED)
        finally:
            await connection.close()
        said = call("GET", f"{stub.control_url}/stats")
        for process in (*workers, stub.process):
            processes.stop(process)
    assert row is not None
    differences = (row["sales"] - row["reversed"]) + abs(said["decisions"].get("0430", {}).get("00", 0)
                                                         + said["decisions"].get("0430", {}).get("25", 0) - row["sales"]) + said["duplicates"]
    return {"reversals_per_s": round(owed / seconds, 1), "count": owed, "workers": options.workers, "seconds": round(seconds, 2),
            "service_us_per_reversal": round(service_us, 1), "sales": row["sales"], "reversed": row["reversed"],
            "transmissions": row["transmissions"], "differences": differences}


def main() -> int:
    options_of = parser("reversals", __doc__)
    options_of.add_argument("--count", type=int, default=20_000)
    options_of.add_argument("--workers", type=int, default=2)
    options_of.add_argument("--timeout", type=float, default=300.0)
    options = options_of.parse_args()

    def run(result: Result, processes: Processes, home: Path) -> list[str]:
        result |= uvloop.run(measure(options, processes, home))
        return [*([f"{result['reversals_per_s']} a second are less than {RATE_MIN:g}"] if result["reversals_per_s"] < RATE_MIN else []),
                *([f"{result['differences']} differences between books"] if result["differences"] else [])]

    return measured("reversals", run)


if __name__ == "__main__":
    sys.exit(main())
