"""What a month of two merchants comes to, worked out by itself: nothing of the switch is imported. `python -m tests.month_figures` prints it.

October 2026 in Berlin: the clocks go back on the 25th, and the 5th is a holiday. On the 21st Boris keeps his shop shut, and is charged back all the
same. Both merchants sell at one acquirer, whose file of the 8th lacks a
line and says more than was sold in another; the line that it lacks comes in a second file on the 14th. Each fee is rounded half to even by the
line, the tax by the day; a refund costs nothing and gives nothing back; a chargeback takes its money and a fee at once, and a win or a withdrawal
brings the money back without the fee. What is free is paid out each morning, before anything else of the day.
"""

import json
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from random import Random
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

BERLIN = ZoneInfo("Europe/Berlin")
FIRST, LAST, HOLIDAY = date(2026, 10, 1), date(2026, 10, 31), date(2026, 10, 5)
FILE_OF, FILE_CAME, LATE_FILE_CAME, TOO_MUCH = date(2026, 10, 8), date(2026, 10, 9), date(2026, 10, 14), 300
DISPUTE_FEE = 2_500
SHUT = date(2026, 10, 21)
DISPUTES = ("chargeback", "won", "lost", "withdrawn")
Event = dict[str, Any]


class Merchant(NamedTuple):
    """Basis points, and minor units for amounts. `funding_days` are working days of Berlin, or all days."""

    basis_points: int
    fixed: int
    minimum: int
    tax_basis_points: int
    reserve_basis_points: int
    reserve_days: int
    funding_days: int
    working_days: bool
    minimum_payout: int
    sales_a_day: int
    largest: int


MERCHANTS = {"anna": Merchant(145, 0, 0, 1900, 500, 7, 2, True, 0, 4, 40_000), "boris": Merchant(95, 7, 25, 700, 0, 1, 1, False, 60_000, 1, 30_000)}


def local_day(at: datetime) -> date:
    return at.astimezone(BERLIN).date()


def fate(chance: Random, sale: Event) -> list[Event]:
    """What follows a sale: a tip, a refund, a late outcome, an end of it days later, a dispute, or nothing."""
    def after(days: int, what: str, **more: Any) -> Event:
        return {"at": sale["at"] + timedelta(days=days, minutes=7), "what": what, "of": sale["id"], "who": sale["who"], **more}

    drawn, days = chance.random(), chance.randrange(1, 5)
    if drawn < 0.12:
        return [after(0, "tip", amount=chance.randrange(1, 500))]
    if drawn < 0.22:
        return [after(chance.randrange(5), "refund", amount=chance.randrange(1, sale["amount"] + 1))]
    if drawn < 0.32:
        sale["late"] = True  # no outcome on its day
        told = chance.choice(["approved", "declined"])
        return [after(days, "approved" if local_day(sale["at"]) == FILE_OF else told)]
    if drawn < 0.40 and local_day(sale["at"]) != FILE_OF:
        return [after(days, "undone")]
    if drawn < 0.54:
        amount = chance.choice([sale["amount"], chance.randrange(1, sale["amount"] + 1)])
        opened = after(days, "chargeback", amount=amount)
        return [opened, after(days + chance.randrange(1, 9), chance.choice(["won", "lost", "withdrawn"]), amount=amount)]
    return []


def events(seed: int = 2026) -> list[Event]:
    """Everything that happens, in the order of its instants; files and their resolutions among it."""
    found, number = list[Event](), 0
    for who, merchant in MERCHANTS.items():
        chance = Random(f"{seed} {who}")
        for ahead in range((LAST - FIRST).days + 1):
            noon = datetime.combine(FIRST + timedelta(days=ahead), datetime.min.time(), UTC) + timedelta(hours=12)
            instants = [noon + timedelta(minutes=chance.randrange(-660, 540)) for _ in range(merchant.sales_a_day)]
            instants += [noon + timedelta(hours=9, minutes=30 + 40 * each) for each in range(3)] + [noon + timedelta(hours=10, minutes=45)]  # around midnight
            for at in sorted(instants)[:None if who == "anna" else 3]:
                number += 1
                sale = {"at": at, "what": "sale", "who": who, "id": number, "amount": chance.randrange(50, merchant.largest)}
                found += [sale, *fate(chance, sale)]
    found = [each for each in found if each["who"] != "boris" or local_day(each["at"]) != SHUT or each["what"] in DISPUTES]
    sold = {each["id"] for each in found if each["what"] == "sale"}
    found = [each for each in found if each.get("of", each.get("id")) in sold]
    followed = {each["of"] for each in found if "of" in each}
    earlier = next(each for each in found if each["what"] == "sale" and each["who"] == "boris" and each["at"].date() > LATE_FILE_CAME and each["id"] not in followed)
    found.append({"at": datetime.combine(SHUT, datetime.min.time(), UTC) + timedelta(hours=12), "what": "chargeback", "of": earlier["id"], "who": "boris",
                  "amount": earlier["amount"]})
    found += [{"at": datetime.combine(day, datetime.min.time(), BERLIN).astimezone(UTC) + timedelta(hours=2), "what": what}
              for what, day in (("file", FILE_CAME), ("late file", LATE_FILE_CAME))]
    return sorted((each for each in found if local_day(each["at"]) <= LAST), key=lambda each: each["at"])


def left_out(happened: list[Event], who: str) -> Event:
    """Of a merchant's sales of the file's day the first that nothing follows: Anna's is not in the file, Boris's is in it with too much."""
    followed = {each["of"] for each in happened if "of" in each}
    return next(each for each in happened if each["what"] == "sale" and each["who"] == who and local_day(each["at"]) == FILE_OF and each["id"] not in followed)


def differences(happened: list[Event], at: datetime, late_file: bool) -> set[tuple[str, int, int]]:
    """What the files of the day and the books do not agree about at an instant: the kind, the sale, and what the files have more."""
    lacks, more = left_out(happened, "anna"), left_out(happened, "boris")
    told = {each["of"] for each in happened if each["what"] == "approved" and each["at"] < at}
    unknown = {("missing_here", each["id"], each["amount"]) for each in happened
               if each["what"] == "sale" and each.get("late") and local_day(each["at"]) == FILE_OF and each["id"] not in told}
    return {("amount", more["id"], TOO_MUCH), *unknown} | (set() if late_file else {("missing_there", lacks["id"], -lacks["amount"])})


def part(amount: int, basis_points: int) -> int:
    return int((Decimal(amount) * basis_points / 10_000).quantize(Decimal(1), ROUND_HALF_EVEN))


def fee(merchant: Merchant, amount: int) -> int:
    return max(merchant.minimum, part(amount, merchant.basis_points) + merchant.fixed)


def works(merchant: Merchant, day: date) -> bool:
    return not merchant.working_days or (day.weekday() < 5 and day != HOLIDAY)


def due(merchant: Merchant, day: date) -> date:
    left = merchant.funding_days
    while left:
        day += timedelta(days=1)
        left -= works(merchant, day)
    return day


def settled(merchant: Merchant, day: date, happened: list[Event], sales: dict[int, Event]) -> dict[str, Any]:
    """A day of a merchant as its settlement says it."""
    books = {"sales": 0, "refunds": 0, "adjustments": 0, "fees": 0}
    for each in happened:
        amount = each.get("amount", 0)
        if each["what"] == "refund":
            books["refunds"] += amount
        elif each["what"] in ("tip", "sale") and not each.get("late"):
            books["sales"] += amount
            books["fees"] += fee(merchant, amount)
        elif each["what"] in ("approved", "undone"):
            sign, amount = 1 if each["what"] == "approved" else -1, sales[each["of"]]["amount"]
            books["adjustments"] += sign * amount
            books["fees"] += sign * fee(merchant, amount)
    tax = part(books["fees"], merchant.tax_basis_points)
    net = books["sales"] - books["refunds"] + books["adjustments"] - books["fees"] - tax
    return {**books, "tax": tax, "net": net, "reserve": max(0, min(part(books["sales"], merchant.reserve_basis_points), net)), "due": due(merchant, day)}


def disputed(happened: list[Event]) -> dict[str, int]:
    """What disputes of a day take from a merchant, give back, and cost."""
    taken = sum(each["amount"] for each in happened if each["what"] == "chargeback")
    back = sum(each["amount"] for each in happened if each["what"] in ("won", "withdrawn"))
    return {"chargebacks": taken, "chargebacks_back": back, "dispute_fees": DISPUTE_FEE * sum(each["what"] == "chargeback" for each in happened)}


def corrected(happened: list[Event], who: str, day: date) -> int:
    """What people and files of the reconciliation move for a merchant on a day: too little is taken until the late file explains it."""
    if who == "boris":
        return TOO_MUCH if day == FILE_CAME else 0
    return {FILE_CAME: -1, LATE_FILE_CAME: 1}.get(day, 0) * left_out(happened, "anna")["amount"]


def month_of(who: str, happened: list[Event]) -> dict[str, dict[str, Any]]:
    """Per day: the settlement, disputes, corrections, the morning's payout, and what is owed, held back and under way when the day is over."""
    merchant, days = MERCHANTS[who], defaultdict[date, list[Event]](list)
    sales = {each["id"]: each for each in happened if each["what"] == "sale"}
    for each in happened:
        if each.get("who") == who:
            days[local_day(each["at"])].append(each)
    shown, balance, paid, kept = dict[str, dict[str, Any]](), 0, 0, list[tuple[date, int]]()
    later = list[tuple[date, int]]()  # settled and not yet due
    for ahead in range((LAST - FIRST).days + 1):
        day = FIRST + timedelta(days=ahead)
        released = sum(amount for until, amount in kept if until == day)
        balance += released
        later = [each for each in later if each[0] > day]
        free = balance - max(0, sum(amount for _, amount in later))
        payout = free if works(merchant, day) and free > 0 and free >= merchant.minimum_payout else 0
        settlement, disputes, correction = settled(merchant, day, days[day], sales), disputed(days[day]), corrected(happened, who, day)
        balance += settlement["net"] - settlement["reserve"] - payout - disputes["chargebacks"] + disputes["chargebacks_back"] - disputes["dispute_fees"] + correction
        kept.append((day + timedelta(days=merchant.reserve_days), settlement["reserve"]))
        later.append((settlement["due"], settlement["net"] - settlement["reserve"]))
        paid += payout
        shown[day.isoformat()] = {**settlement, "due": settlement["due"].isoformat(), **disputes, "corrections": correction, "released": released, "payout": payout,
                                  "balance": balance, "held_back": sum(amount for until, amount in kept if until > day), "under_way": paid}
    return shown


def figures(happened: list[Event]) -> dict[str, Any]:
    """Of each merchant its days, and of the house what it earned, owes as tax, and is owed by the acquirer."""
    months = {who: month_of(who, happened) for who in MERCHANTS}
    every = [books for month in months.values() for books in month.values()]
    return {"merchants": months, "fees": sum(each["fees"] + each["dispute_fees"] for each in every), "tax": sum(each["tax"] for each in every),
            "acquirer": -sum(each["sales"] - each["refunds"] + each["adjustments"] - each["chargebacks"] + each["chargebacks_back"] + each["corrections"] for each in every)}


if __name__ == "__main__":
    print(json.dumps(figures(events()), indent=1))
