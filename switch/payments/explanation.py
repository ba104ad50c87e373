"""Why a sale goes where it goes: which rule fired, which would be next, and what speaks against each other one. Pure, in words.

What speaks against a rule is looked for here anew, condition by condition; a test holds it against the choice.
"""

from collections.abc import Container, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from switch.directory import precedence
from switch.payments.routing import Book, Health, HealthOf, Lot, Sale, cost, in_range, on_date, on_time, on_trial, order, unmeasured
from switch.records import Acquirer, Route

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


class Judged(NamedTuple):
    """A rule and a sale. `place`: of its acquirer among the alternatives, 1 is first; None: it does not lead there."""

    route: Route
    place: int | None
    why: tuple[str, ...]


def in_force(routes: Iterable[Route], at: datetime) -> list[Route]:
    """All rules as they stood at an instant."""
    return [route._replace(state=_state(route, at)) for route in routes]


def _state(route: Route, at: datetime) -> str:
    if route.activated_at is None or at < route.activated_at:
        return "retired" if route.retired_at is not None and at >= route.retired_at else "draft"
    return "active" if route.retired_at is None or at < route.retired_at else "retired"


def explain(routes: Iterable[Route], sale: Sale, known: Container[UUID], acquirers: Mapping[UUID, Acquirer],
            health: HealthOf = unmeasured) -> list[Judged]:
    """Every rule: those that lead somewhere first, by their places, then the others in the order in which they would be looked at."""
    all_routes = sorted(routes, key=precedence)
    lots = [lot for lot in order(Book(all_routes).plan(sale.merchant_id, sale.mcc, sale.brand), sale, known, health)
            if lot.route.acquirer_id in acquirers]
    first: dict[UUID, Route] = {}
    for lot in lots:
        first.setdefault(lot.route.acquirer_id, lot.route)
    places = {route.route_id: place for place, route in enumerate(first.values(), 1)}
    led = [Judged(lot.route, places[lot.route.route_id], tuple(_for(lot, sale, health(lot.route.acquirer_id))))
           for lot in lots if lot.route.route_id in places]
    again = {lot.route.route_id: first[lot.route.acquirer_id] for lot in lots if lot.route.route_id not in places}
    rest = []
    for route in all_routes:
        if route.route_id in again:
            rest.append(Judged(route, None, (f"it fits, and its acquirer has its place already, by the rule {_called(again[route.route_id])}",)))
        elif route.route_id not in places:
            rest.append(Judged(route, None, tuple(against(route, sale, known, acquirers))))
    return led + rest


def against(route: Route, sale: Sale, known: Container[UUID], acquirers: Mapping[UUID, Acquirer]) -> list[str]:
    """What speaks against a rule; [] when it fits."""
    found = [
        (route.state != "active", f"it is {'a draft' if route.state == 'draft' else 'retired'}"),
        (route.merchant_id not in (None, sale.merchant_id), "it is another merchant's"),
        (route.brand not in (None, sale.brand), f"it is for {route.brand}, and the card is {sale.brand}"),
        (route.mccs is not None and sale.mcc not in route.mccs, f"it is for merchants of {_listed(route.mccs)}, and this one is {sale.mcc}"),
        (not in_range(route, sale.bin), _other_card(route, sale.bin)),
        (route.currencies is not None and sale.currency not in route.currencies, f"it is for {_listed(route.currencies)}, not {sale.currency}"),
        (route.amount_min is not None and sale.amount < route.amount_min, f"it begins at {route.amount_min} minor units"),
        (route.amount_max is not None and sale.amount > route.amount_max, f"it ends at {route.amount_max} minor units"),
        (route.entry_modes is not None and sale.entry_mode not in route.entry_modes,
         f"it is for cards read by {_listed(route.entry_modes)}, not {sale.entry_mode}"),
        (not on_time(route, sale.local), f"it holds {_hours(route)} where the merchant is, and there it is {_clock(sale.local)}"),
        (route.stores is not None and sale.store_id not in route.stores, "it is for other stores"),
        (not on_date(route, sale.local), f"it holds {_days(route)} where the merchant is, and there it is {sale.local.date()}"),
        (route.acquirer_id not in known, "its acquirer has no number for the terminal"),
        (route.acquirer_id not in acquirers, "its acquirer has no record with an open day"),
    ]
    return [words for speaks, words in found if speaks]


def _for(lot: Lot, sale: Sale, health: Health | None) -> list[str]:
    """What put a rule where it is."""
    route = lot.route
    particular = [
        (route.merchant_id is not None, "this merchant's own"), (route.bin_low is not None, f"card numbers {route.bin_low} to {route.bin_high}"),
        (route.brand is not None, f"{route.brand} alone"), (route.mccs is not None, f"merchants of {_listed(route.mccs)}"),
        (route.currencies is not None, _listed(route.currencies)), (route.entry_modes is not None, f"read by {_listed(route.entry_modes)}"),
        (route.amount_min is not None or route.amount_max is not None,
         f"amounts from {route.amount_min or 0} to {'any' if route.amount_max is None else route.amount_max}"),
        (route.weekdays is not None or route.minute_from is not None, _hours(route)),
        (route.stores is not None, f"{len(route.stores or ())} of the stores"),
        (route.date_from is not None or route.date_until is not None, _days(route)),
    ]
    words = [", ".join([f"priority {route.priority}", *(said for holds, said in particular if holds)])]
    if lot.total > (route.weight or 0):
        words.append(f"its weight is {route.weight} of {lot.total}, and point {lot.point}, which the id of the sale draws, fell to it")
    taken = cost(route, sale.amount)
    if taken is not None:
        words.append(f"by its word it costs {taken // 10_000}.{taken % 10_000:04d} minor units")
    if route.healthy_percent is not None and health is not None and not health.well(route.healthy_percent):
        seen = "its line is down or its breaker open"
        if health.up:
            seen = f"answered {health.answered} of {health.asked}, {route.healthy_percent} % wanted"
        words.append(f"its acquirer is not well ({seen}): {'this sale tries it' if health.up and on_trial(sale.identity) else 'it stands behind'}")
    return words


def _called(route: Route) -> str:
    return route.name or f"of priority {route.priority}"


def _listed(values: Iterable[object] | None) -> str:
    return ", ".join(sorted(map(str, values or ())))


def _other_card(route: Route, digits: str) -> str:
    low = route.bin_low or ""
    words = f"it is for card numbers from {low} to {route.bin_high}"
    return words if len(digits) >= len(low) else f"{words}, and only {len(digits)} digits of this one are known"


def _hours(route: Route) -> str:
    days = "" if route.weekdays is None else " ".join(DAYS[day - 1] for day in sorted(route.weekdays))
    if route.minute_from is None or route.minute_until is None:
        return days
    return f"{days} {_time(route.minute_from)} to {_time(route.minute_until)}".strip()


def _days(route: Route) -> str:
    return " ".join([*([] if route.date_from is None else [f"from {route.date_from}"]),
                     *([] if route.date_until is None else [f"before {route.date_until}"])])


def _time(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def _clock(local: datetime) -> str:
    return f"{DAYS[local.weekday()]} {local:%H:%M}"
