"""What a month of one merchant comes to, worked out by itself: nothing of the switch is imported. `python -m tests.month_figures` prints it.

October 2026 in Berlin: the clocks go back on the 25th, and the 5th is a holiday. The merchant pays 1.45 % of each sale, rounded half to even by
the line; refunds are free; 5 % of a day's sales are held back for 7 days; the rest is due two working days later.
"""

import json
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

BERLIN = ZoneInfo("Europe/Berlin")
FIRST, LAST, HOLIDAY = date(2026, 10, 1), date(2026, 10, 31), date(2026, 10, 5)
BASIS_POINTS, RESERVE_BASIS_POINTS, RESERVE_DAYS, FUNDING_DAYS = 145, 500, 7, 2
Event = dict[str, Any]


def local_day(at: datetime) -> date:
    return at.astimezone(BERLIN).date()


def events(seed: int = 2026) -> list[Event]:
    """Sales, tips, refunds, and outcomes that come after their day, in the order of their instants."""
    chance, found, number = Random(seed), list[Event](), 0
    for ahead in range((LAST - FIRST).days + 1):
        noon = datetime.combine(FIRST + timedelta(days=ahead), datetime.min.time(), UTC) + timedelta(hours=12)
        instants = sorted([noon + timedelta(minutes=chance.randrange(-660, 540)) for _ in range(4)]
                          + [noon + timedelta(hours=9, minutes=30 + 10 * each) for each in range(12)][::4]  # 21:30 UTC to 22:50: around midnight
                          + [noon + timedelta(hours=10, minutes=45)])
        for at in instants:
            number += 1
            sale = {"at": at, "what": "sale", "id": number, "amount": chance.randrange(50, 40_000)}
            found.append(sale)
            fate = chance.random()
            if fate < 0.12:
                found.append({"at": at + timedelta(seconds=30), "what": "tip", "of": number, "amount": chance.randrange(1, 500)})
            elif fate < 0.24:
                found.append({"at": at + timedelta(days=chance.randrange(0, 5), hours=1), "what": "refund", "of": number,
                              "amount": chance.randrange(1, sale["amount"] + 1)})
            elif fate < 0.34:
                sale["late"] = True  # no outcome on its day
                found.append({"at": at + timedelta(days=chance.randrange(1, 4), minutes=7), "what": chance.choice(["approved", "declined"]), "of": number})
            elif fate < 0.42:
                found.append({"at": at + timedelta(days=chance.randrange(1, 4), minutes=9), "what": "undone", "of": number})
    return sorted((each for each in found if local_day(each["at"]) <= LAST), key=lambda each: each["at"])


def fee(amount: int) -> int:
    return int((Decimal(amount) * BASIS_POINTS / 10_000).quantize(Decimal(1), ROUND_HALF_EVEN))


def works(day: date) -> bool:
    return day.weekday() < 5 and day != HOLIDAY


def due(day: date) -> date:
    left = FUNDING_DAYS
    while left:
        day += timedelta(days=1)
        left -= works(day)
    return day


def figures(happened: list[Event]) -> dict[str, Any]:
    """Per day of the month: sales, refunds, adjustments, fees, net, reserve, due date; and what is owed when the last day is settled."""
    days: dict[date, dict[str, int]] = defaultdict(lambda: {"sales": 0, "refunds": 0, "adjustments": 0, "fees": 0})
    sales = {each["id"]: each for each in happened if each["what"] == "sale"}
    for each in happened:
        books, amount = days[local_day(each["at"])], each.get("amount", 0)
        if each["what"] == "refund":
            books["refunds"] += amount
        elif each["what"] in ("tip", "sale") and not each.get("late"):
            books["sales"] += amount
            books["fees"] += fee(amount)
        elif each["what"] in ("approved", "undone"):
            sign, amount = 1 if each["what"] == "approved" else -1, sales[each["of"]]["amount"]
            books["adjustments"] += sign * amount
            books["fees"] += sign * fee(amount)
    shown, owed, held = {}, 0, list[tuple[date, int]]()
    for day in sorted(days):
        books = days[day]
        net = books["sales"] - books["refunds"] + books["adjustments"] - books["fees"]
        reserve = max(0, min(int((Decimal(books["sales"]) * RESERVE_BASIS_POINTS / 10_000).quantize(Decimal(1), ROUND_HALF_EVEN)), net))
        owed += net - reserve
        held.append((day + timedelta(days=RESERVE_DAYS), reserve))
        shown[day.isoformat()] = {**books, "net": net, "reserve": reserve, "due": due(day).isoformat()}
    released = sum(amount for until, amount in held if until <= LAST)
    return {"days": shown, "owed": owed + released, "reserve": sum(amount for _, amount in held) - released,
            "fees": sum(books["fees"] for books in days.values())}


if __name__ == "__main__":
    print(json.dumps(figures(events()), indent=1))
