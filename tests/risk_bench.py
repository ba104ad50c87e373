"""`python -m tests.risk_bench`: what judging a sale by the rules of loadtests/risk.py costs, without a service: time and calls per sale.

4,999 cards at one terminal, 2,800 sales a second by the clock of the sales, so that parts of windows end as they do under load. The best of the
rounds counts. Calls are those of Python and C functions (sys.setprofile), which do not depend on the machine. The last line is one JSON object.
"""

import json
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from loadtests.risk import RULES
from switch.payments.guard import Guard
from switch.payments.risk import Book
from switch.payments.velocity import Sale
from switch.watchlist import RiskRule, Watchlist, conditions

CARDS, PER_SECOND, ROUNDS, SALES = 4999, 2800, 7, 20_000
BEGIN_MS = 1_790_000_000_000
MERCHANT, STORE, TERMINAL = (UUID(int=number) for number in (1, 2, 3))


def rules() -> list[RiskRule]:
    absent = {"time_from": None, "time_until": None}
    return [RiskRule(rule_id=UUID(int=1000 + number), name=f"Rule {number}", action="decline", **conditions({**absent, **said}))
            for number, said in enumerate(RULES)]


def sales(count: int = SALES, begin_ms: int = BEGIN_MS) -> list[Sale]:
    tokens = [number.to_bytes(32, "big") for number in range(CARDS)]
    return [Sale(MERCHANT, STORE, TERMINAL, tokens[number % CARDS], "5812", "visa", "chip", "purchase", 100_000 + number % 8999 * 100, "CNY",
                 begin_ms + number * 1000 // PER_SECOND, 720) for number in range(count)]


def asked(made: list[Sale]) -> tuple[Guard, list[Any]]:
    """A worker's guard, and sales as they come to it."""
    watchlist, zone = Watchlist(), ZoneInfo("Asia/Shanghai")
    for rule in rules():
        watchlist.take(rule)
    directory: Any = SimpleNamespace(watchlist=watchlist, merchants={})
    vault: Any = SimpleNamespace(token=lambda pan: pan)
    seller = SimpleNamespace(merchant=SimpleNamespace(merchant_id=MERCHANT, mcc="5812", zone=zone), store=SimpleNamespace(store_id=STORE),
                             terminal=SimpleNamespace(terminal_id=TERMINAL))
    came = [SimpleNamespace(order=SimpleNamespace(pan=sale.card, entry_mode=sale.entry_mode, type=sale.type, amount=sale.amount, currency=sale.currency),
                            seller=seller, brand=sale.brand, identity=UUID(int=number),
                            door=SimpleNamespace(received_at=datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=sale.at_ms)))
            for number, sale in enumerate(made)]
    return Guard(directory, vault), came


def calls(work: Callable[[Any], object], given: list[Any]) -> float:
    count = 0

    def called(_: object, event: str, __: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(called)
    for each in given:
        work(each)
    sys.setprofile(None)
    return round((count - 1) / len(given), 1)


def best(make: Callable[[], tuple[Callable[[Any], object], list[Any]]]) -> dict[str, float]:
    """Microseconds and calls per sale, once every card is known."""
    found = []
    for _ in range(ROUNDS):
        work, given = make()
        for each in given[:2 * CARDS]:
            work(each)
        timed = given[2 * CARDS:-1000]
        began = time.perf_counter()
        for each in timed:
            work(each)
        found.append((time.perf_counter() - began) / len(timed) * 1e6)
    return {"us": round(min(found), 2), "calls": calls(work, given[-1000:])}


def judging() -> tuple[Callable[[Any], object], list[Any]]:
    return Book(rules(), {}).judge, sales()


def guarding() -> tuple[Callable[[Any], object], list[Any]]:
    guard, came = asked(sales())

    def work(each: Any) -> None:
        judged = guard.judge(each)
        guard.ended(each.identity, judged, written=True, sold=True, declined=False)

    return work, came


def main() -> int:
    result = {"rules": len(RULES), "judge": best(judging), "guard": best(guarding)}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
