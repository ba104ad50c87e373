"""Imports at full size: 50,000 terminals beside payments, bad and cut files, a kill in the middle. `python -m loadtests.imports --help`.

The file is written here and goes in over HTTP; what it made is counted in the database.
"""
import argparse
import asyncio
import gzip
import http.client
import json
import os
import signal
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from loadtests.driver import Driver, Workload, percentile
from loadtests.measured import Result, measured, parser, say
from loadtests.processes import Processes, RunError, call, memory, tree
from loadtests.services import SWITCH, Cluster, Service, environment, start_stub, start_switch

BLOCKED_MS_MAX, GROWTH_MB_MAX = 50.0, 150.0
HEAD = ("merchant", "merchant_name", "mcc", "store", "store_name", "city", "terminal", "terminal_name", "acquirer", "card_acceptor_terminal",
        "card_acceptor")
COUNTS = """SELECT (SELECT count(*) FROM merchant) AS merchant, (SELECT count(*) FROM store) AS store, (SELECT count(*) FROM terminal) AS terminal,
(SELECT count(*) FROM acquirer_terminal) AS number"""
BAD = ("mcc", "terminal_name", "acquirer", "merchant", "twice")  # what is wrong, by turns


def sheet(prefix: str, merchants: int, terminals: int, bad_every: int = 0) -> bytes:
    """A row a terminal, spread evenly over merchants with a store each; with `bad_every`, every so many-th row has one fault."""
    rows = [",".join(HEAD)]
    each = max(1, terminals // merchants)
    good = ""
    for number in range(terminals):
        shop, till = number // each, number % each + 1
        cells = {"merchant": f"{prefix}-{shop:05d}", "merchant_name": f"面馆 {prefix} {shop:05d}", "mcc": "5812", "store": "1",
                 "store_name": "人民路", "city": "上海", "terminal": str(till), "terminal_name": f"Till {till}", "acquirer": "bench",
                 "card_acceptor_terminal": f"{prefix}{number:07d}", "card_acceptor": f"{prefix}{shop:010d}"}
        if bad_every and number % bad_every == bad_every - 1:
            fault = BAD[number // bad_every % len(BAD)]
            rows.append(good if fault == "twice" else ",".join((cells | {fault: "=1+1"}).values()))
        else:
            rows.append(good := ",".join(cells.values()))
    return ("\r\n".join(rows) + "\r\n").encode()


class Watch(threading.Thread):
    """The most memory of the service's largest process, and how long it lets a small question wait at most."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.service, self.over = service, threading.Event()
        self.most_mb, self.wait_ms = 0.0, 0.0

    def run(self) -> None:
        url = urllib.parse.urlsplit(self.service.url)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=30)
        pids = tree(self.service.process.pid)
        while not self.over.wait(0.01):
            began = time.perf_counter()
            try:
                connection.request("GET", "/healthz")
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                return  # killed on purpose
            self.wait_ms = max(self.wait_ms, (time.perf_counter() - began) * 1000)
            self.most_mb = max(self.most_mb, *(memory(pid) for pid in pids))

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join(10)


class Office(NamedTuple):
    """An operator at one running switch."""

    base: str
    key: str

    def bring(self, data: bytes, **asked: object) -> tuple[int, dict[str, Any]]:
        url = urllib.parse.urlsplit(self.base)
        connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=60)
        try:
            connection.request("POST", "/v1/imports?" + urllib.parse.urlencode({k: str(v).lower() for k, v in asked.items()}), data,
                               {"Authorization": f"Bearer {self.key}", "Content-Type": "text/csv"})
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def one(self, ident: str) -> dict[str, Any]:
        found: dict[str, Any] = call("GET", f"{self.base}/v1/imports/{ident}", key=self.key)
        return found

    async def until(self, ident: str, line: int | None = None, seconds: float = 300) -> dict[str, Any]:
        """The import when it has ended, or when it has written up to that line."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = await asyncio.to_thread(self.one, ident)
            if found["ended_at"] or (line is not None and found["written_to"] >= line):
                return found
            await asyncio.sleep(0.05)
        raise RunError(f"an import has not ended after {seconds:g} s: {found['state']}, line {found['written_to']}")

    async def whole(self, data: bytes, **asked: object) -> dict[str, Any]:
        """Taken and ended. Raises RunError when it is refused at once."""
        status, told = await asyncio.to_thread(self.bring, data, **asked)
        if status != 202:
            raise RunError(f"the file was answered {status}: {told}")
        return await self.until(told["id"])

    def late(self) -> dict[float, int]:
        """How often the loop was later than each bound, in ms."""
        with urllib.request.urlopen(f"{self.base}/metrics", timeout=10) as response:
            lines = [line for line in response.read().decode().splitlines() if line.startswith("switch_loop_late_seconds_bucket")]
        counts = [(float(line.split('le="')[1].split('"')[0]) * 1000, int(float(line.rsplit(" ", 1)[1]))) for line in lines]
        return {bound: counts[-1][1] - count for bound, count in counts}


def never_over(before: dict[float, int], after: dict[float, int]) -> float:
    """The bound, in ms, that the loop was never later than between two looks."""
    return next(bound for bound, count in after.items() if count == before[bound])


class Trial:
    """One switch, its books, and what is expected of each file."""

    def __init__(self, options: argparse.Namespace, result: Result, service: Service, office: Office, connection: Any) -> None:
        self.merchants, self.terminals, self.bad_every = options.merchants, options.terminals, options.bad_every
        self.result, self.service, self.office, self.connection = result, service, office, connection
        self.wrong: list[str] = []

    def check(self, what: str, found: object, wanted: object) -> None:
        if found != wanted:
            self.wrong.append(f"{what}: {found}, not {wanted}")

    async def counts(self) -> dict[str, int]:
        return dict(await self.connection.fetchrow(COUNTS))

    async def came(self, what: str, before: dict[str, int], merchants: int, terminals: int) -> None:
        wanted = {"merchant": merchants, "store": merchants, "terminal": terminals, "number": terminals}
        self.check(f"{what}: rows that came", {name: count - before[name] for name, count in (await self.counts()).items()}, wanted)

    async def beside(self) -> None:
        """1 % of bad rows: a dry run, a refusal, and then what is sound, beside payments."""
        data, bad, before = sheet("A", self.merchants, self.terminals, self.bad_every), self.terminals // self.bad_every, await self.counts()
        self.result["memory_before_mb"] = round(memory(self.service.process.pid), 1)
        looked = self.office.late()
        for state, asked in (("checked", {"dry_run": True}), ("refused", {})):
            began = time.monotonic()
            found = await self.office.whole(data, **asked)
            self.result[f"{state}_s"] = round(time.monotonic() - began, 2)
            self.check(state, (found["state"], found["faults"]), (state, bad))
            await self.came(state, before, 0, 0)
        self.result["check_loop_late_ms_under"] = never_over(looked, self.office.late())
        driver = Driver(Workload(self.service.url, self.service.key))
        await driver.connect(32)
        try:
            await driver.open(100, 3)
            alone = await driver.open(100, 15)
            looked = self.office.late()
            with Watch(self.service) as watch:
                began = time.monotonic()
                paying = asyncio.create_task(driver.open(100, 20))
                found = await self.office.whole(data, name="north.csv", skip_bad=True)
                seconds = time.monotonic() - began
                told = await paying
        finally:
            driver.close()
        self.check("skipping", (found["state"], found["faults"]), ("done", bad))
        await self.came("skipping", before, self.merchants, self.terminals - bad)
        self.check("payments beside it", set(told.statuses) | set(alone.statuses), {"201 approved"})
        self.result |= {
            "rows": self.terminals, "bytes": len(data), "seconds": round(seconds, 2), "paid_s": round(told.seconds, 1),
            "memory_peak_mb": round(watch.most_mb, 1), "healthz_wait_ms_max": round(watch.wait_ms, 1),
            "loop_late_ms_under": never_over(looked, self.office.late()),
            "p99_alone_ms": round(percentile(alone.times, 0.99) * 1000, 1), "p99_beside_ms": round(percentile(told.times, 0.99) * 1000, 1),
            "loop_looks_over_50_ms": self.office.late()[50.0] - looked[50.0], "p50_alone_ms": round(percentile(alone.times, 0.5) * 1000, 1),
            "p50_beside_ms": round(percentile(told.times, 0.5) * 1000, 1), "authorizations": len(told.times)}
        say(f"{self.terminals} rows in {seconds:.1f} s beside 100 authorizations a second")
        before = await self.counts()
        again = await self.office.whole(data, skip_bad=True)
        self.check("the same file again", (again["state"], set(again["made"].values())), ("done", {0}))
        await self.came("the same file again", before, 0, 0)

    async def hostile(self) -> None:
        """What cannot be read is refused at once; nothing is kept."""
        data, before = sheet("X", 100, 500), await self.counts()
        for name, bad in (("cut in a line", data[:len(data) // 2].rstrip(b"\r\n")[:-3]), ("gzip, cut", gzip.compress(data)[:-20]),
                          ("GB18030", data.decode().encode("gb18030")), ("UTF-16", data.decode().encode("utf-16")),
                          ("byte order mark", b"\xef\xbb\xbf" + data)):
            status, told = await asyncio.to_thread(self.office.bring, bad, skip_bad=True)
            self.check(name, (status, told.get("code")), (422, "file_refused"))
        await self.came("hostile files", before, 0, 0)
        size = memory(self.service.process.pid)
        with Watch(self.service) as watch:
            found = await self.office.whole(",".join(HEAD).encode() + b"\n" + b"=,=,=,=,=,=,=,=,=,=,=\n" * 100_000)
        self.check("all rows bad", (found["state"], found["faults"]), ("refused", 1_100_000))
        self.result |= {"all_bad_growth_mb": round(watch.most_mb - size, 1), "all_bad_healthz_wait_ms_max": round(watch.wait_ms, 1)}
        packed = gzip.compress(sheet("X", 10_000, 50_000, 1))
        with Watch(self.service) as watch:
            await self.office.whole(packed, dry_run=True)
        self.result |= {"gzip_bytes": len(packed), "gzip_healthz_wait_ms_max": round(watch.wait_ms, 1)}

    async def together(self) -> None:
        """The same file twice at once, and another one with it."""
        merchants, terminals = max(1, self.merchants // 5), self.terminals // 5
        before, one, other = await self.counts(), sheet("B", merchants, terminals), sheet("C", merchants, terminals)
        found = await asyncio.gather(*(self.office.whole(data) for data in (one, one, other)))
        self.check("at once", {each["state"] for each in found}, {"done"})
        self.check("at once: terminals made", sum(each["made"]["terminal"] for each in found), 2 * terminals)
        self.check("at once: faults", sum(each["faults"] for each in found), 0)
        await self.came("at once", before, 2 * merchants, 2 * terminals)


async def killed(trial: Trial, processes: Processes, variables: dict[str, str]) -> None:
    """kill -9 of every process of the service in the middle of writing; started again, the import carries on."""
    merchants, terminals, before = max(1, trial.merchants // 5), trial.terminals // 5, await trial.counts()
    _, told = await asyncio.to_thread(trial.office.bring, sheet("K", merchants, terminals))
    found = await trial.office.until(told["id"], terminals // 3)
    trial.check("when it is killed", found["state"], "writing")
    for pid in reversed(tree(trial.service.process.pid)):
        os.kill(pid, signal.SIGKILL)
    trial.service.process.wait(10)
    began = time.monotonic()
    process, line = processes.start("switch-again", [*SWITCH, "serve"], variables, "base_url")
    office = trial.office._replace(base=str(line["base_url"]))
    found = await office.until(told["id"])
    trial.result |= {"killed_at_line": found["lines"] // 3, "resumed_s": round(time.monotonic() - began, 2)}
    trial.check("after the kill", (found["state"], found["faults"], found["made"]["terminal"]), ("done", 0, terminals))
    await trial.came("after the kill", before, merchants, terminals)
    processes.stop(process)


async def measure(options: argparse.Namespace, result: Result, processes: Processes, home: Path) -> list[str]:
    cluster, stub = Cluster(processes, home), start_stub(processes, home)
    await cluster.check()
    async with cluster.fresh() as url:
        service = start_switch(processes, home, url, stub)
        variables = environment(home, SWITCH_DATABASE_URL=url, SWITCH_HOST="127.0.0.1", SWITCH_PORT="0")
        key = str(processes.run("key", [*SWITCH, "onboard", "key", "--operator", "Bench"], variables)["key"])
        connection = await asyncpg.connect(url)
        try:
            trial = Trial(options, result, service, Office(service.url, key), connection)
            await trial.beside()
            await trial.hostile()
            await trial.together()
            await killed(trial, processes, variables)
        finally:
            await connection.close()
    if result["loop_late_ms_under"] > BLOCKED_MS_MAX:
        trial.wrong.append(f"the loop was late by up to {result['loop_late_ms_under']:g} ms, more than {BLOCKED_MS_MAX:g}")
    if (growth := result["memory_peak_mb"] - result["memory_before_mb"]) > GROWTH_MB_MAX:
        trial.wrong.append(f"memory grew by {growth:.0f} MB, more than {GROWTH_MB_MAX:g}")
    return trial.wrong


def main() -> int:
    options_of = parser("imports", __doc__)
    options_of.add_argument("--merchants", type=int, default=10_000)
    options_of.add_argument("--terminals", type=int, default=50_000, help="a row each; default: 50,000")
    options_of.add_argument("--bad-every", type=int, default=100, help="one row in so many has a fault; default: 100")
    options_of.add_argument("--write", type=Path, metavar="FILE", help="only write the file")
    options = options_of.parse_args()
    if options.write:
        options.write.write_bytes(sheet("A", options.merchants, options.terminals, options.bad_every))
        return 0
    return measured("imports", lambda result, processes, home: asyncio.run(measure(options, result, processes, home)))


if __name__ == "__main__":
    sys.exit(main())
