"""The benchmark: CPU per durable authorization against the baseline, memory per worker, time added. `python -m loadtests.bench --help`.

Both services run as one worker on a fresh database of the same cluster with fsync and synchronous_commit on, 64 connections, one acquirer
line, the stub in fast mode, a new key per request. CPU is user + system of the service's process tree plus the postmaster's, with reaped
children, between two moments at which nothing is on the way. Approvals answered, rows and the stub's book must agree, else the run fails.
"""
import argparse
import asyncio
import contextlib
import json
import os
import platform
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import asyncpg
import uvloop

from loadtests import books
from loadtests.driver import Driver, Workload, percentile
from loadtests.processes import Processes, RunError, cpu_seconds, rss_mb
from loadtests.services import BOOKED, ROOT, Cluster, Service, start_baseline, start_stub, start_switch

CONNECTIONS = 64
OPEN_CONNECTIONS = 512  # of the open loop: more than are ever busy, so that the driver itself holds nothing back
SETTLE = 0.5  # seconds after the last answer for work that follows it
STUB_DELAY = 0.020  # seconds, subtracted from the times of the open loop
BARE_SAMPLES = 1000
RATIO_MAX, RSS_MAX, GROWTH_MAX, ADDED_MIN, ADDED_FACTOR = 0.40, 150.0, 8.0, 25.0, 8.0
FIGURES = ("ratio_to_baseline", "cpu_us_per_auth", "cpu_us_per_auth_baseline", "auths_per_s", "auths_per_s_baseline", "added_p50_ms",
           "added_p99_ms", "bare_commits_p50_ms", "bare_commits_p99_ms", "rss_mb", "rss_growth_mb")


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run: CPU in microseconds per approved authorization, split by who used it; approved per second."""

    kind: str
    approved: int
    auths_per_s: float
    cpu_us: float
    service_us: float
    postgres_us: float
    p50_ms: float
    p99_ms: float


class Bench:
    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.options, self.home = options, home
        self.processes = Processes(home)
        self.runs: list[Run] = []
        self.figures: dict[str, float | None] = dict.fromkeys(FIGURES)
        self.failures: list[str] = []
        self.details: dict[str, Any] = {}

    async def measure(self) -> None:
        say("starting PostgreSQL")
        self.cluster = Cluster(self.processes, self.home)
        await self.cluster.check()
        self.details["fsync_us"] = fsync_us(self.home)
        await self.compare()
        if self.options.skip_switch:
            return
        await self.added()
        if not self.options.skip_memory:
            await self.memory()

    @asynccontextmanager
    async def service(self, kind: str, delay: float = 0.0, connections: int = CONNECTIONS) -> AsyncIterator[tuple[Service, Driver]]:
        """A service on a fresh database with a fresh stub and a connected driver; the books are compared at the end."""
        async with self.cluster.fresh() as url:
            stub = start_stub(self.processes, self.home, delay)
            service = (start_baseline if kind == "baseline" else start_switch)(self.processes, self.home, url, stub)
            driver = Driver(Workload(service.url, service.key))
            try:
                await driver.connect(connections)
                yield service, driver
                await self.agree(service, driver)
            except RunError as error:
                raise RunError(f"{kind}: {error}; it said: {self.processes.said(service.process)}") from None
            finally:
                driver.close()
                self.processes.stop(service.process)
                self.processes.stop(stub.process)

    async def agree(self, service: Service, driver: Driver) -> None:
        """Raises RunError unless answers, rows and the stub's book tell the same number of approvals and the same sum."""
        total = driver.total
        if wrong := {status: count for status, count in total.statuses.items() if status != "201 approved"}:
            raise RunError(f"answers that are no approval: {wrong}")
        connection = await asyncpg.connect(service.database_url)
        try:
            (row,) = await connection.fetch(BOOKED[service.kind])
        finally:
            await connection.close()
        booked = books.totals(service.stub.control_url)
        found = {"answered": (total.approved, total.approved_amount), "rows": (row["approvals"], row["amount"]), "stub": booked}
        if len(set(found.values())) != 1 or not row["keys"] == row["rows"] == total.approved:
            raise RunError(f"the books differ (count, sum): {found}, keys {row['keys']}, rows {row['rows']}")

    async def compare(self) -> None:
        for pair in range(self.options.pairs):
            kinds = ["baseline"] if self.options.skip_switch else ["baseline", "switch"]
            for kind in kinds if pair % 2 == 0 else reversed(kinds):
                run = await self.one(kind)
                self.runs.append(run)
                say(f"pair {pair + 1} {kind:8} {run.auths_per_s:7.0f}/s  {run.cpu_us:6.0f} us CPU each (service {run.service_us:.0f} + "
                    f"PostgreSQL {run.postgres_us:.0f})  p50 {run.p50_ms:.1f} ms p99 {run.p99_ms:.1f} ms")
        self.summarise()

    async def one(self, kind: str) -> Run:
        async with self.service(kind) as (service, driver):
            await driver.closed(self.options.warmup)
            await asyncio.sleep(SETTLE)
            before = cpu_seconds(service.process.pid), cpu_seconds(self.cluster.pid)
            tally = await driver.closed(self.options.seconds)
            await asyncio.sleep(SETTLE)
            used = cpu_seconds(service.process.pid) - before[0], cpu_seconds(self.cluster.pid) - before[1]
        if not tally.approved:
            raise RunError(f"nothing was approved: {dict(tally.statuses)}")
        ours, postgres = (seconds * 1e6 / tally.approved for seconds in used)
        return Run(kind, tally.approved, tally.approved / tally.seconds, ours + postgres, ours, postgres,
                   percentile(tally.times, 0.5) * 1e3, percentile(tally.times, 0.99) * 1e3)

    def summarise(self) -> None:
        for kind, ending in (("switch", ""), ("baseline", "_baseline")):
            runs = [run for run in self.runs if run.kind == kind]
            if runs:
                self.figures[f"cpu_us_per_auth{ending}"] = statistics.median(run.cpu_us for run in runs)
                self.figures[f"auths_per_s{ending}"] = statistics.median(run.auths_per_s for run in runs)
        ours, theirs = self.figures["cpu_us_per_auth"], self.figures["cpu_us_per_auth_baseline"]
        if ours and theirs:
            self.figures["ratio_to_baseline"] = ours / theirs
            self.limit("CPU ratio to the baseline", ours / theirs, RATIO_MAX)

    async def added(self) -> None:
        """Times of an open loop at half of saturation, with the stub's fixed delay taken off, beside bare commits on the idle cluster."""
        saturation = self.figures["auths_per_s"]
        if not saturation:
            saturation = (await self.one("switch")).auths_per_s
        async with self.service("switch", STUB_DELAY, OPEN_CONNECTIONS) as (_, driver):
            await driver.open(saturation / 2, self.options.warmup)
            with synced(self.home) as beside:
                tally = await driver.open(saturation / 2, self.options.seconds)
        added = array("d", (seconds - STUB_DELAY for seconds in tally.times))
        bare = await bare_commits(self.cluster)
        self.details["open_loop"] = {"rate_per_s": saturation / 2, "requests": len(added), "samples_of_bare_commits": len(bare),
                                     "added_p90_ms": percentile(added, 0.9) * 1e3, "added_max_ms": max(added) * 1e3,
                                     "fsync_beside_p99_ms": percentile(beside, 0.99) * 1e3, "fsync_beside_max_ms": max(beside) * 1e3}
        for name, values in (("added", added), ("bare_commits", bare)):
            for share in (50, 99):
                self.figures[f"{name}_p{share}_ms"] = percentile(values, share / 100) * 1e3
        p99, floor = percentile(added, 0.99) * 1e3, percentile(bare, 0.99) * 1e3
        say(f"added at {saturation / 2:.0f}/s: p50 {percentile(added, 0.5) * 1e3:.2f} ms p99 {p99:.2f} ms; "
            f"two bare commits: p50 {percentile(bare, 0.5) * 1e3:.2f} ms p99 {floor:.2f} ms; "
            f"the disk meanwhile: one fsync p99 {percentile(beside, 0.99) * 1e3:.2f} ms, longest {max(beside) * 1e3:.1f} ms")
        self.limit("added p99 (ms)", p99, max(ADDED_MIN, ADDED_FACTOR * floor))

    async def memory(self) -> None:
        count = self.options.memory_count
        first = count // 10
        async with self.service("switch") as (service, driver):
            await driver.closed(3600.0, first)
            await asyncio.sleep(2.0)
            early = rss_mb(service.process.pid)
            say(f"memory after {first} authorizations: {early:.1f} MB")
            await driver.closed(3600.0, count - first)
            await asyncio.sleep(2.0)
            late = rss_mb(service.process.pid)
        say(f"memory after {count} authorizations: {late:.1f} MB")
        self.figures["rss_mb"], self.figures["rss_growth_mb"] = max(early, late), late - early
        self.limit("memory of a worker (MB)", max(early, late), RSS_MAX)
        self.limit(f"growth from {first} to {count} authorizations (MB)", late - early, GROWTH_MAX)

    def limit(self, name: str, value: float, most: float) -> None:
        if value > most:
            self.failures.append(f"{name} is {value:.3g}, at most {most:.3g} allowed")


async def bare_commits(cluster: Cluster) -> "array[float]":
    """Seconds of two single-row INSERT commits one after the other, nothing else running on the cluster."""
    times = array("d")
    async with cluster.fresh() as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute("CREATE TABLE bare_commit (id bigint PRIMARY KEY, body text NOT NULL)")
            for number in range(0, 2 * BARE_SAMPLES, 2):
                started = time.perf_counter()
                await connection.execute("INSERT INTO bare_commit VALUES ($1, $2)", number, "x" * 200)
                await connection.execute("INSERT INTO bare_commit VALUES ($1, $2)", number + 1, "x" * 200)
                times.append(time.perf_counter() - started)
        finally:
            await connection.close()
    return times


@contextlib.contextmanager
def synced(folder: Path) -> Iterator["array[float]"]:
    """Seconds of a small fdatasync beside what runs meanwhile, fifty a second: when the disk stands still, every commit does."""
    times, ended = array("d"), threading.Event()

    def work() -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            while not times or not ended.wait(0.02):
                os.pwrite(file.fileno(), bytes(512), 0)
                started = time.perf_counter()
                os.fdatasync(file.fileno())
                times.append(time.perf_counter() - started)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield times
    finally:
        ended.set()
        thread.join()


def fsync_us(folder: Path) -> float:
    """Median microseconds of writing 8 KiB and fdatasync in the folder the cluster lives in."""
    times = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(200):
            started = time.perf_counter()
            file.seek(0)
            file.write(b"\0" * 8192)
            file.flush()
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - started)
    return statistics.median(times) * 1e6


def say(text: str) -> None:
    print(text, flush=True)


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine())
    commit, changed = (subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
                       for words in (["rev-parse", "--verify", "-q", "HEAD"], ["status", "--porcelain"]))
    return {"commit": commit + ("+changes" if changed else ""), "cpu": model, "cores": os.cpu_count(), "python": platform.python_version(),
            "command": shlex.join(["python", "-m", "loadtests.bench", *sys.argv[1:]])}


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):10.1f} {min(values):10.1f} {max(values):10.1f}" if values else "         -          -          -"


def table(bench: Bench) -> None:
    say(f"\n{'':34} {'median':>10} {'lowest':>10} {'highest':>10}")
    for kind in ("baseline", "switch"):
        runs = [run for run in bench.runs if run.kind == kind]
        for label, name in (("CPU us per authorization", "cpu_us"), ("  of it in the service", "service_us"),
                            ("  of it in PostgreSQL", "postgres_us"), ("authorizations per second", "auths_per_s")):
            say(f"{kind:8} {label:25} {spread([getattr(run, name) for run in runs])}")
    pairs = zip((run for run in bench.runs if run.kind == "switch"), (run for run in bench.runs if run.kind == "baseline"), strict=False)
    ratios = [ours.cpu_us / theirs.cpu_us for ours, theirs in pairs]
    if ratios:
        say(f"CPU ratio pair by pair: {' '.join(f'{ratio:.3f}' for ratio in ratios)}")
    for name, value in bench.figures.items():
        say(f"{name:28} {'-' if value is None else f'{value:.3f}'}")


def finish(bench: Bench, reports: Path) -> int:
    table(bench)
    result = machine() | bench.details | {"figures": bench.figures, "runs": [asdict(run) for run in bench.runs],
                                          "limits_broken": bench.failures}
    reports.mkdir(exist_ok=True)
    (reports / "bench.json").write_text(json.dumps(result, indent=1) + "\n")
    for failure in bench.failures:
        say(f"FAILED: {failure}")
    say(json.dumps({name: None if value is None else round(value, 4) for name, value in bench.figures.items()}))
    return 1 if bench.failures else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warmup", type=float, default=5.0)
    parser.add_argument("--memory-count", type=int, default=200_000)
    parser.add_argument("--skip-memory", action="store_true")
    parser.add_argument("--skip-switch", action="store_true", help="measure the baseline alone")
    return parser.parse_args()


async def run(bench: Bench, options: argparse.Namespace) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    most = (options.pairs * 2 + 3) * (options.warmup + options.seconds + 120.0) + options.memory_count / 100
    try:
        async with asyncio.timeout(most):
            await bench.measure()
    except (RunError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, subprocess.SubprocessError) as error:
        bench.failures.append(f"{type(error).__name__}: {error}" if not isinstance(error, RunError) else str(error))
    except TimeoutError:
        bench.failures.append(f"not done after {most:.0f} s")
    except asyncio.CancelledError:
        bench.failures.append("interrupted")


def main() -> int:
    options = arguments()
    reports = ROOT / "reports"
    reports.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="bench-", dir=reports))  # beside the sources: /tmp may be in memory and fsync for nothing
    bench = Bench(options, home)
    try:
        uvloop.run(run(bench, options))
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            bench.processes.stop_all()
            shutil.rmtree(home, ignore_errors=True)
    return finish(bench, reports)


if __name__ == "__main__":
    sys.exit(main())
