"""What a gentle cut-over costs the payments beside it: an open loop of authorizations, first alone, then while another acquirer's day is cut over."""
import asyncio
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from loadtests.driver import Driver, Workload, percentile
from loadtests.measured import say
from loadtests.processes import Processes, RunError
from loadtests.services import SWITCH, Cluster, environment, start_stub, start_switch, tidy

CONNECTIONS, WINDOW_S, WARMUP_S = 512, 5.0, 3.0
SLOWER_MAX, SECONDS_MAX = 2.0, 900.0
NIGHT = "night"  # the acquirer whose day ends; payments go to another

Timed = Callable[[list[str], dict[str, str], Path], Any]


async def measure(cluster: Cluster, processes: Processes, home: Path, count: int, merchants: int, rate: float, seconds: float,
                  generate: Callable[..., Awaitable[None]], check: Callable[..., Awaitable[None]], timed: Timed, day: str) -> dict[str, Any]:
    """Times are those of answers from their scheduled instants. Raises RunError when a payment is not approved or the books do not agree."""
    async with cluster.fresh() as url:
        variables = environment(home, SWITCH_DATABASE_URL=url, SWITCH_SCHEDULES="off")
        processes.run("migrate", [*SWITCH, "migrate"], variables)
        await generate(url, count, merchants, NIGHT)
        await tidy(url)
        async with cluster.fresh():  # its end is a checkpoint: a million rows are written before anybody is timed
            pass
        stub = start_stub(processes, home)
        service = start_switch(processes, home, url, stub, SWITCH_SCHEDULES="off")  # or its own job would cut the day over
        driver = Driver(Workload(service.url, service.key))
        try:
            await asyncio.sleep(1.5)  # the worker reads its records each second
            await driver.connect(CONNECTIONS)
            await driver.open(rate, WARMUP_S)
            alone = (await driver.open(rate, seconds)).times
            say(f"{rate:g} a second alone: p99 {percentile(alone, 0.99) * 1000:.1f} ms")
            command = [*SWITCH, "cutover", "run", NIGHT, day, "--gentle"]
            cutting = asyncio.create_task(asyncio.to_thread(timed, command, variables, home))
            beside = array("d")
            while not cutting.done():
                window = await driver.open(rate, WINDOW_S)
                beside.extend(window.times)
                say(f"beside it: p99 {percentile(window.times, 0.99) * 1000:.1f} ms, {len(window.times) - window.approved} not approved")
            ran = await cutting
            wrong = {status: number for status, number in driver.total.statuses.items() if status != "201 approved"}
            if wrong:
                raise RunError(f"answers that are no approval: {wrong}")
        finally:
            driver.close()
            processes.stop(service.process)
            processes.stop(stub.process)
        await check(url, count)
    found = {"count": count, "merchants": merchants, "rate": rate, "approved": driver.total.approved}
    for name, times in (("alone", alone), ("beside", beside)):
        found |= {f"{name}_{label}_ms": round(percentile(times, share) * 1000, 2) for label, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    return found | {"added_p99_ms": round(found["beside_p99_ms"] - found["alone_p99_ms"], 2), "cutover_s": round(ran.seconds, 2),
                    "cutover_cpu_s": round(ran.cpu_s, 2), "cutover_rss_mb": round(ran.rss_mb, 1)}


def faults(runs: list[dict[str, Any]]) -> list[str]:
    slower = [f"{run['count']}: beside a cut-over the p99 of payments is {run['beside_p99_ms']} ms, more than {SLOWER_MAX:g} times what it is alone"
              for run in runs if run["beside_p99_ms"] > SLOWER_MAX * run["alone_p99_ms"]]
    return slower + [f"{run['count']}: the cut-over took {run['cutover_s']} s, more than {SECONDS_MAX:g}"
                     for run in runs if run["cutover_s"] > SECONDS_MAX]
