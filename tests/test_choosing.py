"""Needs to terminals and methods, months to bills, buckets to percentiles: pure."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from switch.merchants.choosing.months import BOUNDS_MS, Month, Part, estimate, percentile, sales_of
from switch.merchants.choosing.needs import METHODS, MODELS, PLACES, Answers, advice, methods
from switch.settlement.fees.terms import tariff_from

FIRST, ACQUIRER = datetime(2026, 12, 1, tzinfo=UTC), UUID(int=9)


def answers(**said: Any) -> Answers:
    values: dict[str, Any] = {"country": "CN", "mcc": "5812", "currency": "CNY", "monthly_volume": 1_000_000, "average_ticket": 5_000,
                              "methods": frozenset({"card", "qr"}), "place": "counter", "stores": 1, "terminals": 1, "equipment": "rent"}
    return Answers(**values | {name: frozenset(value) if name == "methods" else value for name, value in said.items()})


@pytest.mark.parametrize(("said", "model"), [
    ({}, "countertop"), ({"place": "table"}, "handheld"), ({"place": "outdoors"}, "handheld"), ({"place": "unattended"}, "unattended"),
    ({"methods": {"qr"}}, "code_speaker"), ({"methods": {"qr"}, "average_ticket": 20_000}, "countertop"), ({"stock": True}, "smart"),
    ({"membership": True, "place": "table"}, "smart"), ({"methods": {"card", "register"}}, "pin_pad"), ({"methods": {"card"}}, "countertop"),
])
def test_a_business_gets_the_terminal_that_fits_it(said: dict[str, Any], model: str) -> None:
    found = advice(answers(**said))
    assert (found.model.name, bool(found.why)) == (model, True)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("wanted", [{"card"}, {"qr"}, {"register"}, {"card", "qr"}, {"card", "register"}, {"qr", "register"}, set(METHODS)])
def test_whatever_is_asked_the_terminal_can_it(place: str, wanted: set[str]) -> None:
    for stock in (False, True):
        found = advice(answers(place=place, methods=wanted, stock=stock, terminals=2, stores=3))
        assert wanted <= found.model.methods and found.pieces == 3
    assert {each.method for each in methods(answers(methods=wanted)) if each.asked} == wanted


def test_methods_worth_adding_are_told_apart_from_those_asked_for() -> None:
    found = {each.method: each.asked for each in methods(answers(methods={"card"}, terminals=3))}
    assert found == {"card": True, "qr": False, "register": False}
    assert {each.method for each in methods(answers(methods={"qr"}, average_ticket=50_000))} == {"qr", "card"}
    assert all(MODELS[name].name == name for name in MODELS)


def test_a_month_has_its_volume_to_the_last_unit_and_its_parts_by_their_shares() -> None:
    month = Month("CNY", 1_000_001, 5_000, "5812", (Part("visa", "credit", "card", 1), Part("wechat", "unknown", "qr", 3)), 2, 1)
    sales = sales_of(month, FIRST, ACQUIRER)
    assert (len(sales), sum(each.amount for each in sales), sales[-1].amount) == (201, 1_000_001, 1)
    assert sum(each.method == "qr" for each in sales) == 150 or sum(each.method == "qr" for each in sales) == 151
    assert all((each.method == "qr") == (each.entry_mode == "qr") for each in sales)


def test_the_estimate_names_every_fee_and_adds_up() -> None:
    tariff = tariff_from({"name": "Shop", "currency": "CNY", "rules": [
        {"name": "Cards", "price": {"tiers": [{"up_to": 500_000, "basis_points": 60}, {"basis_points": 40}]}},
        {"name": "Codes", "match": {"method": "qr"}, "price": {"basis_points": 30}}],
        "periodic": [{"name": "Rent", "per": "terminal", "amount": 5000}], "tax": {"name": "VAT", "basis_points": 600}})
    month = Month("CNY", 1_000_000, 10_000, "5812", (Part("visa", "credit", "card", 1),), 2, 1)
    found = estimate(tariff, {}, month, FIRST, ACQUIRER)
    totals = found.totals["CNY"]
    assert (totals.fees, totals.periodic, totals.tax_on_top) == (50 * 60 + 50 * 40, 10_000, 900)
    assert sum(line.amount for line in found.lines) == totals.fees + totals.periodic


@pytest.mark.parametrize(("times", "percent", "found"), [
    ((), 50, None), ((0,) * 20, 50, None), ((1,), 50, 50), ((5, 5), 50, 50), ((5, 6), 50, 100), ((0, 99, 1), 95, 100), ((0, 90, 10), 95, 150),
    ((0,) * len(BOUNDS_MS) + (3,), 50, None),
])
def test_a_percentile_is_the_bound_under_which_so_many_were_answered(times: tuple[int, ...], percent: int, found: int | None) -> None:
    assert percentile(times, percent) == found
