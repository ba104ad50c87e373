"""Tariff and cost documents: what is sound, and what is refused with its place and what to do."""

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.settlement.fees import wording
from switch.settlement.fees.terms import FAULTS_MAX, RULES_MAX, TermsError, costs_from, tariff_from

ALL: dict[str, Any] = {"name": "All", "price": {"basis_points": 60}}


def document(*rules: Any, **more: Any) -> dict[str, Any]:
    return {"name": "T", "currency": "CNY", "rules": list(rules or [ALL]), **more}


def rule(match: Any = None, price: Any = None, name: str = "X") -> dict[str, Any]:
    return {"name": name, "match": {"brand": "visa"} if match is None else match, "price": {} if price is None else price}


def faults_of(value: Any, brands: Any = None) -> list[tuple[str, str]]:
    with pytest.raises(TermsError) as refused:
        tariff_from(value, brands=brands)
    return [(fault.place, fault.rule) for fault in refused.value.faults]


BAD: list[tuple[Any, str, str]] = [
    (None, "", "must be an object"), ([], "", "must be an object"), ({}, "/name", "is missing"), ({}, "/currency", "is missing"), ({}, "/rules", "is missing"),
    (document(x=1), "", "unknown member"), (document(name=""), "/name", "printable"), (document(name="a\n"), "/name", "printable"), (document(name=1), "/name", "printable"),
    (document(currency="cny"), "/currency", "ISO 4217"), (document(currency="ZZZ"), "/currency", "ISO 4217"), (document(currency=None), "/currency", "ISO 4217"),
    (document(currency=["CNY"]), "/currency", "ISO 4217"), (document(rounding="even"), "/rounding", "one of"), (document(rounding=[]), "/rounding", "one of"),
    ({"name": "T", "currency": "CNY", "rules": []}, "/rules", "list of 1"), ({"name": "T", "currency": "CNY", "rules": {}}, "/rules", "list"),
    ({"name": "T", "currency": "CNY", "rules": [ALL] * (RULES_MAX + 1)}, "/rules", "list of 1"), (document(1), "/rules/0", "must be an object"),
    (document({"name": "a"}), "/rules/0/price", "is missing"), (document(ALL, ALL), "/rules/1/name", "name it apart"), (document(ALL, {**ALL, "name": "b", "interchange": {}}), "/rules/1", "unknown"),
    (document(rule()), "/rules", "without `match`"), (document(ALL, rule({"currency": "USD", "brand": "visa"})), "/rules", 'for all else in USD'),
    (document(ALL, {**ALL, "name": "b"}), "/rules/1/match", "/rules/0"), (document(ALL, rule(), rule({"brand": ["jcb", "visa"]}, name="Y")), "/rules/2/match", "/rules/1"),
    (document(ALL, rule({"amount": {"from": 1, "below": 10}}), rule({"amount": {"from": 9}}, name="Y")), "/rules/2/match", "neither is more particular"),
    (document(ALL, rule({"brand": "Visa"})), "/rules/1/match/brand", "small letters"), (document(ALL, rule({"brand": []})), "/rules/1/match/brand", "list of 1"),
    (document(ALL, rule({"brand": ["visa", 1]})), "/rules/1/match/brand/1", "small letters"), (document(ALL, rule({"card_type": "charge"})), "/rules/1/match/card_type", "debit, credit"),
    (document(ALL, rule({"method": "cash"})), "/rules/1/match/method", "card, qr"), (document(ALL, rule({"entry_mode": "swipe"})), "/rules/1/match/entry_mode", "magstripe"),
    (document(ALL, rule({"mcc": "581"})), "/rules/1/match/mcc", "four digits"), (document(ALL, rule({"mcc": "٥٨١٢"})), "/rules/1/match/mcc", "four digits"),
    (document(ALL, rule({"currency": "cny"})), "/rules/1/match/currency", "ISO 4217"), (document(ALL, rule({"kind": "void"})), "/rules/1/match/kind", "sale, refund"),
    (document(ALL, rule({"colour": "red"})), "/rules/1/match", "unknown member"), (document(ALL, rule([])), "/rules/1/match", "must be an object"),
    (document(ALL, rule({"amount": {"from": -1}})), "/rules/1/match/amount/from", "minor units"), (document(ALL, rule({"amount": {"from": 5, "below": 5}})), "/rules/1/match/amount/below", "more than"),
    (document(ALL, rule({"amount": 5})), "/rules/1/match/amount", "object"), (document(ALL, rule({"currency": ["CNY", "USD"], "amount": {"from": 5}})), "/rules/1/match/amount", "one currency"),
    (document(ALL, rule(price={"fixed": -1})), "/rules/1/price/fixed", "minor units"), (document(ALL, rule(price={"fixed": 1.5})), "/rules/1/price/fixed", "minor units"),
    (document(ALL, rule(price={"fixed": True})), "/rules/1/price/fixed", "minor units"), (document(ALL, rule(price={"fixed": 10**12})), "/rules/1/price/fixed", "minor units"),
    (document(ALL, rule(price={"minimum": 2, "cap": 1})), "/rules/1/price/cap", "less than"), (document(ALL, rule(price=5)), "/rules/1/price", "object"),
    (document(ALL, rule(price={"percent": 1})), "/rules/1/price", "unknown member"), (document(ALL, rule(price={"interchange_plus": True})), "/rules/1/price/interchange_plus", "one of"),
    *((document(ALL, rule(price={"basis_points": value})), "/rules/1/price/basis_points", "basis points from 0") for value in
      (-1, 10_001, 1.5, True, None, "1.234", "01", "1.", ".5", "-1", "1e2", "10000.01", "٣", "", " 1")),
    (document(ALL, rule(price={"tiers": []})), "/rules/1/price/tiers", "list of 1"), (document(ALL, rule(price={"tiers": [{"basis_points": 1}], "basis_points": 1})), "/rules/1/price/basis_points", "left out"),
    (document(ALL, rule(price={"tiers": [{"up_to": 5, "basis_points": 1}]})), "/rules/1/price/tiers/0/up_to", "left out of the last"),
    (document(ALL, rule(price={"tiers": [{"basis_points": 1}, {"basis_points": 1}]})), "/rules/1/price/tiers/0/up_to", "is missing"),
    (document(ALL, rule(price={"tiers": [{"up_to": 5, "basis_points": 1}, {"up_to": 5, "basis_points": 1}, {"basis_points": 1}]})), "/rules/1/price/tiers/1/up_to", "more than"),
    (document(ALL, rule(price={"tiers": [{"up_to": 0, "basis_points": 1}, {"basis_points": 1}]})), "/rules/1/price/tiers/0/up_to", "minor units"),
    (document(ALL, rule({"kind": "refund"}, {"tiers": [{"basis_points": 1}]})), "/rules/1/price", "neither tiers"),
    (document(ALL, rule({"kind": "refund"}, {"interchange_plus": "interchange"})), "/rules/1/price", "neither tiers"),
    (document({"name": "All", "price": {"fixed": 1}}, currency="*"), "/rules/0/price", "one currency"), (document({"name": "All", "price": {"tiers": [{"basis_points": 1}]}}, currency="*"), "/rules/0/price", "one currency"),
    (document(rule({"currency": "CNY"}), currency="*"), "/rules", "without `match`"),
    (document(refunds={"returns": "half"}), "/refunds/returns", "one of"), (document(refunds={"interchange": "none"}), "/refunds", "unknown"), (document(refunds=1), "/refunds", "object"),
    (document(periodic={}), "/periodic", "list of 0"), (document(periodic=[{}]), "/periodic/0/name", "missing"), (document(periodic=[{"name": "a", "per": "till", "amount": 1}]), "/periodic/0/per", "one of"),
    (document(periodic=[{"name": "a", "per": "store", "amount": 0}]), "/periodic/0/amount", "minor units"), (document(periodic=[{"name": "a", "per": "store", "amount": 1}], currency="*"), "/periodic/0/currency", "ISO 4217"),
    (document(periodic=[{"name": "a", "per": "store", "amount": 1, "currency": []}]), "/periodic/0/currency", "ISO 4217"),
    (document(tax={"name": "VAT"}), "/tax/basis_points", "missing"), (document(tax={"name": "VAT", "basis_points": 600, "inclusive": 1}), "/tax/inclusive", "true or false"), (document(tax=6), "/tax", "object"),
]


@pytest.mark.parametrize(("value", "place", "said"), BAD)
def test_a_bad_document_is_refused_with_its_place_and_what_to_do(value: Any, place: str, said: str) -> None:
    assert [1 for where, rule in faults_of(value) if where == place and said in rule], faults_of(value)


def test_all_faults_are_told_at_once_but_not_without_end_and_nothing_of_the_document() -> None:
    many = document(*({"name": f"SECRET{at}", "price": {"fixed": "SECRET", "SECRET": 1}} for at in range(50)))
    faults = faults_of(many)
    assert len(faults) == FAULTS_MAX and "SECRET" not in str(faults)


def test_brands_are_looked_up_when_they_are_given() -> None:
    value = document(ALL, rule({"brand": ["visa", "vsa"]}))
    assert faults_of(value, {"visa", "jcb"}) == [("/rules/1/match/brand/1", "must be a known brand: jcb, visa")]
    assert tariff_from(value).rules[1].match.brand == {"visa", "vsa"}


def test_rules_that_cannot_meet_stand_side_by_side() -> None:
    tariff = tariff_from(document(ALL, rule({"brand": "visa", "mcc": "*"}), rule({"brand": "jcb"}, name="b"), rule({"amount": {"below": 10}}, name="c"), rule({"amount": {"from": 10}}, name="d"),
                                  rule({"currency": "USD"}, {"fixed": 1}, "e"), rule({"kind": "refund"}, {"fixed": 1}, "f"), rule({"mcc": "5812"}, name="g")))
    assert len(tariff.rules) == 8


@pytest.mark.parametrize(("said", "millionths"), [(0, 0), (38, 3800), ("38", 3800), ("38.2", 3820), ("38.25", 3825), ("0.01", 1), (10_000, 1_000_000), ("10000.00", 1_000_000)])
def test_basis_points_are_kept_exactly(said: Any, millionths: int) -> None:
    assert tariff_from(document({"name": "All", "price": {"basis_points": said}})).rules[0].prices[0].rate == millionths


def test_a_tariff_of_rates_alone_is_for_every_currency() -> None:
    tariff = tariff_from(document(currency="*"), date(2026, 1, 1))
    assert (tariff.rules[0].match.currency, tariff.effective_from) == (None, date(2026, 1, 1))


COSTS: list[tuple[Any, str, str]] = [
    (document(ALL), "/rules/0", "unknown member"), (document({"name": "a", "interchange": {"interchange_plus": "interchange"}}), "/rules/0/interchange", "unknown member"),
    (document({"name": "a", "scheme": {"fixed": -1}}), "/rules/0/scheme/fixed", "minor units"), (document({"name": "a"}, refunds={"returns": "none"}), "/refunds", "unknown"),
    (document({"name": "a"}, refunds={"scheme": "x"}), "/refunds/scheme", "one of"), (document({"name": "a"}, tax={}), "", "unknown"), (document({"name": "a", "match": {"brand": "visa"}}), "/rules", "without `match`"),
]


@pytest.mark.parametrize(("value", "place", "said"), COSTS)
def test_bad_costs_are_refused_with_their_place(value: Any, place: str, said: str) -> None:
    with pytest.raises(TermsError) as refused:
        costs_from(value)
    assert [1 for fault in refused.value.faults if fault.place == place and said in fault.rule], refused.value.faults


JSON = st.recursive(st.none() | st.booleans() | st.integers(-10, 10**13) | st.floats(allow_nan=False) | st.text(max_size=6),
                    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
                        ["name", "currency", "rules", "match", "price", "brand", "amount", "from", "below", "tiers", "up_to", "basis_points", "fixed", "tax", "refunds", "periodic", "per"])
                        | st.text(max_size=3), inner, max_size=6), max_leaves=30)


@given(value=JSON, at=st.integers(0, 6))
def test_any_json_is_a_tariff_or_is_refused_and_never_a_fault_of_ours(value: Any, at: int) -> None:
    sound = document(ALL, rule(price={"tiers": [{"up_to": 5, "basis_points": 1}, {"basis_points": 2}]}), refunds={"returns": "all"}, tax={"name": "VAT", "basis_points": 600},
                     periodic=[{"name": "Rent", "per": "terminal", "amount": 5}])
    broken = [value, {**sound, "rules": value}, {**sound, "rules": [value, ALL]}, document(ALL, rule(value)), document(ALL, rule(price=value)), {**sound, "tax": value}, {**sound, "periodic": [value]}][at]
    for read, tell in ((tariff_from, wording.tariff), (costs_from, wording.costs)):
        try:
            read_value: Any = read(broken)
        except TermsError as error:
            assert error.faults
        else:
            assert all(tell(read_value)) and json.dumps(broken)


def test_a_tariff_says_itself_in_words() -> None:
    tariff = tariff_from(document(
        ALL, {"name": "Debit", "match": {"brand": ["visa", "jcb"], "card_type": "debit", "method": "card", "entry_mode": "chip", "mcc": "5812", "amount": {"from": 100, "below": 5000}},
              "price": {"tiers": [{"up_to": 100_000, "basis_points": "38.25"}, {"basis_points": 20}], "fixed": 3, "minimum": 5, "cap": 1800, "interchange_plus": "interchange_and_scheme"}},
        {"name": "Back", "match": {"kind": "refund"}, "price": {"fixed": 50}}, refunds={"returns": "proportional"}, tax={"name": "VAT", "basis_points": 600},
        periodic=[{"name": "Rent", "per": "terminal", "amount": 5000}]))
    assert wording.tariff(tariff) == [
        "Debit (sales: jcb or visa debit cards, by card, read by chip, MCC 5812, in CNY, from 1.00 CNY, below 50.00 CNY): by the volume of the month (0.3825 % up to 1000.00 CNY, 0.20 % above) "
        "plus 0.03 CNY plus the interchange and the scheme's fee, at least 0.05 CNY, at most 18.00 CNY.",
        "All (sales: in CNY): 0.60 %.", "Back (refunds: in CNY): 0.50 CNY.", "Refunds: a refund gives back its part of the sale's fee.", "Rent: 50.00 CNY a month for each terminal.",
        "VAT: 6.00 % on top of the fees of a statement.", "Each line of a fee is rounded half to the even unit."]
    costs = costs_from(document({"name": "All", "interchange": {"basis_points": 35}, "acquirer": {"fixed": 2}}, refunds={"interchange": "proportional"}))
    assert wording.costs(costs) == [
        "All (sales: in CNY): interchange 0.35 %; acquirer 0.02 CNY.", "Refunds, interchange: a refund gives back its part of the original's fee.",
        "Refunds, scheme: the fee of the original is kept at its refund.", "Refunds, acquirer: the fee of the original is kept at its refund.",
        "Each line of a cost is rounded half to the even unit."]
