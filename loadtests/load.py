"""`make load`: a demo switch of its own, three Locust runs (steady, ramp, spike), a report, and the three books compared at the end.

Prints progress; its last line is one JSON object whose "differences" must be 0, else it exits with 1.
"""
import argparse
import contextlib
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loadtests import books
from loadtests.books import Told
from loadtests.driver import percentile
from loadtests.processes import Processes, RunError
from loadtests.services import ROOT, Merchant, environment, onboard, start_demo

SHARES = (0.5, 0.9, 0.95, 0.99, 1.0)
Times = dict[str, list[float]]


def shapes(users: int, seconds: float) -> dict[str, list[tuple[float, int, float]]]:
    """Name -> steps of (seconds, users, users started per second)."""
    fifth, low = seconds / 5, max(1, users // 4)
    return {
        "steady": [(seconds, users, users)],
        "ramp": [(fifth, max(1, users * step // 5), users) for step in range(1, 6)],
        "spike": [(2 * fifth, low, users), (fifth, users * 2, users * 2), (2 * fifth, low, users)],
    }


def say(text: str) -> None:
    print(text, flush=True)


class Load:
    def __init__(self, options: argparse.Namespace, home: Path) -> None:
        self.options, self.home = options, home
        self.processes = Processes(home)
        self.times: dict[str, Times] = {}
        self.seconds: dict[str, float] = {}
        self.told: list[Told] = []
        self.differences: Counter[str] = Counter({"replay_not_identical": 0, "silence_not_202": 0})

    def run(self) -> None:
        demo = start_demo(self.processes, self.home)
        say(f"switch at {demo['base_url']}; onboarding {self.options.merchants} merchants with {self.options.terminals} terminals each")
        merchants = self.onboard(demo)
        before = books.effects(demo["stub_control_url"])
        time.sleep(2.0)  # every worker reads the directory's change log at least once a second
        for name, steps in shapes(self.options.users, self.options.seconds).items():
            self.drive(name, steps, demo, merchants)
        keys = [merchant.key for merchant in merchants]
        self.differences["still_open_after_waiting"] = self.wait_until_finished(demo["base_url"], keys)
        say("comparing the books of terminals, switch and stub")
        booked = {row["id"]: row for key in keys for row in books.transactions(demo["base_url"], key)}
        net = {place: value for place, value in books.effects(demo["stub_control_url"]).items() if place not in before}
        self.differences.update(books.compare(self.told, booked, net))
        say(f"{len(self.told)} told, {len(booked)} in the switch, {sum(value != 0 for value in net.values())} standing at the stub")

    def onboard(self, demo: dict[str, Any]) -> list[Merchant]:
        variables = environment(self.home, SWITCH_DATABASE_URL=demo["database_url"])
        names = [f"Load {number}" for number in range(1, self.options.merchants + 1)]
        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(lambda name: onboard(self.processes, variables, name, self.options.terminals), names))

    def drive(self, name: str, steps: list[tuple[float, int, float]], demo: dict[str, Any], merchants: list[Merchant]) -> None:
        out, plan = self.home / f"{name}.json", self.home / f"{name}-plan.json"
        plan.write_text(json.dumps({
            "terminals": [(merchant.id, key) for merchant in merchants for key in merchant.terminal_keys], "shape": steps, "out": str(out),
            "stub_control_url": demo["stub_control_url"], "silence_every": self.options.silence_every,
            "first_number": 1 + len(self.times) * 1_000_000}))
        command = [sys.executable, "-m", "locust", "--headless", "-f", str(ROOT / "loadtests" / "locustfile.py"),
                   "--host", demo["base_url"], "--only-summary",
                   "--stop-timeout", "50", "--exit-code-on-error", "0", "--loglevel", "WARNING"]
        total = sum(seconds for seconds, _, _ in steps)
        say(f"{name}: {max(users for _, users, _ in steps)} terminals at most, {total:.0f} s")
        self.processes.run(f"locust-{name}", command, environment(self.home, LOAD_PLAN=str(plan)), total + 90)
        result = json.loads(out.read_text())
        self.times[name], self.seconds[name] = result["times"], total
        self.told += [Told(*row) for row in result["told"]]
        self.differences.update(result["faults"])
        say(f"{name}: {sum(map(len, self.times[name].values())) / total:.0f} answers/s; "
            + ", ".join(f"{status}: {len(values)}" for status, values in sorted(self.times[name].items())))

    def wait_until_finished(self, base_url: str, keys: list[str], seconds: float = 60.0) -> int:
        end = time.monotonic() + seconds
        while (left := books.unfinished(base_url, keys)) and time.monotonic() < end:
            time.sleep(1.0)
        return left


def rows(load: Load) -> list[dict[str, Any]]:
    """One row per shape and status, and per status over all shapes: count, rate per second, percentiles in milliseconds."""
    everything: defaultdict[str, list[float]] = defaultdict(list)
    found = []
    for name, times in [*load.times.items(), ("all", everything)]:
        total = load.seconds.get(name) or sum(load.seconds.values())
        for status, values in sorted(times.items()):
            if name != "all":
                everything[status] += values
            found.append({"shape": name, "status": status, "count": len(values), "per_s": round(len(values) / total, 1)}
                         | {f"p{share * 100:g}_ms": round(percentile(values, share) * 1e3, 2) for share in SHARES})
    return found


def write_report(load: Load, result: dict[str, Any], reports: Path) -> None:
    found = rows(load)
    (reports / "load.json").write_text(json.dumps({"result": result, "rows": found}, indent=1) + "\n")
    heads = list(found[0]) if found else []
    lines = ["# Load run", "", f"Terminals at most: {load.options.users * 2}. Each shape: {load.options.seconds:.0f} s. "
             "Times are what a terminal waits, by the status it was told.", "",
             f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}", *(f"| {' | '.join(map(str, row.values()))} |" for row in found), "",
             "## Differences between the books (all must be 0)", "", "| kind | count |", "|---|---|",
             *(f"| {kind} | {count} |" for kind, count in sorted(load.differences.items())), ""]
    (reports / "load.md").write_text("\n".join(lines))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtests.load", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--users", type=int, default=40, help="terminals in the steady run; the spike has twice as many")
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each of the three runs")
    parser.add_argument("--merchants", type=int, default=4)
    parser.add_argument("--terminals", type=int, default=4, help="per merchant")
    parser.add_argument("--silence-every", type=int, default=3, help="one in so many candidates meets a silent acquirer")
    return parser.parse_args()


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def main() -> int:
    options = arguments()
    reports = ROOT / "reports"
    reports.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="load-", dir=reports))
    load, failure = Load(options, home), ""
    signal.signal(signal.SIGTERM, interrupt)
    try:
        load.run()
    except (RunError, OSError, ValueError, subprocess.SubprocessError) as error:
        failure = str(error) or type(error).__name__
    except KeyboardInterrupt:
        failure = "interrupted"
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            load.processes.stop_all()
            shutil.rmtree(home, ignore_errors=True)
    differences = sum(load.differences.values())
    result = {"differences": differences if not failure else None, "answers": sum(len(v) for t in load.times.values() for v in t.values()),
              "failure": failure, **load.differences}
    write_report(load, result, reports)
    if failure:
        say(f"FAILED: {failure}")
    say(json.dumps(result))
    return 1 if failure or differences else 0


if __name__ == "__main__":
    sys.exit(main())
