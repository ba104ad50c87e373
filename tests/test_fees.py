"""The fee engine: what a transaction costs, by hand-made figures, by an oracle of fractions, and by what must hold for any month."""

import itertools
import json
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from switch.settlement.fees import wording
from switch.settlement.fees.bills import Bill, bill
from switch.settlement.fees.charges import ROUNDINGS, Costs, Meter, Original, Priced, Sale, in_order, price
from switch.settlement.fees.matching import KNOWN_MAX, Matcher
from switch.settlement.fees.terms import costs_from, tariff_from

DAY = date(2026, 11, 23)
AT = datetime(2026, 11, 23, 12, tzinfo=UTC)
BANK = UUID(int=7)
ALL: dict[str, Any] = {"name": "All", "price": {"basis_points": 60}}


def document(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"name": "T", "currency": "CNY", "rules": list(rules), **more}


def sale(amount: int = 10_000, number: int = 1, **facts: Any) -> Sale:
    values = {"transaction_id": UUID(int=number), "captured_at": AT, "amount": amount, "kind": "sale", "currency": "CNY", "brand": "visa", "card_type": "debit",
              "method": "card", "entry_mode": "chip", "mcc": "5812", "authorised_on": DAY, "acquirer_id": BANK}
    return Sale(**values | facts)


def cost(**parts: Any) -> Costs:
    return costs_from({"name": "Bank", "currency": "CNY", "rules": [{"name": "All", **parts}]})


def fee_of(price_: dict[str, Any], amount: int, volume: int = 0, costs: Costs | None = None) -> Priced:
    return price(tariff_from(document({"name": "All", "price": price_})), costs, sale(amount), volume)


@pytest.mark.parametrize(("price_", "amount", "fee"), [
    ({}, 10_000, 0), ({"basis_points": 60}, 10_000, 60), ({"basis_points": "38.25"}, 10_000, 38), ({"basis_points": "0.01"}, 500_000, 0), ({"basis_points": "0.01"}, 1_500_000, 2),
    ({"basis_points": 50}, 100, 0), ({"basis_points": 50}, 300, 2), ({"basis_points": 50}, 500, 2), ({"basis_points": 50}, 501, 3), ({"basis_points": 10_000}, 999_999_999_999, 999_999_999_999),
    ({"fixed": 7}, 1, 7), ({"basis_points": 60, "fixed": 10}, 10_000, 70), ({"basis_points": 60, "minimum": 5}, 100, 5), ({"basis_points": 60, "cap": 50}, 10_000, 50),
    ({"minimum": 5}, 1, 5), ({"fixed": 9, "cap": 0}, 1, 0), ({"basis_points": 60, "minimum": 60, "cap": 60}, 1, 60),
])
def test_a_price_takes_what_a_pocket_calculator_says(price_: dict[str, Any], amount: int, fee: int) -> None:
    priced = fee_of(price_, amount)
    assert (priced.fee, sum(line.amount for line in priced.lines), priced.gross, priced.margin) == (fee, fee, amount, fee)


TIERS = {"tiers": [{"up_to": 10_000, "basis_points": 100}, {"up_to": 30_000, "basis_points": 50}, {"basis_points": 25}]}


@pytest.mark.parametrize(("amount", "volume", "parts"), [
    (5_000, 0, [(5_000, 50)]), (10_000, 0, [(10_000, 100)]), (10_001, 0, [(10_000, 100), (1, 0)]), (4_000, 8_000, [(2_000, 20), (2_000, 10)]), (100, 10_000, [(100, 0)]),
    (50_000, 0, [(10_000, 100), (20_000, 100), (20_000, 50)]), (300, 29_900, [(100, 0), (200, 0)]), (800, 30_000, [(800, 2)]), (800, 10**15, [(800, 2)]),
])
def test_a_sale_that_crosses_a_border_is_cut_there(amount: int, volume: int, parts: list[tuple[int, int]]) -> None:
    priced = fee_of(TIERS, amount, volume)
    assert [(line.base, line.amount) for line in priced.lines] == parts
    assert priced.fee == sum(amount for _, amount in parts)


def test_interchange_plus_passes_on_what_is_taken_and_the_margin_is_the_rest() -> None:
    costs = cost(interchange={"basis_points": 35}, scheme={"basis_points": "3.25"}, acquirer={"fixed": 2})
    flat, plus = fee_of({"basis_points": 60}, 10_000, costs=costs), fee_of({"basis_points": 20, "interchange_plus": "interchange"}, 10_000, costs=costs)
    both = fee_of({"basis_points": 20, "interchange_plus": "interchange_and_scheme"}, 10_000, costs=costs)
    assert (flat.interchange, flat.scheme_fee, flat.acquirer_fee, flat.margin) == (35, 3, 2, 20)
    assert (plus.fee, plus.margin, both.fee, both.margin) == (55, 15, 58, 18)
    assert [line.kind for line in both.lines] == ["rate", "interchange", "scheme"]
    capped = fee_of({"interchange_plus": "interchange", "cap": 30}, 10_000, costs=costs)
    assert (capped.fee, capped.margin) == (30, -10)


@pytest.mark.parametrize(("rounding", "found"), [
    ("half_even", {5: 0, 15: 2, 25: 2, 14: 1, 16: 2, -5: 0, -15: -2, -25: -2, -16: -2}), ("half_up", {5: 1, 15: 2, 25: 3, 14: 1, -5: -1, -15: -2, -14: -1}),
    ("up", {1: 1, 10: 1, 11: 2, 0: 0, -1: -1, -11: -2}), ("down", {9: 0, 10: 1, 19: 1, 0: 0, -9: 0, -19: -1}),
])
def test_rounding_goes_by_its_name(rounding: str, found: dict[int, int]) -> None:
    assert {tenths: ROUNDINGS[rounding](tenths, 10) for tenths in found} == found


# Which rule wins.

RULES = (
    ALL, {"name": "visa", "match": {"brand": "visa"}, "price": {"basis_points": 1}}, {"name": "restaurants", "match": {"mcc": ["5812", "5814"]}, "price": {"basis_points": 2}},
    {"name": "visa debit", "match": {"brand": "visa", "card_type": "debit"}, "price": {"basis_points": 3}}, {"name": "qr", "match": {"method": "qr"}, "price": {"basis_points": 4}},
    {"name": "large jcb", "match": {"brand": "jcb", "amount": {"from": 1000}}, "price": {"basis_points": 5}},
    {"name": "middle jcb", "match": {"brand": "jcb", "amount": {"from": 500, "below": 1000}}, "price": {"basis_points": 6}},
    {"name": "tiny", "match": {"amount": {"below": 10}}, "price": {"basis_points": 7}}, {"name": "manual", "match": {"entry_mode": ["manual", "fallback"]}, "price": {"basis_points": 8}},
    {"name": "dollars", "match": {"currency": "USD"}, "price": {"basis_points": 9}}, {"name": "dollars visa", "match": {"currency": "USD", "brand": "visa"}, "price": {"basis_points": 10}},
    {"name": "back", "match": {"kind": "refund", "brand": "visa"}, "price": {"fixed": 3}},
)


@pytest.mark.parametrize(("facts", "rule"), [
    ({}, "visa debit"), ({"card_type": "credit"}, "restaurants"), ({"card_type": "credit", "mcc": "0001"}, "visa"), ({"brand": "amex", "mcc": "0001"}, "All"),
    ({"brand": "amex", "mcc": "0001", "method": "qr"}, "qr"), ({"brand": "jcb", "amount": 999}, "middle jcb"), ({"brand": "jcb", "amount": 1000}, "large jcb"),
    ({"brand": "jcb", "amount": 499}, "restaurants"), ({"brand": "amex", "mcc": "0001", "amount": 9}, "tiny"), ({"brand": "amex", "mcc": "0001", "amount": 10}, "All"),
    ({"brand": "amex", "amount": 9}, "restaurants"), ({"brand": "amex", "mcc": "0001", "entry_mode": "fallback"}, "manual"), ({"currency": "USD"}, "dollars visa"),
    ({"currency": "USD", "brand": "amex"}, "dollars"), ({"currency": "EUR"}, ""), ({"kind": "refund"}, "back"), ({"kind": "refund", "brand": "jcb"}, "refunds are free"),
])
def test_the_rule_that_names_most_wins_then_the_one_that_names_the_weightier_fact(facts: dict[str, Any], rule: str) -> None:
    for rules in (RULES, RULES[::-1]):
        priced = price(tariff_from(document(*rules)), None, sale(**facts))
        assert priced.rule == (f"T: {rule}" if rule else "")
    if not rule:
        assert (priced.fee, priced.tariff_id, priced.lines) == (0, None, ())


def test_what_a_matcher_remembers_is_bounded() -> None:
    matcher = Matcher("T", tariff_from(document(ALL)).rules)
    for at in range(KNOWN_MAX + 10):
        matcher.entries(("sale", "CNY", f"b{at}", "debit", "card", "chip", "5812"))
    assert len(matcher.known) <= KNOWN_MAX


# Refunds.


def refunded(policy: str, original: Original | None, amount: int, *, own: int = 0) -> Priced:
    rules = [ALL, *([{"name": "Refund", "match": {"kind": "refund"}, "price": {"fixed": own}}] if own else [])]
    return price(tariff_from(document(*rules, refunds={"returns": policy})), None, sale(amount, kind="refund", original=original))


@pytest.mark.parametrize(("policy", "before", "amount", "own", "fee"), [
    ("none", 0, 10_000, 0, 0), ("none", 0, 10_000, 5, 5), ("proportional", 0, 10_000, 0, -60), ("proportional", 0, 5_000, 0, -30), ("proportional", 5_000, 5_000, 5, -25),
    ("all", 0, 1, 0, -60), ("all", 1, 9_999, 0, 0), ("all", 0, 10_000, 5, -55), ("proportional", 10_000, 1, 0, 0),
])
def test_a_refund_gives_back_what_the_tariff_says(policy: str, before: int, amount: int, own: int, fee: int) -> None:
    priced = refunded(policy, Original(10_000, 60, refunded=before), amount, own=own)
    assert (priced.fee, priced.gross, sum(line.amount for line in priced.lines)) == (fee, -amount, fee)
    assert refunded(policy, None, amount, own=own).fee == own


@given(fee=st.integers(0, 10**6), cuts=st.lists(st.integers(1, 9_999), max_size=8, unique=True))
def test_partial_refunds_give_back_in_sum_the_whole_fee_and_never_more(fee: int, cuts: list[int]) -> None:
    borders = [0, *sorted(cuts), 10_000]
    given_back = [-refunded("proportional", Original(10_000, fee, refunded=low), high - low).fee for low, high in itertools.pairwise(borders)]
    assert sum(given_back) == fee and min(given_back) >= 0


def test_costs_come_back_at_a_refund_part_by_part() -> None:
    costs = costs_from({"name": "B", "currency": "CNY", "rules": [{"name": "All", "interchange": {"basis_points": 35}}], "refunds": {"interchange": "proportional", "acquirer": "all"}})
    priced = price(tariff_from(document(ALL)), costs, sale(5_000, kind="refund", original=Original(10_000, 60, 35, 4, 2)))
    assert (priced.fee, priced.interchange, priced.scheme_fee, priced.acquirer_fee, priced.margin) == (0, -18, 0, -2, 20)


def test_a_refund_finds_its_sale_in_the_same_month_and_remembers_what_was_refunded() -> None:
    tariff = tariff_from(document(ALL, refunds={"returns": "proportional"}))
    facts = [sale(10_000, 1)] + [sale(3_333, number, kind="refund", original_id=UUID(int=1)) for number in (2, 3, 4)]
    assert [priced.fee for priced in bill([tariff], {}, facts, {}).priced] == [60, -20, -20, -20]
    early = sale(3_333, 5, kind="refund", original_id=UUID(int=1), captured_at=AT - timedelta(seconds=1))
    assert bill([tariff], {}, [*facts, early], {}).priced[0].fee == 0, "before its sale nothing is known of it"


# Dates, months, periodic fees, tax.


def test_a_transaction_is_priced_by_the_tariff_in_force_when_it_was_authorised() -> None:
    old, new = (tariff_from(document({"name": "All", "price": {"basis_points": points}}), since) for points, since in ((60, date(2026, 1, 1)), (38, date(2026, 11, 24))))
    newer = tariff_from(document({"name": "All", "price": {"basis_points": 40}}), date(2026, 11, 24))
    days = (date(2025, 12, 31), date(2026, 1, 1), DAY, date(2026, 11, 24), date(2030, 1, 1))
    for order in ([old, new, newer], [old, new]):
        result = bill(order, {}, [sale(10_000, at, authorised_on=day) for at, day in enumerate(days)], {})
        last = 40 if newer in order else 38
        assert [priced.fee for priced in result.priced] == [0, 60, 60, last, last]
        assert result.unpriced == [UUID(int=0)]


def test_what_is_charged_by_the_month_is_charged_once_for_each() -> None:
    tariff = tariff_from(document(ALL, periodic=[{"name": "Rent", "per": "terminal", "amount": 500}, {"name": "Service", "per": "merchant", "amount": 70},
                                                 {"name": "Line", "per": "store", "amount": 9, "currency": "USD"}], tax={"name": "VAT", "basis_points": 600}))
    result = bill([tariff], {}, [sale(10_000)], {}, {"terminal": 3, "store": 2})
    assert (result.totals["CNY"].periodic, result.totals["USD"].periodic, result.totals["CNY"].fees) == (1570, 18, 60)
    assert (result.totals["CNY"].tax, result.totals["USD"].tax, result.totals["CNY"].net) == (98, 1, 10_000 - 60 - 1570 - 98)
    assert bill([tariff], {}, [], {}, {"terminal": 0, "store": 0}).totals["CNY"].periodic == 70
    assert bill([tariff], {}, [sale(10_000)], {}).totals["CNY"].periodic == 0
    assert {(line.kind, line.times, line.amount) for line in result.lines} == {("rate", 1, 60), ("terminal", 3, 1500), ("merchant", 1, 70), ("store", 2, 18)}


@pytest.mark.parametrize(("inclusive", "tax", "net"), [(False, 60, 98_940), (True, 57, 99_000)])
def test_tax_comes_on_top_of_the_fees_or_is_contained_in_them(inclusive: bool, tax: int, net: int) -> None:
    tariff = tariff_from(document({"name": "All", "price": {"basis_points": 100}}, tax={"name": "VAT", "basis_points": 600, "inclusive": inclusive}))
    totals = bill([tariff], {}, [sale(100_000)], {}).totals["CNY"]
    assert (totals.fees, totals.tax, totals.net) == (1000, tax, net)


# An oracle that was written from the documents of the tariffs, with fractions, and shares no code with the engine.


def nearest_even(value: Fraction) -> int:
    low = value.numerator // value.denominator
    rest = value - low
    return low if rest < Fraction(1, 2) or (rest == Fraction(1, 2) and low % 2 == 0) else low + 1


def points(value: Any) -> Fraction:
    return Fraction(str(value)) / 10_000


def oracle_price(wanted: Mapping[str, Any], amount: int, volume: int, interchange: int, scheme: int) -> int:
    fee = 0
    if "tiers" in wanted:
        low = 0
        for tier in wanted["tiers"]:
            high = tier.get("up_to", 10**18)
            inside = max(0, min(high, volume + amount) - max(low, volume))
            fee += nearest_even(inside * points(tier["basis_points"]))
            low = high
    else:
        fee += nearest_even(amount * points(wanted.get("basis_points", 0)))
    fee += wanted.get("fixed", 0)
    fee += {"": 0, "interchange": interchange, "interchange_and_scheme": interchange + scheme}[wanted.get("interchange_plus", "")]
    return min(max(fee, wanted.get("minimum", fee)), max(wanted.get("cap", 10**18), wanted.get("minimum", 0)))


ORDER = ("currency", "mcc", "brand", "card_type", "method", "entry_mode", "amount")


def oracle_rule(rules: list[dict[str, Any]], of: Sale) -> dict[str, Any] | None:
    """The most particular rule, by its document."""
    best: tuple[tuple[int, tuple[bool, ...]], dict[str, Any]] | None = None
    for rule in rules:
        match = {"currency": "CNY", **rule.get("match", {})}
        if match.pop("kind", "sale") != of.kind:
            continue
        band = match.get("amount", {})
        fits = band.get("from", 0) <= of.amount < band.get("below", 10**18) and all(
            getattr(of, name) in (wanted if isinstance(wanted, list) else [wanted]) for name, wanted in match.items() if name != "amount")
        rank = len(match), tuple(name in match for name in ORDER)
        if fits and (best is None or rank > best[0]):
            best = rank, rule
    return None if best is None else best[1]


def oracle_month(terms: dict[str, Any], costs: dict[str, Any], sales: list[Sale], volume: int) -> list[tuple[int, int, int, int]]:
    """Fee, interchange, scheme fee and acquirer fee of each, in order."""
    found, sold = [], dict[UUID, list[int]]()
    for each in sorted(sales, key=lambda one: (one.captured_at, one.transaction_id)):
        rule, own = oracle_rule(terms["rules"], each), oracle_rule(costs["rules"], each)
        taken = [oracle_price(own[name], each.amount, volume, 0, 0) if own is not None and name in own else 0 for name in ("interchange", "scheme", "acquirer")]
        fees = [0 if rule is None else oracle_price(rule["price"], each.amount, volume, taken[0], taken[1]), *taken]
        if each.kind == "refund":
            policies = [terms["refunds"]["returns"], *(costs["refunds"].get(name, "none") for name in ("interchange", "scheme", "acquirer"))]
            if each.original_id in sold:
                amount, before, *charged = sold[each.original_id]
                low, high = min(before, amount), min(before + each.amount, amount)
                for at, policy in enumerate(policies):
                    if policy == "all" and before == 0:
                        fees[at] -= charged[at]
                    if policy == "proportional":
                        fees[at] -= nearest_even(Fraction(charged[at] * high, amount)) - nearest_even(Fraction(charged[at] * low, amount))
                sold[each.original_id][1] += each.amount
        else:
            volume += each.amount
            sold[each.transaction_id] = [each.amount, 0, *fees]
        found.append((fees[0], fees[1], fees[2], fees[3]))
    return found


rates = st.one_of(st.integers(0, 400), st.decimals(0, 400, places=2).map(lambda value: f"{value:.2f}"))


@st.composite
def prices_of(draw: st.DrawFn, *, plus: bool = True) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if draw(st.booleans()):
        wanted["basis_points"] = draw(rates)
    else:
        borders = sorted(draw(st.sets(st.integers(1, 400_000), max_size=3)))
        wanted["tiers"] = [*({"up_to": border, "basis_points": draw(rates)} for border in borders), {"basis_points": draw(rates)}]
    if draw(st.booleans()):
        wanted["fixed"] = draw(st.integers(0, 50))
    if draw(st.booleans()):
        wanted["minimum"] = draw(st.integers(0, 100))
    if draw(st.booleans()):
        wanted["cap"] = draw(st.integers(wanted.get("minimum", 0), 3_000))
    if plus and draw(st.integers(0, 3)) == 0:
        wanted["interchange_plus"] = draw(st.sampled_from(["interchange", "interchange_and_scheme"]))
    return wanted


MATCHES = ({}, {"brand": "visa"}, {"brand": "visa", "card_type": ["debit", "prepaid"]}, {"mcc": "5812"}, {"method": "qr"}, {"entry_mode": ["manual"], "brand": "unionpay"},
           {"brand": "unionpay", "amount": {"from": 50_000}}, {"brand": "unionpay", "amount": {"below": 1_000}})


@st.composite
def tariffs(draw: st.DrawFn) -> dict[str, Any]:
    chosen = [MATCHES[0], *draw(st.lists(st.sampled_from(MATCHES[1:]), max_size=4, unique_by=str))]
    rules = [{"name": f"r{at}", "match": match, "price": draw(prices_of())} for at, match in enumerate(chosen)]
    if draw(st.booleans()):
        rules.append({"name": "back", "match": {"kind": "refund"}, "price": {"fixed": draw(st.integers(0, 30))}})
    return document(*draw(st.permutations(rules)), refunds={"returns": draw(st.sampled_from(["none", "proportional", "all"]))},
                    tax={"name": "VAT", "basis_points": draw(st.integers(0, 2000)), "inclusive": draw(st.booleans())},
                    periodic=[{"name": "Rent", "per": "terminal", "amount": 100}])


@st.composite
def some_costs(draw: st.DrawFn) -> dict[str, Any]:
    rules = [{"name": f"c{at}", "match": match} | {name: draw(prices_of(plus=False)) for name in ("interchange", "scheme", "acquirer") if draw(st.booleans())}
             for at, match in enumerate(({}, {"brand": "visa"}))]
    return document(*rules, refunds={name: draw(st.sampled_from(["none", "proportional", "all"])) for name in ("interchange", "scheme", "acquirer")})


@st.composite
def months(draw: st.DrawFn) -> list[Sale]:
    found: list[Sale] = []
    for number in range(1, draw(st.integers(1, 25)) + 1):
        facts = {name: draw(st.sampled_from(values)) for name, values in (
            ("brand", ["visa", "unionpay", "jcb"]), ("card_type", ["debit", "credit"]), ("method", ["card", "qr"]), ("entry_mode", ["chip", "manual"]), ("mcc", ["5812", "5999"]))}
        at = AT + timedelta(seconds=draw(st.integers(0, 5)))
        earlier = [each for each in found if each.kind == "sale"]
        if earlier and draw(st.integers(0, 3)) == 0:
            original = draw(st.sampled_from(earlier))
            found.append(sale(draw(st.integers(1, original.amount)), number, kind="refund", original_id=original.transaction_id, captured_at=at, **facts))
        else:
            found.append(sale(draw(st.sampled_from([1, 99, 250, 5_000, 12_345]) | st.integers(1, 150_000)), number, captured_at=at, **facts))
    return found


MANY = settings(max_examples=150, deadline=None)


@MANY
@given(terms=tariffs(), costs=some_costs(), month=months(), volume=st.integers(0, 500_000))
def test_the_engine_says_what_fractions_say(terms: dict[str, Any], costs: dict[str, Any], month: list[Sale], volume: int) -> None:
    result = bill([tariff_from(terms)], {BANK: [costs_from(costs)]}, month, {"CNY": volume})
    assert [(each.fee, each.interchange, each.scheme_fee, each.acquirer_fee) for each in result.priced] == oracle_month(terms, costs, month, volume)
    base = sum(each.fee for each in result.priced)
    tax, inclusive = points(terms["tax"]["basis_points"]), terms["tax"]["inclusive"]
    assert sum(totals.tax for totals in result.totals.values()) == nearest_even(base * tax / (1 + tax if inclusive else 1))


def priced_of(result: Bill) -> list[Priced]:
    return sorted(result.priced, key=lambda priced: priced.transaction_id)


@MANY
@given(terms=tariffs(), costs=some_costs(), month=months(), chance=st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bill(terms: dict[str, Any], costs: dict[str, Any], month: list[Sale], chance: Any) -> None:
    given_ = [tariff_from(terms)], {BANK: [costs_from(costs)]}
    shuffled = month.copy()
    chance.shuffle(shuffled)
    assert bill(*given_, shuffled, {}, {"terminal": 2}) == bill(*given_, month, {}, {"terminal": 2})


@MANY
@given(terms=tariffs(), costs=some_costs(), month=months(), cut=st.integers(0, 25))
def test_a_month_in_two_parts_costs_what_it_costs_in_one(terms: dict[str, Any], costs: dict[str, Any], month: list[Sale], cut: int) -> None:
    given_ = [tariff_from(terms)], {BANK: [costs_from(costs)]}
    sales = in_order(month)
    whole, first = bill(*given_, sales, {}), bill(*given_, sales[:cut], {})
    sold = {priced.transaction_id: Original(abs(priced.gross), *priced[3:7]) for priced in first.priced if priced.gross > 0} | first.sold
    second = bill(*given_, [each._replace(original=sold.get(each.original_id)) if each.original_id else each for each in sales[cut:]], first.month_to_date)
    assert first.priced + second.priced == whole.priced
    assert second.month_to_date == whole.month_to_date


@MANY
@given(terms=tariffs(), costs=some_costs(), month=months(), pieces=st.integers(1, 5))
def test_the_estimate_of_a_whole_month_is_its_bill_to_the_last_minor_unit(terms: dict[str, Any], costs: dict[str, Any], month: list[Sale], pieces: int) -> None:
    """The bill as a settlement makes it: transaction by transaction from a meter, day by day, the volume carried on."""
    tariff, of_bank = tariff_from(terms), costs_from(costs)
    estimate = bill([tariff], {BANK: [of_bank]}, month, {})
    settled, meter = list[Priced](), Meter([tariff], {BANK: [of_bank]}, {})
    for at, each in enumerate(in_order(month)):
        if at % pieces == 0:
            sold = meter.sold
            meter = Meter([tariff_from(json.loads(json.dumps(terms)))], {BANK: [of_bank]}, meter.volume)
            meter.sold = sold
        settled.append(meter.price(each))
    assert settled == estimate.priced
    for currency, totals in estimate.totals.items():
        mine = [priced for priced in settled if priced.currency == currency]
        assert sum(priced.fee for priced in mine) == totals.fees == sum(line.amount for line in estimate.lines)
        assert sum(priced.gross - priced.fee for priced in mine) == totals.gross - totals.fees
        assert totals.net == totals.gross - totals.fees - totals.tax_on_top
        assert sum(priced.margin for priced in mine) == totals.margin


@MANY
@given(wanted=prices_of(plus=False), amount=st.integers(1, 10**9), volume=st.integers(0, 10**9))
def test_a_fee_is_within_its_minimum_and_cap_and_is_the_sum_of_its_lines(wanted: dict[str, Any], amount: int, volume: int) -> None:
    priced = fee_of(wanted, amount, volume)
    assert wanted.get("minimum", 0) <= priced.fee <= wanted.get("cap", 10**18)
    assert priced.fee == sum(line.amount for line in priced.lines)
    assert all(wording.line(line, "CNY") for line in priced.lines)
