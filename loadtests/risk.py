"""What judging by 20 rules costs an authorization: rules on and off by turns, in one run on one service. `python -m loadtests.risk --help`.

The rules are of every kind, for all merchants, and broken by no sale of the load, so that each sale is judged by all of them and goes on.
"""
import argparse
import asyncio
import contextlib
import statistics
import sys
from pathlib import Path
from typing import Any

from loadtests.driver import Driver, Workload
from loadtests.measured import Result, measured, parser, say
from loadtests.processes import Processes, RunError, call, cpu_seconds
from loadtests.services import SWITCH, Cluster, Service, environment, start_stub, start_switch

SHARE_MAX = 8.0  # percent of the CPU of an authorization without rules
CONNECTIONS, SETTLE_S = 64, 2.5
QUIET_S, QUIET_TRIES = 0.04, 120  # of CPU in half a second
LARGE = 999_999_999
SUBJECTS = ("card", "terminal", "merchant", "store")
RULES: list[dict[str, Any]] = [
    *({"kind": "velocity", "subject": subject, "window_s": 600, "count_max": 1_000_000} for subject in SUBJECTS),
    *({"kind": "velocity", "subject": subject, "window_s": 86_400, "count_max": 1_000_000} for subject in SUBJECTS),
    *({"kind": "velocity", "subject": subject, "window_s": 3600, "amount_max": 999_999_999_999, "currency": "CNY"} for subject in SUBJECTS),
    {"kind": "amount", "amount_max": LARGE, "currency": "CNY"},
    {"kind": "night", "time_from": "01:00", "time_until": "04:00", "amount_min": LARGE, "currency": "CNY"},
    {"kind": "split", "window_s": 3600, "count_max": 1000, "amount_max": LARGE, "basis_points": 500, "currency": "CNY"},
    {"kind": "refund_ratio", "subject": "merchant", "window_s": 86_400, "count_max": 10, "basis_points": 3000, "currency": "CNY"},
    {"kind": "card_testing", "subject": "terminal", "window_s": 3600, "count_max": 20, "amount_max": 1, "currency": "CNY"},
    {"kind": "card_testing", "subject": "merchant", "window_s": 3600, "count_max": 50},
    {"kind": "card_spread", "window_s": 3600, "count_max": 10},
    {"kind": "relocated", "window_s": 86_400, "distance_km": 20_000},
]


def switch_on(base: str, key: str) -> list[str]:
    return [str(call("POST", f"{base}/v1/risk-rules", {"name": f"Rule {number}", "action": "decline", "state": "active", **rule}, key)["id"])
            for number, rule in enumerate(RULES)]


def switch_off(base: str, key: str, rules: list[str]) -> None:
    for rule in rules:
        call("POST", f"{base}/v1/risk-rules/{rule}/retire", {}, key)


async def quiet(service: Service) -> None:
    """Until the worker has read what was sold before: that is paid once for a rule, not by each sale."""
    await asyncio.sleep(SETTLE_S)
    for _ in range(QUIET_TRIES):
        before = cpu_seconds(service.process.pid)
        await asyncio.sleep(0.5)
        if cpu_seconds(service.process.pid) - before < QUIET_S:
            return
    raise RunError("the worker does not come to rest")


async def slice_of(service: Service, cluster: Cluster, driver: Driver, seconds: float) -> tuple[float, float]:
    """Microseconds of CPU per approval: of the service, and with PostgreSQL's."""
    await quiet(service)
    await driver.closed(1.0)
    await asyncio.sleep(0.3)
    before = cpu_seconds(service.process.pid), cpu_seconds(cluster.pid)
    tally = await driver.closed(seconds)
    await asyncio.sleep(0.3)
    ours, postgres = cpu_seconds(service.process.pid) - before[0], cpu_seconds(cluster.pid) - before[1]
    wrong = {status: count for status, count in tally.statuses.items() if status != "201 approved"}
    if wrong or not tally.approved:
        raise RunError(f"answers that are no approval: {wrong}")
    return ours * 1e6 / tally.approved, (ours + postgres) * 1e6 / tally.approved


async def measure(options: argparse.Namespace, result: Result, processes: Processes, home: Path) -> list[str]:
    cluster = Cluster(processes, home)
    await cluster.check()
    pairs: list[dict[str, float]] = []
    result |= {"rules": len(RULES), "pairs": pairs}
    async with cluster.fresh() as url:
        stub = start_stub(processes, home)
        service = start_switch(processes, home, url, stub)
        key = str(processes.run("key", [*SWITCH, "onboard", "key", "--operator", "Bench"], environment(home, SWITCH_DATABASE_URL=url))["key"])
        await asyncio.sleep(1.5)  # the worker reads its records each second
        driver = Driver(Workload(service.url, service.key))
        await driver.connect(CONNECTIONS)
        try:
            await driver.closed(options.warmup)
            for pair in range(options.pairs):
                figures: dict[str, float] = {}
                for on in (False, True) if pair % 2 == 0 else (True, False):
                    rules = switch_on(service.url, key) if on else []
                    name = "on" if on else "off"
                    figures[f"service_{name}_us"], figures[f"all_{name}_us"] = await slice_of(service, cluster, driver, options.seconds)
                    switch_off(service.url, key, rules)
                pairs.append({name: round(value, 1) for name, value in figures.items()})
                say(f"pair {pair + 1}: without rules {figures['all_off_us']:.0f} us, with {len(RULES)} {figures['all_on_us']:.0f} us "
                    f"(service {figures['service_off_us']:.0f} and {figures['service_on_us']:.0f})")
        finally:
            driver.close()
    added = statistics.median(each["all_on_us"] - each["all_off_us"] for each in pairs)
    share = statistics.median((each["all_on_us"] / each["all_off_us"] - 1) * 100 for each in pairs)
    result |= {"added_us": round(added, 1), "share_percent": round(share, 2)}
    say(f"judging by {len(RULES)} rules adds {added:.1f} us of CPU to an authorization, {share:.1f} %")
    return [f"judging takes {share:.1f} % of an authorization's CPU, at most {SHARE_MAX} % allowed"] if share > SHARE_MAX else []


def main() -> int:
    options_of = parser("risk", __doc__)
    options_of.add_argument("--pairs", type=int, default=5)
    options_of.add_argument("--seconds", type=float, default=10.0)
    options_of.add_argument("--warmup", type=float, default=5.0)
    options = options_of.parse_args()
    with contextlib.suppress(KeyboardInterrupt):
        return measured("risk", lambda result, processes, home: asyncio.run(measure(options, result, processes, home)))
    return 1


if __name__ == "__main__":
    sys.exit(main())
