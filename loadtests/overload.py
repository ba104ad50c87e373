"""Overload where the acquirer is the limit: a stub capped at 150 answers a second, ten times as much offered, and a second merchant beside it.

`python -m loadtests.overload [--seconds 60] [--closed]`. Goodput, the time of shed answers, the second merchant's success, memory and three books.
Prints progress; its last line is one JSON object; a broken limit is a line `FAILED: ...` and exit 1. Everything goes into reports/overload.json.
"""
import argparse
import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from loadtests import books
from loadtests.driver import Connection, Driver, Workload, percentile
from loadtests.processes import Processes, RunError, call, rss_mb
from loadtests.services import BOOKED, ROOT, SWITCH, Cluster, Stub, environment, onboard, start_stub

CAPACITY, DELAY = 150, 0.2  # of the stub: answers a second, seconds
OFFERED, SMALL_RATE = 1500, 20  # requests a second of the first and of the second merchant
CONNECTIONS = 400
CLOSED = (64, 640)
ANSWER_TIMEOUT = 3.0
GOODPUT_MIN, SHED_P99_MAX_MS, SMALL_MIN, CLOSED_MIN, GROWTH_MAX_MB = 0.90, 50.0, 0.99, 0.85, 8.0
SETTLE_S = 10.0  # for reversals, if any


class Watched(Driver):
    """A driver that keeps, of each second, how many were approved, and of each shed answer its time."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self.shed: array[float] = array("d")
        self.approved_at: array[float] = array("d")

    def answered(self, connection: Connection, status: str) -> None:
        now = time.perf_counter()
        if status == "201 approved":
            self.approved_at.append(now)
        elif status.startswith("503"):
            self.shed.append(now - connection.since)
        super().answered(connection, status)

    def goodput(self, since: float, until: float) -> float:
        return sum(since < at <= until for at in self.approved_at) / (until - since)


class Shop(NamedTuple):
    process: Any
    url: str
    keys: tuple[str, str]  # a terminal of each merchant
    database_url: str
    stub: Stub


class Overload:
    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.options, self.home = options, home
        self.processes = Processes(home)
        self.result: dict[str, Any] = {}
        self.broken: list[str] = []

    async def run(self) -> None:
        cluster = Cluster(self.processes, self.home / "cluster")
        await cluster.check()
        if not self.options.closed:
            async with self.shop(cluster) as shop:
                await self.open_loop(shop)
        else:
            async with self.shop(cluster) as shop:
                await self.closed_loop(shop)

    @asynccontextmanager
    async def shop(self, cluster: Cluster) -> AsyncIterator[Shop]:
        """A switch with two merchants and one capped acquirer, on a fresh database."""
        async with cluster.fresh() as database_url:
            home = self.home / "switch"
            stub = start_stub(self.processes, self.home)
            variables = environment(home, SWITCH_DATABASE_URL=database_url, SWITCH_HOST="127.0.0.1", SWITCH_PORT="0")
            self.processes.run("migrate", [*SWITCH, "migrate"], variables)
            keys = [onboard(self.processes, variables, name, 1).terminal_keys[0] for name in ("Big", "Small")]
            self.processes.run("acquirer", [*SWITCH, "acquirer", "add", "capped", "--host", "127.0.0.1", "--port", str(stub.port),
                                            "--answer-timeout", f"{ANSWER_TIMEOUT:g}"], variables)
            self.processes.run("route", [*SWITCH, "route", "add", "--acquirer", "capped"], variables)
            process, line = self.processes.start("switch", [*SWITCH, "serve"], variables, "base_url")
            call("POST", f"{stub.control_url}/host", {"capacity": CAPACITY, "delay": DELAY})
            try:
                yield Shop(process, str(line["base_url"]), (keys[0], keys[1]), database_url, stub)
            finally:
                for each in (process, stub.process):
                    self.processes.stop(each)

    async def open_loop(self, shop: Shop) -> None:
        seconds = self.options.seconds
        big, small = (Watched(Workload(shop.url, key)) for key in shop.keys)
        await big.connect(CONNECTIONS)
        started = time.perf_counter()
        memory = asyncio.create_task(self.memory(shop, seconds))
        first = asyncio.create_task(big.open(OFFERED, seconds))
        await asyncio.sleep(seconds / 3)
        await small.connect(CONNECTIONS // 10)  # few enough that each is used before the switch hangs up on it
        of_small = await small.open(SMALL_RATE, seconds * 2 / 3)
        of_big = await first
        goodput = big.goodput(started, started + seconds) + small.goodput(started, started + seconds)
        success = of_small.approved / max(1, sum(of_small.statuses.values()))
        shed = [*big.shed, *small.shed]
        say(f"first merchant {dict(of_big.statuses)}, second {dict(of_small.statuses)}")
        self.result |= {
            "seconds": seconds, "offered_per_s": OFFERED, "capacity_per_s": CAPACITY, "goodput_per_s": round(goodput, 1),
            "goodput_share": round(goodput / CAPACITY, 3), "shed": len(shed), "shed_p50_ms": round(percentile(shed, 0.5) * 1e3, 1),
            "shed_p99_ms": round(percentile(shed, 0.99) * 1e3, 1), "second_merchant_success": round(success, 4),
            "second_merchant_p99_ms": round(percentile(of_small.times, 0.99) * 1e3, 1)} | await memory
        for driver in (big, small):
            driver.close()
        self.limit("goodput_share", at_least=GOODPUT_MIN)
        self.limit("shed_p99_ms", at_most=SHED_P99_MAX_MS)
        self.limit("second_merchant_success", at_least=SMALL_MIN)
        self.limit("rss_growth_mb", at_most=GROWTH_MAX_MB)
        await self.compare(shop, big, small)

    async def closed_loop(self, shop: Shop) -> None:
        """Few connections and ten times as many, each sending its next request as soon as it has an answer, shed or not."""
        drivers, rates = [], []
        for count in CLOSED:
            driver = Watched(Workload(shop.url, shop.keys[0]))
            drivers.append(driver)
            await driver.connect(count)
            started = time.perf_counter()
            tally = await driver.closed(self.options.seconds)
            rates.append(driver.goodput(started, started + self.options.seconds))
            say(f"{count} connections: {rates[-1]:.1f} approved a second, {dict(tally.statuses)}")
            driver.close()
        self.result |= {"closed_seconds": self.options.seconds, "closed_64_per_s": round(rates[0], 1), "closed_640_per_s": round(rates[1], 1),
                        "closed_share": round(rates[1] / max(rates[0], 0.001), 3)}
        self.limit("closed_share", at_least=CLOSED_MIN)
        await self.compare(shop, *drivers)

    async def memory(self, shop: Shop, seconds: float) -> dict[str, float]:
        """Resident size of the worker after a third and at the end."""
        await asyncio.sleep(seconds / 3)
        before = rss_mb(shop.process.pid)
        await asyncio.sleep(seconds * 2 / 3)
        after = rss_mb(shop.process.pid)
        return {"rss_mb": round(after, 1), "rss_growth_mb": round(after - before, 1)}

    async def compare(self, shop: Shop, *drivers: Watched) -> None:
        """Approvals answered = rows = the stub's book, in number and sum, once every reversal is acknowledged."""
        answered = (sum(driver.total.approved for driver in drivers), sum(driver.total.approved_amount for driver in drivers))
        end = time.monotonic() + SETTLE_S
        while True:
            connection = await asyncpg.connect(shop.database_url)
            try:
                (row,) = await connection.fetch(BOOKED["switch"])
            finally:
                await connection.close()
            found = {"answered": answered, "rows": (row["approvals"], row["amount"]), "stub": books.totals(shop.stub.control_url)}
            if len(set(found.values())) == 1 or time.monotonic() > end:
                break
            await asyncio.sleep(0.5)
        self.result["differences"] = len(set(found.values())) - 1
        if self.result["differences"]:
            self.broken.append(f"the books differ (count, sum): {found}")

    def limit(self, figure: str, *, at_least: float | None = None, at_most: float | None = None) -> None:
        value = self.result[figure]
        if at_least is not None and value < at_least:
            self.broken.append(f"{figure} is {value}, not at least {at_least:g}")
        if at_most is not None and value > at_most:
            self.broken.append(f"{figure} is {value}, not at most {at_most:g}")


def say(text: str) -> None:
    print(text, flush=True)


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.overload", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each measured phase")
    parser.add_argument("--closed", action="store_true", help="640 connections against 64, each as fast as it is answered")
    options = parser.parse_args()
    reports = ROOT / "reports"
    reports.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="overload-", dir=reports))
    overload = Overload(options, home)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        asyncio.run(overload.run())
    except (RunError, OSError, ValueError, asyncpg.PostgresError) as error:
        overload.broken.append(str(error) or type(error).__name__)
    except KeyboardInterrupt:
        overload.broken.append("interrupted")
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            overload.processes.stop_all()
            shutil.rmtree(home, ignore_errors=True)
    result = overload.result | {"failure": "; ".join(overload.broken)}
    (reports / "overload.json").write_text(json.dumps({"result": result, "cpus": os.cpu_count(), "options": vars(options)}, indent=1) + "\n")
    if overload.broken:
        say(f"FAILED: {result['failure']}")
    say(json.dumps(result))
    return 1 if overload.broken else 0


if __name__ == "__main__":
    sys.exit(main())
