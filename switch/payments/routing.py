"""Which acquirers may serve a sale, in order. Pure: rules, a sale, what a worker measured and an id in, acquirers out.

A rule fits when none of its conditions speaks against the sale. Fitting rules go by their rank: priority, a merchant's own before everybody's,
the longest range of card numbers, a brand, the number of other conditions. Rules of one rank share what fits them: by weight, drawn from the
id of the sale, so that the same id always gives the same order; without weights the cheaper one goes first. A rule whose acquirer is not well
(line down, or fewer answers than the rule asks for) stands behind all others, but for one sale in TRIALS, which finds out whether it is again.
Where several rules lead to one acquirer the first counts.
"""

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import blake2b
from itertools import groupby
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from switch.directory import precedence
from switch.records import Acquirer, Route

BIN_DIGITS = 12  # of a card number that rules may look at
PLANS_MAX = 10_000
SEGMENTS_MAX = 10_000  # of one plan, before they are made anew
HEALTH_SAMPLES = 20  # requests before their share of answers says anything
TRIALS = 16
DAY_MINUTES = 1440
# How payment codes begin, as their schemes publish it (UnionPay 19 digits, WeChat Pay 18, Alipay 16 to 24).
CODE_BRANDS: Mapping[str, str] = MappingProxyType({
    "62": "unionpay", **{f"{start}": "wechat" for start in range(10, 16)}, **{f"{start}": "alipay" for start in range(25, 31)},
})
WALLET = "wallet"  # every other payment code


class Health(NamedTuple):
    """What this worker lately saw of an acquirer."""

    up: bool
    asked: int
    answered: int

    def well(self, percent: int) -> bool:
        return self.up and (self.asked < HEALTH_SAMPLES or self.answered * 100 >= percent * self.asked)


class Sale(NamedTuple):
    """What rules look at. `bin`: the first digits of the card, 12 of a live sale, fewer of one in the books; `local`: at the merchant."""

    merchant_id: UUID
    mcc: str
    brand: str
    bin: str
    amount: int
    currency: str
    entry_mode: str
    local: datetime
    identity: UUID  # of its first attempt
    store_id: UUID | None = None


Group = tuple[Route, ...]  # of one rank
HealthOf = Callable[[UUID], Health | None]


class Plan:
    """The rules that may fit sales of one kind of merchant and brand, by rank. `fixed`: they say the same of each such sale."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self.groups: list[Group] = [tuple(group) for _, group in groupby(routes, key=rank)]
        self.fixed = not any(varies(route) or route.weight is not None or route.cost_basis_points is not None or route.cost_fixed is not None
                             or route.healthy_percent is not None for route in routes)
        self.timed = any(route.weekdays or route.minute_from is not None or dated(route) for route in routes)
        ranges = [(route.bin_low, route.bin_high) for route in routes if route.bin_low and route.bin_high]
        # Between two edges every card number meets the same rules.
        self.edges = sorted({edge for low, high in ranges for edge in (_padded(low, "0"), _padded(high, "9") + 1)})
        self.segments: dict[int, list[Group]] = {}

    def of_card(self, digits: str) -> list[Group]:
        """The groups without those rules that are for other card numbers."""
        if not self.edges:
            return self.groups
        if len(digits) < BIN_DIGITS:
            return _within(self.groups, digits)
        segment = bisect_right(self.edges, int(digits))
        found = self.segments.get(segment)
        if found is None:
            if len(self.segments) >= SEGMENTS_MAX:
                self.segments.clear()
            found = self.segments[segment] = _within(self.groups, digits)
        return found


class Book:
    """All rules in force, made ready for the sales that come: one plan per kind of merchant and brand, when it is first asked for."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes = sorted((route for route in routes if route.state == "active"), key=precedence)
        self.own = {route.merchant_id for route in self.routes}
        self.plans: dict[tuple[UUID | None, str, str], Plan] = {}

    def plan(self, merchant_id: UUID, mcc: str, brand: str) -> Plan:
        key = merchant_id if merchant_id in self.own else None, mcc, brand
        found = self.plans.get(key)
        if found is None:
            if len(self.plans) >= PLANS_MAX:
                self.plans.clear()
            found = self.plans[key] = Plan([route for route in self.routes if route.merchant_id in (None, merchant_id)
                                            and route.brand in (None, brand) and (route.mccs is None or mcc in route.mccs)])
        return found

    def reach(self, merchant_id: UUID, mcc: str) -> list[Route]:
        """All rules that some sale of the merchant could meet."""
        return [route for route in self.routes if route.merchant_id in (None, merchant_id) and (route.mccs is None or mcc in route.mccs)]


def rank(route: Route) -> tuple[object, ...]:
    return precedence(route)[:-1]


def varies(route: Route) -> bool:
    """Whether it looks at more than the merchant and the brand."""
    conditions = (route.bin_low, route.amount_min, route.amount_max, route.currencies, route.entry_modes, route.weekdays, route.minute_from,
                  route.stores, route.date_from, route.date_until)
    return any(condition is not None for condition in conditions)


def dated(route: Route) -> bool:
    return route.date_from is not None or route.date_until is not None


def _padded(digits: str, with_: str) -> int:
    return int(digits.ljust(BIN_DIGITS, with_))


def _within(groups: list[Group], digits: str) -> list[Group]:
    kept = (tuple(route for route in group if in_range(route, digits)) for group in groups)
    return [group for group in kept if group]


def in_range(route: Route, digits: str) -> bool:
    """Fewer digits than the range has do not fit it: nobody can know."""
    low, high = route.bin_low, route.bin_high
    return low is None or high is None or (len(digits) >= len(low) and low <= digits[:len(low)] <= high)


def _fits(route: Route, sale: Sale) -> bool:
    """The conditions that the plan has not looked at."""
    amount = sale.amount
    return not ((route.currencies is not None and sale.currency not in route.currencies)
                or (route.amount_min is not None and amount < route.amount_min) or (route.amount_max is not None and amount > route.amount_max)
                or (route.entry_modes is not None and sale.entry_mode not in route.entry_modes)
                or (route.stores is not None and sale.store_id not in route.stores)
                or ((route.weekdays is not None or route.minute_from is not None) and not on_time(route, sale.local))
                or (dated(route) and not on_date(route, sale.local)))


def on_time(route: Route, local: datetime) -> bool:
    """Whether a wall clock is within the rule's hours and days. Hours that go over midnight belong to the day on which they begin."""
    minute, weekday = local.hour * 60 + local.minute, local.isoweekday()
    start, end = route.minute_from, route.minute_until
    if start is not None and end is not None:
        if start < end:
            if not start <= minute < end:
                return False
        elif minute < end:
            weekday = weekday - 1 or 7
        elif minute < start:
            return False
    return route.weekdays is None or weekday in route.weekdays


def on_date(route: Route, local: datetime) -> bool:
    """Whether a wall clock is on one of the rule's days: from the first on, before the last."""
    day = local.date()
    return (route.date_from is None or day >= route.date_from) and (route.date_until is None or day < route.date_until)


def cost(route: Route, amount: int) -> int | None:
    """What the acquirer takes of a sale by the rule's word, in ten-thousandths of a minor unit; None: it does not say."""
    if route.cost_basis_points is None and route.cost_fixed is None:
        return None
    return amount * (route.cost_basis_points or 0) + (route.cost_fixed or 0) * 10_000


class Lot(NamedTuple):
    """A place that was drawn: `point` of `total` fell to the rule; total 0: nothing was drawn for it."""

    route: Route
    point: int = 0
    total: int = 0


def shared(group: Group, sale: Sale) -> list[Lot]:
    """The rules of one rank that fit a sale, in the order in which they serve it."""
    if len(group) == 1:
        return [Lot(group[0])]
    weighted = [route for route in group if route.weight]
    rest = [route for route in group if not route.weight]
    lots = _drawn(weighted, sale.identity)
    return lots + [Lot(route) for route in sorted(rest, key=lambda route: _cheapest(route, sale.amount))]


def _cheapest(route: Route, amount: int) -> tuple[bool, int]:
    found = cost(route, amount)
    return found is None, found or 0  # the sort keeps those of one cost in their order


def _drawn(routes: list[Route], identity: UUID) -> list[Lot]:
    """One place after the other, each by its own eight bytes of a hash of the id."""
    lots: list[Lot] = []
    digest = blake2b(identity.bytes, digest_size=64, person=b"switch-route").digest() if len(routes) > 1 else b""
    while routes:
        total = sum(route.weight or 0 for route in routes)
        at = len(lots) % 8 * 8
        point = left = int.from_bytes(digest[at:at + 8], "big") % total
        for route in routes:
            if left < (route.weight or 0):
                break
            left -= route.weight or 0
        lots.append(Lot(route, point, total))
        routes = [other for other in routes if other is not route]
    return lots


def on_trial(identity: UUID) -> bool:
    """Whether this sale goes to an acquirer that is not well as if it were."""
    return blake2b(identity.bytes, digest_size=2, person=b"switch-trial").digest()[0] % TRIALS == 0


def stands_behind(route: Route, health: Health | None, identity: UUID) -> bool:
    if route.healthy_percent is None or health is None or health.well(route.healthy_percent):
        return False
    return not (health.up and on_trial(identity))


def unmeasured(acquirer_id: UUID) -> Health | None:
    """For a choice that no line and no answer has a say in."""
    return None


def order(plan: Plan, sale: Sale, known: Container[UUID], health: HealthOf = unmeasured) -> list[Lot]:
    """All rules that fit a sale, the first one first. `known`: acquirers that know its terminal by number."""
    ahead: list[Lot] = []
    behind: list[Lot] = []
    for group in plan.of_card(sale.bin):
        fitting = tuple([route for route in group if route.acquirer_id in known and _fits(route, sale)])
        if not fitting:
            continue
        for lot in shared(fitting, sale):
            route = lot.route
            weak = route.healthy_percent is not None and stands_behind(route, health(route.acquirer_id), sale.identity)
            (behind if weak else ahead).append(lot)
    return ahead + behind


def choose(plan: Plan, sale: Sale, known: Container[UUID], acquirers: Mapping[UUID, Acquirer], health: HealthOf = unmeasured) -> list[Acquirer]:
    """The acquirers that may serve a sale, best first, each once."""
    return each_once((lot.route for lot in order(plan, sale, known, health)), acquirers)


def each_once(routes: Iterable[Route], acquirers: Mapping[UUID, Acquirer]) -> list[Acquirer]:
    found = dict.fromkeys(route.acquirer_id for route in routes)
    return [acquirers[acquirer_id] for acquirer_id in found if acquirer_id in acquirers]


def brand_of_code(start: str) -> str:
    """The brand of a payment code, by its first two digits."""
    return CODE_BRANDS.get(start, WALLET)
