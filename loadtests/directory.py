"""What a directory of 100,000 merchants and 500,000 terminals costs: start, memory, changes, the loop, and each authorization. HTTP only.

Two switches on one cluster, a small one and a large one, are loaded by turns, so that only the size differs. `python -m loadtests.directory --help`.
"""
import argparse
import asyncio
import statistics
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from loadtests import houses
from loadtests.driver import Driver, Workload
from loadtests.measured import Result, measured, parser, say
from loadtests.processes import Processes, RunError, call, cpu_seconds, memory
from loadtests.services import SWITCH, Cluster, Stub, environment, start_stub

START_S_MAX, RSS_MB_MAX, CHANGE_S_MAX, BLOCKED_S_MAX, SHARE_MAX = 20.0, 600.0, 1.0, 0.05, 2.0
SMALL, TILLS, CONNECTIONS, SELLERS = 100, 5, 64, 50
BULK = 10_000  # terminals renamed in one commit


class Running(NamedTuple):
    name: str
    pid: int
    base: str
    admin: str
    url: str
    started_s: float


class Fleet(Workload):
    """Purchases of many terminals in turn."""

    def __init__(self, url: str, keys: list[str]) -> None:
        super().__init__(url, keys[0])
        self.templates = [self.template.replace(keys[0].encode(), key.encode()) for key in keys]

    def next(self) -> tuple[bytes, int]:
        self.template = self.templates[self.count % len(self.templates)]
        return super().next()


async def start(processes: Processes, home: Path, name: str, url: str, stub: Stub, merchants: int, workers: int) -> Running:
    """A switch over a directory of that size; the clock runs from the command to the line that says that all workers admit."""
    folder = home / name
    folder.mkdir()
    variables = environment(folder, SWITCH_DATABASE_URL=url, SWITCH_HOST="127.0.0.1", SWITCH_PORT="0", SWITCH_ADMIN_PORT="0")
    processes.run(f"migrate-{name}", [*SWITCH, "migrate"], variables)
    processes.run(f"organisation-{name}", [*SWITCH, "onboard", "organisation", "--name", "Bench"], variables)
    began = time.monotonic()
    await houses.acquirers(url, stub.port)
    await houses.build(url, merchants, TILLS)
    say(f"{name}: {merchants} merchants and {merchants * TILLS} terminals written in {time.monotonic() - began:.0f} s")
    began = time.monotonic()
    process, line = processes.start(f"switch-{name}", [*SWITCH, "serve", "--workers", str(workers)], variables, "base_url", 120.0)
    took = time.monotonic() - began
    say(f"{name}: {workers} workers admit after {took:.1f} s")
    return Running(name, process.pid, str(line["base_url"]), str(line["admin_url"]), url, took)


def workers_of(running: Running) -> list[dict[str, Any]]:
    return list(call("GET", f"{running.admin}/readyz")["workers"])


def pulses(running: Running) -> tuple[int, int]:
    """How often the loops of the workers were looked at, and how often they were late by more than BLOCKED_S_MAX."""
    with urllib.request.urlopen(f"{running.admin}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    counts = {line.split(" ")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("switch_loop_late_seconds")}
    total = int(counts["switch_loop_late_seconds_count"])
    return total, total - int(counts[f'switch_loop_late_seconds_bucket{{le="{BLOCKED_S_MAX}"}}'])


async def changed(running: Running, connection: "asyncpg.Connection[asyncpg.Record]", statement: str) -> float:
    """Seconds from the commit until every worker serves the change."""
    await connection.execute(statement)
    began = time.monotonic()
    version = await connection.fetchval("SELECT max(version) FROM directory_change")
    while time.monotonic() < began + 30:
        told = await asyncio.to_thread(workers_of, running)
        if all(each.get("directory_version", 0) >= version for each in told):
            return time.monotonic() - began
        await asyncio.sleep(0.02)
    raise RunError("a change was not seen by all workers within 30 s")


async def costs(small: Running, large: Running, cluster: Cluster, merchants: int, pairs: int, seconds: float) -> list[dict[str, float]]:
    """Microseconds of CPU per approval (service and PostgreSQL), small and large by turns."""
    drivers, found = {}, []
    for running, count in ((small, SMALL), (large, merchants)):
        sellers = [houses.key_of(1 + number * max(1, count // SELLERS) % count, 1 + number % TILLS) for number in range(SELLERS)]
        drivers[running.name] = Driver(Fleet(running.base, sellers))
        await drivers[running.name].connect(CONNECTIONS)
    try:
        for driver in drivers.values():
            await driver.closed(4.0)
        for running in (small, large):  # else the plans of the smaller day's tables are made for empty ones until autovacuum comes by
            connection = await asyncpg.connect(running.url)
            await connection.execute("ANALYZE", timeout=120)
            await connection.close()
        for pair in range(pairs):
            figures: dict[str, float] = {}
            for running in (small, large) if pair % 2 == 0 else (large, small):
                await asyncio.sleep(0.5)
                before = cpu_seconds(running.pid), cpu_seconds(cluster.pid)
                tally = await drivers[running.name].closed(seconds)
                await asyncio.sleep(0.3)
                wrong = {status: count for status, count in tally.statuses.items() if status != "201 approved"}
                if wrong or not tally.approved:
                    raise RunError(f"answers that are no approval: {wrong}")
                ours, theirs = cpu_seconds(running.pid) - before[0], cpu_seconds(cluster.pid) - before[1]
                figures |= {running.name: (ours + theirs) * 1e6 / tally.approved, f"service_{running.name}": ours * 1e6 / tally.approved}
            found.append(figures)
            say(f"pair {pair + 1}: {figures['small']:.0f} us in the small directory, {figures['large']:.0f} us in the large one "
                f"(service {figures['service_small']:.0f} and {figures['service_large']:.0f})")
    finally:
        for driver in drivers.values():
            driver.close()
    return found


async def measure(options: argparse.Namespace, result: Result, processes: Processes, home: Path) -> list[str]:
    cluster, stub = Cluster(processes, home), start_stub(processes, home)
    await cluster.check()
    merchants = options.merchants
    async with cluster.fresh() as one, cluster.fresh() as other:
        large = await start(processes, home, "large", one, stub, merchants, options.workers)
        sizes = [memory(each["pid"]) for each in workers_of(large)]
        result |= {"merchants": merchants, "terminals": merchants * TILLS, "workers": options.workers, "start_s": round(large.started_s, 2),
                   "rss_mb": round(max(sizes), 1)}
        connection = await asyncpg.connect(large.url)
        try:
            result["start_late"] = pulses(large)[1]
            await asyncio.sleep(2)
            before = pulses(large)
            single = [await changed(large, connection, f"UPDATE terminal SET status = '{status}' WHERE terminal_id = "
                                    f"'{houses.terminal_of(2, 2)}'") for status in ("suspended", "active") * 5]
            bulk = await changed(large, connection, f"UPDATE terminal SET name = name || '.' WHERE terminal_id IN "
                                 f"(SELECT terminal_id FROM terminal LIMIT {min(BULK, merchants)})")
        finally:
            await connection.close()
        await asyncio.sleep(1)
        after = pulses(large)
        result |= {"change_s": round(max(single), 3), "bulk": min(BULK, merchants), "bulk_s": round(bulk, 3),
                   "pulses": after[0] - before[0], "blocked": after[1] - before[1],
                   "rss_after_changes_mb": round(max(memory(each["pid"]) for each in workers_of(large)), 1)}
        say(f"{max(sizes):.0f} MB a worker; a change is everywhere after {result['change_s']} s, {result['bulk']} in one commit after "
            f"{result['bulk_s']} s; of {result['pulses']} looks at the loops {result['blocked']} were late by more than {BLOCKED_S_MAX} s")
        small = await start(processes, home, "small", other, stub, SMALL, options.workers)
        pairs = await costs(small, large, cluster, merchants, options.pairs, options.seconds)
    share = statistics.median((each["large"] / each["small"] - 1) * 100 for each in pairs)
    result |= {"small_us": round(statistics.median(each["small"] for each in pairs), 1),
               "large_us": round(statistics.median(each["large"] for each in pairs), 1), "added_percent": round(share, 2),
               "service_added_percent": round(statistics.median((each["service_large"] / each["service_small"] - 1) * 100 for each in pairs), 2)}
    limits = (("start_s", START_S_MAX), ("rss_mb", RSS_MB_MAX), ("rss_after_changes_mb", RSS_MB_MAX), ("change_s", CHANGE_S_MAX),
              ("blocked", 0.0), ("added_percent", SHARE_MAX))
    return [f"{name} is {result[name]}, at most {limit:g} allowed" for name, limit in limits if result[name] > limit]


def main() -> int:
    options_of = parser("directory", __doc__)
    options_of.add_argument("--merchants", type=int, default=100_000, help=f"with {TILLS} terminals each; default: 100,000")
    options_of.add_argument("--workers", type=int, default=2)
    options_of.add_argument("--pairs", type=int, default=5)
    options_of.add_argument("--seconds", type=float, default=6.0)
    options = options_of.parse_args()
    return measured("directory", lambda result, processes, home: asyncio.run(measure(options, result, processes, home)))


if __name__ == "__main__":
    sys.exit(main())
