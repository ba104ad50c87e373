"""What reversals that wait cost sales: two switches, one of them with N reversals owed, take turns. `python -m loadtests.waiting --help`.

The reversals are those of real sales, planted as loadtests.reversals does; the acquirer's pace then lets one leave a second. The other switch has as
many sales that owe nothing. Both databases are vacuumed before the first turn. Each turn is a closed loop; the share is the median of what a sale
costs beside waiting reversals over what it costs without.
"""
import argparse
import asyncio
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median
from typing import Any

import asyncpg
import uvloop

from loadtests.driver import Driver, Workload
from loadtests.measured import Result, measured, parser, say
from loadtests.processes import Processes, RunError, cpu_seconds
from loadtests.reversals import CONNECTIONS, HELD, OWED, plant
from loadtests.services import Cluster, Service, start_stub, start_switch, tidy

SLOWER_MAX = 1.10
WARM_UP_S = 2.0


async def turn(service: Service, cluster: Cluster, seconds: float) -> tuple[float, float]:
    """CPU of the service and of PostgreSQL per approved sale, in microseconds; sales per second."""
    driver = Driver(Workload(service.url, service.key))
    try:
        await driver.connect(CONNECTIONS)
        await driver.closed(WARM_UP_S)
        before = cpu_seconds(service.process.pid) + cpu_seconds(cluster.pid)
        tally = await driver.closed(seconds)
        used = cpu_seconds(service.process.pid) + cpu_seconds(cluster.pid) - before
    finally:
        driver.close()
    if not tally.approved or len(tally.statuses) > 1:
        raise RunError(f"sales were answered {dict(tally.statuses)}")
    return used / tally.approved * 1e6, tally.approved / tally.seconds


async def sales(service: Service, count: int) -> None:
    driver = Driver(Workload(service.url, service.key))
    try:
        await driver.connect(CONNECTIONS)
        await driver.closed(600.0, count)
    finally:
        driver.close()


async def measure(options: argparse.Namespace, processes: Processes, home: Path) -> dict[str, Any]:
    cluster = Cluster(processes, home)
    await cluster.check()
    found: dict[str, list[tuple[float, float]]] = {"waiting": [], "none": []}
    async with AsyncExitStack() as open_until:
        services = {}
        for name in found:
            url = await open_until.enter_async_context(cluster.fresh())
            (own := home / name).mkdir()
            services[name] = start_switch(processes, own, url, start_stub(processes, own))
        connection = await asyncpg.connect(services["waiting"].database_url)
        open_until.push_async_callback(connection.close)
        await connection.execute(HELD)
        await asyncio.sleep(1.5)  # every worker reads its records each second
        say(f"planting {options.count} reversals, and {options.count} sales")
        await plant(services["waiting"], options.count)
        await sales(services["none"], options.count)
        for each in services.values():
            await tidy(each.database_url)
        async with cluster.fresh():  # its end is a checkpoint
            pass
        for number in range(options.turns):
            for name in found if number % 2 else reversed(found):
                found[name].append(await turn(services[name], cluster, options.seconds))
                say(f"turn {number + 1} {name:8} {found[name][-1][0]:5.0f} us CPU each, {found[name][-1][1]:5.0f}/s")
        owed = await connection.fetchval(OWED)
        for service in services.values():
            processes.stop(service.process)
            processes.stop(service.stub.process)
    cost, rate = ({name: median(each[at] for each in turns) for name, turns in found.items()} for at in (0, 1))
    pairs = list(zip(found["waiting"], found["none"], strict=True))  # a turn's two stand beside each other: the machine drifts
    return {"waiting": owed, "cpu_share": round(median(waiting[0] / none[0] for waiting, none in pairs), 3),
            "time_share": round(median(none[1] / waiting[1] for waiting, none in pairs), 3),
            "cpu_us_waiting": round(cost["waiting"], 1), "cpu_us_none": round(cost["none"], 1),
            "auths_per_s_waiting": round(rate["waiting"], 1), "auths_per_s_none": round(rate["none"], 1)}


def main() -> int:
    options_of = parser("waiting", __doc__)
    options_of.add_argument("--count", type=int, default=100_000)
    options_of.add_argument("--turns", type=int, default=5)
    options_of.add_argument("--seconds", type=float, default=6.0)
    options = options_of.parse_args()

    def run(result: Result, processes: Processes, home: Path) -> list[str]:
        result |= uvloop.run(measure(options, processes, home))
        return [f"{name} is {result[name]}, at most {SLOWER_MAX:g} allowed" for name in ("cpu_share", "time_share") if result[name] > SLOWER_MAX]

    return measured("waiting", run)


if __name__ == "__main__":
    sys.exit(main())
