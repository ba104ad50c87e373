"""Routing: which acquirers may serve a sale, in order. What rules say, as tables; what holds of all rules and sales, by drawing them."""

import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, date, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from messages.dialect import load
from switch.directory import Directory, precedence
from switch.ids import uuid7
from switch.payments.alternatives import Alternatives
from switch.payments.explanation import against, explain
from switch.payments.routing import HEALTH_SAMPLES, TRIALS, Book, Health, Sale, choose, on_time, order
from switch.records import Acquirer, Route
from switch.security.pan import Pan

MERCHANT, OTHER = UUID(int=1), UUID(int=2)
A, B, C = UUID(int=10), UUID(int=11), UUID(int=12)
NUMBERS = ("T0000001", "M00000000000001")
SHANGHAI = ZoneInfo("Asia/Shanghai")
TUESDAY = datetime(2026, 11, 24, 12, 30, tzinfo=SHANGHAI)


def acquirer(acquirer_id: UUID) -> Acquirer:
    return Acquirer(acquirer_id, f"bank-{acquirer_id.int}", load("iso87_ascii"), "single", "active", None, ZoneInfo("UTC"), 30.0, 5.0, 100, (),
                    date(2026, 11, 23))


ACQUIRERS = {acquirer_id: acquirer(acquirer_id) for acquirer_id in (A, B, C)}


def identity(number: int) -> UUID:
    return uuid7(1_770_000_000_000 + number, number.to_bytes(10, "big"))


def rules(*said: dict[str, Any]) -> list[Route]:
    """Rules by what they say, each with an id by its place."""
    return [Route(**{"route_id": UUID(int=number), "merchant_id": None, "brand": None, "priority": 100} | each) for number, each in enumerate(said, 1)]


def sale(**changed: Any) -> Sale:
    values: dict[str, Any] = {"merchant_id": MERCHANT, "mcc": "5812", "brand": "visa", "bin": "411111111111", "amount": 10_000, "currency": "CNY",
                              "entry_mode": "chip", "local": TUESDAY, "identity": identity(1)}
    return Sale(**values | changed)


def led(routes: Sequence[Route], of: Sale, known: tuple[UUID, ...] = (A, B, C), health: Any = lambda _: None) -> list[UUID]:
    plan = Book(routes).plan(of.merchant_id, of.mcc, of.brand)
    return [each.acquirer_id for each in choose(plan, of, known, ACQUIRERS, health)]


# the routes that were there before rules had conditions


@pytest.mark.parametrize(("routes", "found"), [
    ([], []),
    ([(A, None, None, 100)], [A]),
    ([(A, OTHER, None, 1), (B, None, None, 100)], [B]),
    ([(A, None, "unionpay", 1), (B, None, None, 100)], [B]),
    ([(A, None, None, 100), (B, None, None, 50)], [B, A]),
    ([(A, None, None, 100), (B, MERCHANT, None, 100)], [B, A]),
    ([(A, None, None, 100), (B, None, "visa", 100)], [B, A]),
    ([(A, None, "visa", 100), (B, MERCHANT, None, 100)], [B, A]),
    ([(A, MERCHANT, None, 100), (B, MERCHANT, "visa", 100), (C, None, None, 1)], [C, B, A]),
    ([(A, None, None, 100), (A, MERCHANT, "visa", 1), (B, None, None, 50)], [A, B]),
    ([(A, None, None, 100), (B, None, None, 100)], [A, B]),
])
def test_the_fitting_routes_come_by_priority_then_the_more_particular_first(
        routes: list[tuple[UUID, UUID | None, str | None, int]], found: list[UUID]) -> None:
    made = [Route(UUID(int=number), *route) for number, route in enumerate(routes, 1)]
    assert led(made, sale()) == found
    assert Book(made).plan(MERCHANT, "5812", "visa").fixed, "asked once for a terminal and brand"


def test_an_acquirer_that_does_not_know_the_terminal_by_number_is_left_out() -> None:
    assert led(rules({"acquirer_id": A}, {"acquirer_id": B}), sale(), known=(B,)) == [B]


def test_an_acquirer_without_a_record_is_left_out() -> None:
    assert led(rules({"acquirer_id": UUID(int=99)}, {"acquirer_id": B}), sale(), known=(UUID(int=99), B)) == [B]


def test_a_card_of_no_known_brand_takes_the_routes_for_all_brands() -> None:
    assert led(rules({"acquirer_id": A, "brand": "visa"}, {"acquirer_id": B}), sale(brand="unknown")) == [B]


# conditions


@pytest.mark.parametrize(("condition", "fits", "fits_not"), [
    ({"bin_low": "4111", "bin_high": "4112"}, {"bin": "411299999999"}, {"bin": "411300000000"}),
    ({"bin_low": "411111111111", "bin_high": "411111111111"}, {}, {"bin": "411111111112"}),
    ({"amount_min": 100}, {"amount": 100}, {"amount": 99}), ({"amount_max": 100}, {"amount": 100}, {"amount": 101}),
    ({"currencies": frozenset({"CNY", "USD"})}, {"currency": "USD"}, {"currency": "EUR"}),
    ({"mccs": frozenset({"5812"})}, {}, {"mcc": "5411"}),
    ({"entry_modes": frozenset({"contactless"})}, {"entry_mode": "contactless"}, {"entry_mode": "chip"}),
    ({"weekdays": frozenset({2})}, {}, {"local": TUESDAY.replace(day=25)}),
    ({"minute_from": 750, "minute_until": 751}, {}, {"local": TUESDAY.replace(minute=31)}),
    ({"merchant_id": MERCHANT}, {}, {"merchant_id": OTHER}),
    ({"brand": "visa"}, {}, {"brand": "jcb"}),
])
def test_a_rule_fits_when_nothing_speaks_against_it(condition: dict[str, Any], fits: dict[str, Any], fits_not: dict[str, Any]) -> None:
    routes = rules({"acquirer_id": A, "priority": 1} | condition, {"acquirer_id": B})
    assert led(routes, sale(**fits)) == [A, B]
    assert led(routes, sale(**fits_not)) == [B]


@pytest.mark.parametrize(("days", "hours", "at", "holds"), [
    (None, ("22:00", "02:00"), (24, 23, 59), True), (None, ("22:00", "02:00"), (24, 1, 59), True), (None, ("22:00", "02:00"), (24, 2, 0), False),
    (None, ("22:00", "02:00"), (24, 21, 59), False), (None, ("08:00", "08:01"), (24, 8, 0), True), (None, ("08:00", "08:01"), (24, 8, 1), False),
    ({1}, ("22:00", "02:00"), (24, 1, 0), True), ({2}, ("22:00", "02:00"), (24, 1, 0), False), ({2}, ("22:00", "02:00"), (24, 22, 0), True),
    ({7}, ("22:00", "02:00"), (23, 1, 0), True), ({1}, ("22:00", "00:00"), (24, 0, 0), False), ({2}, None, (24, 0, 0), True), ({3}, None, (24, 0, 0), False),
])
def test_hours_over_midnight_belong_to_the_day_on_which_they_begin(days: set[int] | None, hours: tuple[str, str] | None,
                                                                  at: tuple[int, int, int], holds: bool) -> None:
    minutes = [None, None] if hours is None else [int(text[:2]) * 60 + int(text[3:]) for text in hours]
    (rule,) = rules({"acquirer_id": A, "weekdays": None if days is None else frozenset(days), "minute_from": minutes[0], "minute_until": minutes[1]})
    assert on_time(rule, datetime(2026, 11, *at)) is holds


def test_the_longest_range_of_card_numbers_goes_first_and_the_shorter_ones_are_the_next() -> None:
    routes = rules({"acquirer_id": C}, {"acquirer_id": A, "bin_low": "4000", "bin_high": "4999"}, {"acquirer_id": B, "bin_low": "411111", "bin_high": "411111"})
    assert led(routes, sale()) == [B, A, C]
    assert led(routes, sale(bin="412222222222")) == [A, C]
    assert led(routes, sale(bin="51")) == [C], "digits that nobody knows fit no range"


def test_a_draft_and_a_retired_rule_never_fire() -> None:
    assert led(rules({"acquirer_id": A, "state": "draft", "priority": 1}, {"acquirer_id": B, "state": "retired", "priority": 2}, {"acquirer_id": C}), sale()) == [C]


# rules of one rank: weight, cost


def test_weights_split_the_sales_by_their_ids() -> None:
    routes = rules({"acquirer_id": A, "weight": 70}, {"acquirer_id": B, "weight": 20}, {"acquirer_id": C, "weight": 10})
    plan = Book(routes).plan(MERCHANT, "5812", "visa")
    assert not plan.fixed
    orders = [tuple(lot.route.acquirer_id for lot in order(plan, sale(identity=identity(number)), (A, B, C))) for number in range(10_000)]
    first = Counter(each[0] for each in orders)
    assert {acquirer_id: round(first[acquirer_id] / 100) for acquirer_id in (A, B, C)} == pytest.approx({A: 70, B: 20, C: 10}, abs=2)
    second_of_a = Counter(each[1] for each in orders if each[0] == A)
    assert second_of_a[B] / second_of_a.total() == pytest.approx(2 / 3, abs=0.03), "what the first cannot take is split by the weights that are left"
    assert all(sorted(each) == [A, B, C] for each in orders)


def test_a_weight_of_zero_and_no_weight_at_all_come_last() -> None:
    routes = rules({"acquirer_id": A, "weight": 0}, {"acquirer_id": B}, {"acquirer_id": C, "weight": 1})
    assert {tuple(led(routes, sale(identity=identity(number)))) for number in range(50)} == {(C, A, B)}


@pytest.mark.parametrize(("amount", "cheapest"), [(100, A), (10_000, B)])
def test_without_weights_the_cheaper_one_of_a_rank_goes_first(amount: int, cheapest: UUID) -> None:
    cny = frozenset({"CNY"})
    routes = rules({"acquirer_id": C, "currencies": cny}, {"acquirer_id": B, "cost_basis_points": 20, "cost_fixed": 10, "currencies": cny},
                   {"acquirer_id": A, "cost_basis_points": 60, "currencies": cny})
    found = led(routes, sale(amount=amount))
    assert found[0] == cheapest and found[-1] == C, "one that says nothing of its cost comes last"


def test_a_split_is_shared_by_one_rank_alone() -> None:
    routes = rules({"acquirer_id": A, "weight": 1}, {"acquirer_id": B, "weight": 1}, {"acquirer_id": C, "weight": 10_000, "priority": 101})
    assert {led(routes, sale(identity=identity(number)))[-1] for number in range(200)} == {C}


# health


def test_an_acquirer_that_is_not_well_stands_behind_all_others_and_is_tried_now_and_then() -> None:
    routes = rules({"acquirer_id": A, "priority": 1, "healthy_percent": 90}, {"acquirer_id": B}, {"acquirer_id": C, "priority": 200})
    states = {"well": Health(True, 100, 90), "ill": Health(True, 100, 89), "unknown": Health(True, HEALTH_SAMPLES - 1, 0), "down": Health(False, 0, 0)}
    ids = [identity(number) for number in range(3200)]
    first = {name: Counter(led(routes, sale(identity=each), health=lambda acquirer_id, seen=seen: seen if acquirer_id == A else None)[0] for each in ids)
             for name, seen in states.items()}
    assert first["well"] == first["unknown"] == {A: 3200}
    assert first["down"] == {B: 3200}
    assert first["ill"][A] / 3200 == pytest.approx(1 / TRIALS, abs=0.02)
    down = states["down"]
    assert led(routes, sale(), health=lambda _: down) == [B, C, A], "the last resort"
    assert led(rules({"acquirer_id": A}, {"acquirer_id": B}), sale(), health=lambda _: down) == [A, B], "only where the rule asks for it"


# what holds of all rules and sales

DIGITS = st.text("0123456789", min_size=4, max_size=12)


@st.composite
def routes_of_any_kind(draw: st.DrawFn) -> list[Route]:
    made = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        length = draw(st.integers(4, 12))
        low, high = sorted("".join(draw(st.sampled_from(["4", "41", "411", "4111"]))[:length].ljust(length, draw(st.sampled_from("019")))) for _ in range(2))
        ranged = draw(st.booleans())
        minutes = draw(st.sampled_from([(None, None), (480, 1320), (1320, 120), (750, 751)]))
        made.append(Route(
            UUID(int=number), draw(st.sampled_from([A, B, C])), draw(st.sampled_from([None, None, MERCHANT, OTHER])),
            draw(st.sampled_from([None, None, "visa", "jcb"])), draw(st.sampled_from([1, 100])), None,
            draw(st.sampled_from(["active", "active", "active", "draft", "retired"])), low if ranged else None, high if ranged else None,
            draw(st.sampled_from([None, None, 5_000])), draw(st.sampled_from([None, None, 15_000])),
            draw(st.sampled_from([None, frozenset({"CNY"}), frozenset({"USD"})])), draw(st.sampled_from([None, frozenset({"5812"}), frozenset({"5411"})])),
            draw(st.sampled_from([None, frozenset({"chip"}), frozenset({"manual"})])), draw(st.sampled_from([None, frozenset({2}), frozenset({1, 7})])),
            *minutes, draw(st.sampled_from([None, None, 0, 1, 30])), draw(st.sampled_from([None, None, 35])), None,
            draw(st.sampled_from([None, None, 90]))))
    return made


SALES = st.builds(
    sale, merchant_id=st.sampled_from([MERCHANT, OTHER]), mcc=st.sampled_from(["5812", "5411"]), brand=st.sampled_from(["visa", "jcb", "unknown"]),
    bin=st.one_of(st.text("019", min_size=8, max_size=8).map(lambda tail: "4111" + tail), st.sampled_from(["411111111111", "41111111", "4"])),
    amount=st.sampled_from([4_999, 5_000, 15_000, 15_001]), currency=st.sampled_from(["CNY", "USD"]), entry_mode=st.sampled_from(["chip", "manual"]),
    local=st.datetimes(datetime(2026, 11, 22), datetime(2026, 11, 29)), identity=st.integers(0, 10_000).map(identity))
HEALTHS = st.fixed_dictionaries({each: st.sampled_from([None, Health(True, 100, 100), Health(True, 100, 10), Health(False, 0, 0)]) for each in (A, B, C)})
KNOWN = st.sets(st.sampled_from([A, B, C])).map(tuple)


@settings(max_examples=400, deadline=None)
@given(routes_of_any_kind(), SALES, KNOWN, HEALTHS)
def test_the_choice_is_the_same_each_time_and_whatever_the_order_of_the_rules(
        routes: list[Route], of: Sale, known: tuple[UUID, ...], healths: dict[UUID, Health | None]) -> None:
    once = led(routes, of, known, healths.get)
    assert led(list(reversed(routes)), of, known, healths.get) == once
    assert len(set(once)) == len(once) and set(once) <= set(known)


@settings(max_examples=400, deadline=None)
@given(routes_of_any_kind(), SALES, KNOWN, HEALTHS)
def test_what_is_explained_is_what_is_chosen(routes: list[Route], of: Sale, known: tuple[UUID, ...], healths: dict[UUID, Health | None]) -> None:
    judged = explain(routes, of, known, ACQUIRERS, healths.get)
    assert [each.route.acquirer_id for each in judged if each.place is not None] == led(routes, of, known, healths.get)
    assert [each.place for each in judged if each.place is not None] == list(range(1, len(led(routes, of, known, healths.get)) + 1))
    assert sorted(each.route.route_id for each in judged) == sorted(route.route_id for route in routes), "every rule is judged, once"
    assert all(each.why for each in judged), "and each for a reason"


@settings(max_examples=400, deadline=None)
@given(routes_of_any_kind(), SALES, KNOWN)
def test_a_rule_fires_when_and_only_when_nothing_speaks_against_it(routes: list[Route], of: Sale, known: tuple[UUID, ...]) -> None:
    fired = {lot.route.route_id for lot in order(Book(routes).plan(of.merchant_id, of.mcc, of.brand), of, known)}
    assert fired == {route.route_id for route in routes if not against(route, of, known, ACQUIRERS)}
    assert all(route.state == "active" for route in routes if route.route_id in fired)


@settings(max_examples=200, deadline=None)
@given(routes_of_any_kind(), SALES)
def test_of_two_fitting_rules_the_one_of_lower_rank_is_never_first(routes: list[Route], of: Sale) -> None:
    lots = order(Book(routes).plan(of.merchant_id, of.mcc, of.brand), of, (A, B, C))
    ranks = [precedence(lot.route)[:-1] for lot in lots]
    assert ranks == sorted(ranks)
    for earlier, later in pairwise(lots):
        alike = [precedence(lot.route)[:2] for lot in (earlier, later)]
        if alike[0] == alike[1]:
            assert len(earlier.route.bin_low or "") >= len(later.route.bin_low or ""), "the longest range wins"


# ready for the hot path


def prepared(routes: list[Route]) -> tuple[Alternatives, Any]:
    directory = Directory()
    directory.routes = {route.route_id: route for route in routes}
    directory.acquirers = dict(ACQUIRERS)
    directory._reorder({"route"})
    terminal = SimpleNamespace(terminal_id=UUID(int=5), numbers=dict.fromkeys((A, B, C), NUMBERS))
    merchant = SimpleNamespace(merchant_id=MERCHANT, mcc="5812", zone=SHANGHAI)
    asked = SimpleNamespace(
        order=SimpleNamespace(pan=Pan("4111111111111111"), amount=10_000, currency="CNY", entry_mode="chip"),
        seller=SimpleNamespace(merchant=merchant, terminal=terminal, store=SimpleNamespace(store_id=UUID(int=6))), brand="visa", identity=identity(1),
        door=SimpleNamespace(received_at=datetime(2026, 11, 24, 4, 30, tzinfo=UTC)))
    return Alternatives(directory, {}, lambda: 0.0), asked


def test_rules_that_say_the_same_of_all_sales_are_asked_once_until_the_directory_changes() -> None:
    alternatives, asked = prepared(rules({"acquirer_id": A}, {"acquirer_id": B}))
    first = alternatives.of(asked)
    assert alternatives.of(asked) is first and [each.acquirer_id for each in first] == [A, B]
    directory = alternatives.directory
    directory.routes[UUID(int=1)] = directory.routes[UUID(int=1)]._replace(state="retired")
    directory._reorder({"route"})
    assert [each.acquirer_id for each in alternatives.of(asked)] == [B]


def test_the_wall_clock_of_the_merchant_counts() -> None:
    alternatives, asked = prepared(rules({"acquirer_id": A, "priority": 1, "minute_from": 750, "minute_until": 751}, {"acquirer_id": B}))
    assert [each.acquirer_id for each in alternatives.of(asked)] == [A, B], "04:30 UTC is 12:30 in Shanghai"


def test_the_door_asks_for_all_that_some_sale_of_the_terminal_could_reach() -> None:
    alternatives, asked = prepared(rules({"acquirer_id": A, "brand": "jcb"}, {"acquirer_id": B, "amount_min": 10**9, "currencies": frozenset({"CNY"})},
                                         {"acquirer_id": C, "merchant_id": OTHER}))
    assert [each.acquirer_id for each in alternatives.reach(asked.seller.terminal, asked.seller.merchant)] == [A, B]


def test_choosing_among_many_rules_costs_microseconds() -> None:
    """Two thousand rules for ranges of cards over a split: as few are looked at as fit. The bound is wide: machines differ."""
    ranges = [{"acquirer_id": (A, B, C)[number % 3], "bin_low": f"{400000 + number:06d}", "bin_high": f"{400000 + number:06d}"} for number in range(20_00)]
    alternatives, asked = prepared(rules(*ranges, {"acquirer_id": A, "weight": 70, "bin_low": "4111", "bin_high": "4111"},
                                         {"acquirer_id": B, "weight": 30, "bin_low": "4111", "bin_high": "4111"}, {"acquirer_id": C}))
    assert len(alternatives.of(asked)) == 3
    rounds = 2000
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(rounds):
            alternatives.of(asked)
        best = min(best, (time.perf_counter() - started) / rounds)
    assert best < 100e-6, f"{best * 1e6:.1f} microseconds"
