"""`python -m tests.certify [--dialect NAME] [--only NUMBER]`: every scenario that applies to each dialect, with real processes.

Prints pass, fail, or not applicable with the reason; the last line is one JSON object. Ends with 1 when one failed.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from messages.dialect import LITERALS
from tests.certify import hosts, keys, scenarios
from tests.certify.bench import Bench, opened
from tests.certify.table import Scenario, broken
from tests.faults.stage import postgres

LONGEST_S = 120.0
SCENARIOS = sorted([*scenarios.SCENARIOS, *keys.SCENARIOS, *hosts.SCENARIOS], key=lambda each: each.number)


class Verdict(NamedTuple):
    dialect: str
    number: int
    name: str
    result: str  # pass, fail, not applicable
    reason: str
    seconds: float


async def judged(bench: Bench, scenario: Scenario) -> Verdict:
    begun, reason = time.monotonic(), scenario.needs(bench.dialect)
    if reason or scenario.run is None:
        return Verdict(bench.dialect.name, scenario.number, scenario.name, "not applicable", reason, 0.0)
    try:
        async with asyncio.timeout(LONGEST_S):
            await scenario.run(bench)
    except Exception as error:  # a scenario that fails never ends the run
        return Verdict(bench.dialect.name, scenario.number, scenario.name, "fail", broken(error), time.monotonic() - begun)
    return Verdict(bench.dialect.name, scenario.number, scenario.name, "pass", "", time.monotonic() - begun)


def say(verdict: Verdict) -> None:
    took = f"{verdict.seconds:5.1f} s" if verdict.result != "not applicable" else " " * 7
    print(f"{verdict.dialect:<13} {verdict.number:>2}  {verdict.result:<14} {took}  {verdict.name}" + (f": {verdict.reason}" if verdict.reason else ""),
          flush=True)


async def certify(cluster_url: str, folder: Path, dialect: str, only: set[int]) -> list[Verdict]:
    """All verdicts of one dialect, told as they come."""
    wanted = [each for each in SCENARIOS if not only or each.number in only]
    bench, verdicts = await opened(cluster_url, folder / dialect, dialect), list[Verdict]()
    try:
        beside = []
        for each in wanted:
            if each.beside:
                bench.begun.clear()
                beside.append(asyncio.create_task(judged(bench, each)))
                begun = asyncio.create_task(bench.begun.wait())
                await asyncio.wait([beside[-1], begun], return_when=asyncio.FIRST_COMPLETED)
                begun.cancel()
        for each in wanted:
            if not each.beside:
                verdicts.append(await judged(bench, each))
                say(verdicts[-1])
        for task in beside:
            verdicts.append(await task)
            say(verdicts[-1])
        if "Traceback" in bench.server.said:
            verdicts.append(Verdict(dialect, 0, "the switch's log", "fail", "there is a traceback in it", 0.0))
            say(verdicts[-1])
    finally:
        bench.end()
    return verdicts


async def run(cluster_url: str, folder: Path, dialects: list[str], only: set[int]) -> list[Verdict]:
    return [verdict for dialect in dialects for verdict in await certify(cluster_url, folder, dialect, only)]


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.certify", description=__doc__)
    parser.add_argument("--dialect", action="append", choices=sorted(LITERALS), help="this one alone; may be repeated")
    parser.add_argument("--only", action="append", type=int, default=[], metavar="NUMBER", help="this scenario alone; may be repeated")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # and so everything is ended
    folder = Path(tempfile.mkdtemp(prefix="certify-"))
    keeper, url = postgres(folder)
    try:
        verdicts = asyncio.run(run(url, folder, options.dialect or sorted(LITERALS), set(options.only)))
    finally:
        keeper.stop(seconds=60)
    failed = [f"{each.dialect} {each.number}" for each in verdicts if each.result == "fail"]
    results = {dialect: Counter(each.result.replace(" ", "_") for each in verdicts if each.dialect == dialect)
               for dialect in dict.fromkeys(each.dialect for each in verdicts)}
    print(json.dumps({"dialects": results, "failed": failed}))
    if failed:
        print(f"what they left stands in {folder}", file=sys.stderr)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if failed or not verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
