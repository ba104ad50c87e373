"""The function that a plan is made into, against the rules read one by one: the same counts and the same rules broken, whatever comes in which order."""

from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from switch.payments.judging import Plan, code
from switch.payments.risk import Book, in_scope, specs
from switch.payments.velocity import Away, Counter, Different, Sale
from switch.watchlist import RiskRule
from tests.test_velocity import MERCHANT, sale

W = 40  # seconds
CNY = {"currency": "CNY"}
SAID: list[dict[str, Any]] = [
    {"kind": "velocity", "subject": "card", "window_s": W, "count_max": 3}, {"kind": "velocity", "subject": "card", "window_s": 2 * W, "count_max": 4},
    {"kind": "velocity", "subject": "terminal", "window_s": W, "amount_max": 300, **CNY},
    {"kind": "velocity", "subject": "store", "window_s": W, "count_max": 0, "entry_modes": frozenset({"manual"})},
    {"kind": "velocity", "subject": "merchant", "window_s": W, "amount_max": 900, **CNY, "merchant_id": MERCHANT},
    {"kind": "amount", "amount_max": 99, **CNY}, {"kind": "amount", "amount_max": 9, "currency": "USD", "mccs": frozenset({"5812"})},
    {"kind": "night", "minute_from": 1380, "minute_until": 60, "amount_min": 50, **CNY}, {"kind": "night", "minute_from": 60, "minute_until": 120},
    {"kind": "split", "window_s": W, "count_max": 1, "amount_max": 100, "basis_points": 2000, **CNY},
    {"kind": "refund_ratio", "subject": "merchant", "window_s": W, "count_max": 1, "basis_points": 3000, **CNY},
    {"kind": "card_testing", "subject": "terminal", "window_s": W, "count_max": 1, "amount_max": 20, **CNY},
    {"kind": "card_testing", "subject": "store", "window_s": W, "count_max": 0}, {"kind": "card_spread", "window_s": W, "count_max": 1},
    {"kind": "relocated", "window_s": W, "distance_km": 2}, {"kind": "relocated", "window_s": 2 * W, "distance_km": 1, "mccs": frozenset({"5812"})},
]
RULES = [RiskRule(UUID(int=number), "A rule", action="flag", **said) for number, said in enumerate(SAID)]
MADE = st.builds(lambda amount, card, terminal, minute, type_, currency, mode, mcc, away: (amount, card, terminal, {
    "minute": minute, "type": type_, "currency": currency, "entry_mode": mode, "mcc": mcc, "away": away}),
    st.sampled_from([1, 20, 21, 79, 80, 100, 101]), st.integers(1, 3), st.integers(3, 4), st.sampled_from([0, 59, 60, 119, 120, 1380]),
    st.sampled_from(["purchase", "purchase", "purchase", "refund"]), st.sampled_from(["CNY", "CNY", "CNY", "USD"]), st.sampled_from(["chip", "manual"]),
    st.sampled_from(["5812", "5411"]), st.none() | st.builds(Away, st.sampled_from([1000, 1001, 2000, 2001]), st.just(0), st.sampled_from([950_000, 1_010_000])))


def broken(rule: RiskRule, counts: tuple[Counter | Different, ...], each: Sale) -> bool:
    """As docs/risk.md says it. Sums have the sale in them, sets do not."""
    refund, own = each.type == "refund", rule.currency in (None, each.currency)
    if rule.kind == "amount":
        return own and each.amount > (rule.amount_max or 0)
    if rule.kind == "night":
        begin, end = rule.minute_from or 0, rule.minute_until or 0
        minutes = [minute % 1440 for minute in range(begin, end if begin < end else end + 1440)]
        return own and each.minute in minutes and each.amount >= (rule.amount_min or 0)
    if rule.kind == "relocated":
        return each.away is not None and each.away.metres > (rule.distance_km or 0) * 1000 and each.at_ms - each.away.told_ms <= (rule.window_s or 0) * 1000
    first = counts[0]
    if isinstance(first, Different):
        members = set(first.seen(each)) | ({each[first.of]} if first.small(each) else set())
        return not refund and len(members) > (rule.count_max or 0)
    if rule.kind == "refund_ratio":
        assert isinstance(counts[1], Counter)
        sold, back = first.seen(each), counts[1].seen(each)
        return own and back.sales > (rule.count_max or 0) and back.amount * 10_000 > (rule.basis_points or 0) * sold.amount
    seen = first.seen(each)
    return first.counts(each) and (seen.sales > rule.count_max if rule.count_max is not None else seen.amount > (rule.amount_max or 0))


@given(st.lists(st.tuples(st.sampled_from([0, 1, 500, 1999, 2000, 15_000, 45_000]), MADE, st.booleans()), max_size=50))
def test_a_plan_breaks_and_counts_as_its_rules_do_one_by_one(made: list[Any]) -> None:
    book, plain, now = Book(RULES, {}), Book(RULES, {}), 1_000_000
    for later_ms, (amount, card, terminal, said), declined in made:
        now += later_ms
        each = sale(now, amount, card, terminal, **said)
        asked = [(rule, tuple(plain.counters.of[spec] for spec in specs(rule))) for rule in plain.rules if in_scope(rule, each)]
        counters = dict.fromkeys(counter for _, counts in asked for counter in counts)
        for counter in counters:
            if isinstance(counter, Counter):
                counter.add(each, now)
        expected = {rule.rule_id for rule, counts in asked if broken(rule, counts, each)}
        for counter in counters:
            if isinstance(counter, Different):
                counter.add(each, now)
        judged = book.judge(each)
        assert {hit.source_id for hit in judged.hits} == expected
        assert len(judged.hits) == len(expected)
        for counter in judged.counters if declined else ():
            counter.declined(each)
        for counter in counters if declined else ():
            counter.declined(each)
        assert [counter.seen(each) for counter in book.counters.of.values()] == [counter.seen(each) for counter in plain.counters.of.values()]


def test_sales_that_differ_in_nothing_that_a_rule_names_share_a_plan_and_plans_that_say_the_same_share_their_code() -> None:
    book = Book([rule for rule in RULES if rule.kind in ("velocity", "amount")], {})
    plans = {book.plan(sale(0, mcc=mcc, brand=brand)) for mcc in ("5411", "5814", "7011") for brand in ("visa", "jcb")}
    assert len(plans) == 1
    before = code.cache_info().misses
    for number in range(20):
        Plan([(rule, ()) for rule in book.rules if rule.kind == "amount"], sale(0, currency="CNY", mcc=f"{number}"))
    assert code.cache_info().misses - before <= 1


def test_the_source_of_a_plan_has_nothing_in_it_that_a_person_or_a_message_wrote() -> None:
    book = Book([rule._replace(name="import os", merchant_id=MERCHANT, brands=frozenset({"visa"})) for rule in RULES], {})
    words = {word for kind in (sale(0), sale(0, type="refund", currency="USD", entry_mode="manual"))
             for line in book.plan(kind)._source() for word in "".join(letter if letter.isalpha() or letter == "_" else " " for letter in line).split()}
    assert words <= {"def", "judge", "sale", "at_ms", "amount", "found", "part", "key", "row", "table", "young", "get", "if", "is", "None", "or", "not",
                     "layout", "else", "bump", "len", "and", "return", "put"}
