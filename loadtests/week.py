"""The days between the first payout and the change of the acquirer (loadtests/journey.py): a week of business, with a weekend and a holiday, and the
payout at its end that the contract says. Business dates go on at each cut-over; the clock does not, so payouts are asked for as of their date,
which a demo may.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Protocol

from loadtests.device import Device
from loadtests.measured import say
from loadtests.processes import RunError

DAYS = 6  # business days; each costs the few seconds of a cut-over
WEEKEND, ALL = frozenset({6, 7}), frozenset(range(1, 8))
HOUSE, WEEKLY = "harbour", "once-a-week"  # calendars: of the acquirer's days, and of the merchants' payouts
ONE = timedelta(days=1)


class Person(Protocol):
    def ask(self, method: str, path: str, body: object = None, *, wants: tuple[int, ...] = (200, 201)) -> Any: ...


class Shop(Protocol):
    """Of a merchant: its name, who owns it, and its till."""

    name: str
    owner: Person
    device: Device


@dataclass(frozen=True)
class Week:
    """From `first`, a day on which all were paid, to the next such day, and on. `cut_over` ends the acquirer's day and tells its date;
    `pay` has the bank pay what is due on a date."""

    operator: Person
    acquirer: str
    first: date
    cut_over: Callable[[], str]
    pay: Callable[[date], None]

    @property
    def holiday(self) -> date:
        """The third working day."""
        return [day for ahead in range(1, 8) if (day := self.first + ahead * ONE).isoweekday() not in WEEKEND][2]

    def arranged(self) -> None:
        """Before any contract names the calendar of its payouts."""
        self.operator.ask("PUT", f"/v1/calendars/{WEEKLY}", {"weekend": sorted(ALL - {self.first.isoweekday()})})

    def begins(self) -> None:
        """From the first cut-over on the acquirer has days off."""
        holidays = [{"day": str(self.holiday), "kind": "holiday"}]
        self.operator.ask("PUT", f"/v1/calendars/{HOUSE}", {"weekend": sorted(WEEKEND), "exceptions": holidays})
        self.operator.ask("PUT", f"/v1/acquirers/{self.acquirer}/business-day", {"calendar": HOUSE, "cut_over_minute": 1440})

    def passed(self, shops: list[Shop]) -> None:
        """Each day sold, and one day given back; after a week everybody is paid what its days came to."""
        payday, before, paid = self.first + 7 * ONE, self.first, False
        for number in range(DAYS):
            for shop in shops:
                _traded(shop, 1_200 + 700 * number, refund=500 if number == 1 else 0)
            day = date.fromisoformat(self.cut_over())
            _skipped(before, day, self.holiday)
            say(f"J10 {day:%a} {day}: {'; '.join(_came_to(shop, day) for shop in shops)}")
            before = day
            if not paid and self._next() > payday:
                self.pay(payday)
                for shop in shops:
                    _paid(shop, payday)
                paid = True
        if not paid:
            raise RunError(f"the week has no end: {before} is before {payday}")

    def _next(self) -> date:
        return date.fromisoformat(self.operator.ask("GET", f"/v1/acquirers/{self.acquirer}")["business_date"])


def _traded(shop: Shop, amount: int, refund: int) -> None:
    sales = [shop.device.sell(amount), shop.device.sell(amount + 350)]
    back = [shop.device.terminal.follow("refunds", str(sales[0].id), {"amount": refund})] if refund else []
    batch = shop.device.terminal.close_batch(shop.device.memory["terminal"])
    if not all(each.sold for each in (*sales, *back)) or not batch["in_balance"]:
        raise RunError(f"{shop.name} sold {sales}, gave back {back}, batch {batch}")


def _skipped(before: date, day: date, holiday: date) -> None:
    off = [before + ahead * ONE for ahead in range(1, (day - before).days)]
    if off:
        say(f"    {', '.join(f'{each:%a}' for each in off)}: {'a holiday' if holiday in off else 'the weekend'}, no business day")


def _came_to(shop: Shop, day: date) -> str:
    """What the settlement of the day says."""
    (settlement,) = shop.owner.ask("GET", f"/v1/settlements?from={day}&to={day}")["items"]
    back = f", back {settlement['refunds'] / 100:.2f}" if settlement["refunds"] else ""
    return f"{shop.name} sold {settlement['sales'] / 100:.2f}{back}, net {settlement['net'] / 100:.2f}, due {settlement['due_on']}"


def _paid(shop: Shop, payday: date) -> None:
    """The payout is what the settlements due that day came to."""
    payout = shop.owner.ask("GET", "/v1/payouts?limit=1")["items"][0]
    whole = shop.owner.ask("GET", f"/v1/payouts/{payout['id']}")
    nets = [shop.owner.ask("GET", f"/v1/settlements/{each}") for each in whole["settlements"]]
    if payout["state"] != "confirmed" or sum(each["net"] for each in nets) != payout["amount"] or {each["due_on"] for each in nets} != {f"{payday}"}:
        raise RunError(f"{shop.name} was paid {payout} for {nets}")
    say(f"J12 {shop.name} is paid for {len(nets)} days of the week: {payout['amount'] / 100:.2f} CNY {payout['state']}")
