"""Exports of a long settlement: time to the first byte, memory, and what they do to others. `python -m loadtests.exports --help`.

The settlement's rows are written by SQL, since no load makes 100,000 of them in reasonable time; everything that is measured goes over HTTP.
"""
import argparse
import asyncio
import http.client
import sys
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg

from loadtests.measured import Result, measured, parser
from loadtests.processes import Processes, RunError, call, memory
from loadtests.services import SWITCH, Cluster, environment, start_stub, start_switch

FIRST_BYTE_MS, GROWTH_MB = 300.0, 16.0
SETTLE = """WITH day AS (
    INSERT INTO business_day (acquirer_id, business_date, state) SELECT acquirer_id, $2::date, 'closed' FROM acquirer RETURNING acquirer_id
), cut AS (
    INSERT INTO cutover (acquirer_id, business_date, next_date) SELECT acquirer_id, $2, $2 + 1 FROM day RETURNING acquirer_id
), whole AS (
    INSERT INTO settlement (merchant_id, settlement_id, acquirer_id, business_date, currency, state, sales_count, sales, fees, net, due_on)
    SELECT merchant_id, gen_random_uuid(), acquirer_id, $2, 'CNY', 'stated',
        $1::integer, $1::integer * 1050::bigint, $1::integer * 6::bigint, $1::integer * 1044::bigint, $2 + 1
    FROM cut, merchant RETURNING merchant_id, settlement_id, acquirer_id
), lines AS (
    INSERT INTO settlement_line (merchant_id, settlement_id, business_date, transaction_id, acquirer_id, kind, type, for_date, gross, fee, currency,
        rule, store_id, terminal_id, brand, card_type, entry_mode, mcc, card_last4, rrn, stan, approval_code, reference, captured_at)
    SELECT w.merchant_id, settlement_id, $2, gen_random_uuid(), acquirer_id, 'sale', 'purchase', $2, 1050, 6, 'CNY', 'standard: 0.60 %', store_id,
        terminal_id, 'visa', 'credit', 'chip', '5999', '1111', lpad(n::text, 12, '0'), lpad(n::text, 6, '0'), 'A00001', 'table 4', now()
    FROM whole w, terminal t, generate_series(1, $1::integer) n
)
SELECT settlement_id FROM whole"""


class Watching(threading.Thread):
    """Samples a process's memory, and how long it lets a small question wait."""

    def __init__(self, pid: int, base: str) -> None:
        super().__init__(daemon=True)
        self.pid, self.base, self.over = pid, base, threading.Event()
        self.most_mb, self.waits_ms = 0.0, [0.0]

    def run(self) -> None:
        while not self.over.is_set():
            begun = time.perf_counter()
            call("GET", f"{self.base}/healthz")
            self.waits_ms.append((time.perf_counter() - begun) * 1000)
            self.most_mb = max(self.most_mb, memory(self.pid))
            time.sleep(0.01)

    def __enter__(self) -> "Watching":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.join()


def download(base: str, path: str, key: str) -> tuple[float, float, int]:
    """Milliseconds to the first byte of the body, seconds to the last, bytes."""
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=300)
    begun = time.perf_counter()
    connection.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    response = connection.getresponse()
    if response.status != 200:
        raise RunError(f"{path} was answered with {response.status}")
    size = len(response.read(1))
    first = (time.perf_counter() - begun) * 1000
    while piece := response.read(1 << 16):
        size += len(piece)
    connection.close()
    return round(first, 1), round(time.perf_counter() - begun, 2), size


def workbook(base: str, settlement: str, key: str) -> float:
    """Seconds from the question to the whole file."""
    begun = time.perf_counter()
    asked = call("POST", f"{base}/v1/exports", {"of": "settlement", "settlement": settlement, "format": "xlsx"}, key)
    while (now := call("GET", f"{base}/v1/exports/{asked['id']}", key=key))["state"] != "done":
        if now["state"] in ("failed", "cancelled"):
            raise RunError(f"the export is {now['state']}: {now['error']}")
        time.sleep(0.1)
    download(base, now["file"], key)
    return round(time.perf_counter() - begun, 2)


async def settle(url: str, count: int, day: str) -> str:
    connection = await asyncpg.connect(url, command_timeout=300)
    try:
        found = await connection.fetchval(SETTLE, count, date.fromisoformat(day))
        await connection.execute("ANALYZE")
        return f"set_{found}"
    finally:
        await connection.close()


async def measure(options: argparse.Namespace, processes: Processes, home: Path) -> dict[str, Any]:
    cluster = Cluster(processes, home)
    await cluster.check()
    result: dict[str, Any] = {"lines": options.count, "rows": {}}
    async with cluster.fresh() as url:
        stub = start_stub(processes, home)
        service = start_switch(processes, home, url, stub)
        variables = environment(home, SWITCH_DATABASE_URL=url)
        key = str(processes.run("key", [*SWITCH, "onboard", "key", "--operator", "Bench"], variables)["key"])
        await asyncio.sleep(1.5)  # the worker reads its records each second
        pid = service.process.pid
        for count, day in ((options.count // 10, "2026-03-01"), (options.count, "2026-03-02")):
            settlement = await settle(url, count, day)
            for form in ("csv", "json", "xlsx"):
                before = memory(pid)
                with Watching(pid, service.url) as watched:
                    if form == "xlsx":
                        first, seconds, size = 0.0, await asyncio.to_thread(workbook, service.url, settlement, key), 0
                    else:
                        path = f"/v1/settlements/{settlement}/export?format={form}"
                        first, seconds, size = await asyncio.to_thread(download, service.url, path, key)
                waits = sorted(watched.waits_ms)
                result["rows"][f"{form} {count}"] = {
                    "first_byte_ms": first, "seconds": seconds, "bytes": size, "memory_mb": round(watched.most_mb, 1),
                    "growth_mb": round(watched.most_mb - before, 1), "others_wait_ms_p99": round(waits[len(waits) * 99 // 100], 1),
                    "others_wait_ms_max": round(waits[-1], 1)}
        for process in (service.process, stub.process):
            processes.stop(process)
    return result


def broken(result: dict[str, Any]) -> list[str]:
    found = []
    for name, row in result["rows"].items():
        if row["first_byte_ms"] > FIRST_BYTE_MS:
            found.append(f"{name}: the first byte after {row['first_byte_ms']} ms, more than {FIRST_BYTE_MS:g}")
        if row["growth_mb"] > GROWTH_MB:
            found.append(f"{name}: memory grew by {row['growth_mb']} MB, more than {GROWTH_MB:g}")
    return found


def main() -> int:
    options_of = parser("exports", __doc__)
    options_of.add_argument("--count", type=int, default=100_000, help="lines of the long settlement; a tenth of it is measured first")
    options = options_of.parse_args()

    def run(result: Result, processes: Processes, home: Path) -> list[str]:
        result |= asyncio.run(measure(options, processes, home))
        return broken(result)

    return measured("exports", run)


if __name__ == "__main__":
    sys.exit(main())
