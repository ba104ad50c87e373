"""Rules, lists and limits as tables: what breaks them, in words and figures, and what the strongest action is."""

from typing import Any
from uuid import UUID

import pytest

from switch.merchants.risk_rules import NEEDS
from switch.payments.risk import WORDS, Book, Hit, over_limit, strongest
from switch.payments.velocity import Away, Sale
from switch.watchlist import Limit, RiskEntry, RiskRule, Watchlist
from tests.test_velocity import MERCHANT, sale

RULE = UUID(int=77)


def rule(kind: str, action: str = "decline", **said: Any) -> RiskRule:
    return RiskRule(RULE, "A rule", kind, action, **said)


def judged(said: RiskRule, sales: list[Sale], entries: dict[tuple[str, str], RiskEntry] | None = None, declined: bool = False) -> list[list[str]]:
    """What each of the sales hits, in order; those that are not refused are counted."""
    book, found = Book([said], entries or {}), []
    for each in sales:
        result = book.judge(each)
        found.append([hit.why for hit in result.hits])
        if declined and not result.refused:
            for counter in result.counters:
                counter.declined(each)
    return found


AWAY = Away(50_100, 300_000, 400_000)
CASES = [
    ("velocity", rule("velocity", subject="card", window_s=60, count_max=1), [sale(0), sale(59_000)],
     "2 sales of one card within 1 minute, more than 1"),
    ("as many as it may", rule("velocity", subject="card", window_s=60, count_max=2), [sale(0), sale(59_000)], None),
    ("velocity over", rule("velocity", subject="card", window_s=60, count_max=1), [sale(0), sale(64_000)], None),
    ("another card", rule("velocity", subject="card", window_s=60, count_max=1), [sale(0), sale(1, card=2)], None),
    ("a terminal", rule("velocity", subject="terminal", window_s=7200, count_max=1), [sale(0), sale(1, card=2)],
     "2 sales of one terminal within 2 hours, more than 1"),
    ("a sum", rule("velocity", subject="store", window_s=90, amount_max=250, currency="CNY"), [sale(0, 100), sale(1, 100), sale(2, 51)],
     "2.51 CNY of one store within 90 seconds, more than 2.50 CNY"),
    ("a sum that just fits", rule("velocity", subject="store", window_s=90, amount_max=250, currency="CNY"), [sale(0, 100), sale(1, 150)], None),
    ("a sum of its currency", rule("velocity", subject="store", window_s=90, amount_max=150, currency="CNY"),
     [sale(0, 100), sale(1, 100, currency="USD")], None),
    ("amount", rule("amount", amount_max=99, currency="CNY"), [sale(0, 100)], "1.00 CNY in one sale, more than 0.99 CNY"),
    ("amount that fits", rule("amount", amount_max=100, currency="CNY"), [sale(0, 100)], None),
    ("amount in another currency", rule("amount", amount_max=99, currency="USD"), [sale(0, 100)], None),
    ("night", rule("night", minute_from=1380, minute_until=300), [sale(0, minute=1380)],
     "a sale at 23:00 where the merchant is, between 23:00 and 05:00"),
    ("morning", rule("night", minute_from=1380, minute_until=300), [sale(0, minute=300)], None),
    ("a large one at night", rule("night", minute_from=0, minute_until=300, amount_min=100, currency="CNY"), [sale(0, 100, minute=0)],
     "a sale at 00:00 where the merchant is, between 00:00 and 05:00, of 1.00 CNY, not less than 1.00 CNY"),
    ("a small one at night", rule("night", minute_from=0, minute_until=300, amount_min=101, currency="CNY"), [sale(0, 100, minute=0)], None),
    ("split", rule("split", window_s=600, count_max=2, amount_max=100, basis_points=1000, currency="CNY"), [sale(0, 90), sale(1, 95), sale(2, 100)],
     "3 sales of one card at one terminal within 10 minutes, each from 0.90 to 1.00 CNY, more than 2; 2.85 CNY together"),
    ("split in as many as it may be", rule("split", window_s=600, count_max=2, amount_max=100, basis_points=1000, currency="CNY"),
     [sale(0, 90), sale(1, 100)], None),
    ("split too small", rule("split", window_s=600, count_max=2, amount_max=100, basis_points=1000, currency="CNY"),
     [sale(0, 90), sale(1, 89), sale(2, 100)], None),
    ("refunds", rule("refund_ratio", subject="merchant", window_s=86400, count_max=1, basis_points=2000, currency="CNY"),
     [sale(0, 1000), sale(1, 100, type="refund"), sale(2, 101, type="refund")],
     "2 refunds of 2.01 CNY against sales of 10.00 CNY of one merchant within 1 day, more than 20.00 %"),
    ("refunds that fit", rule("refund_ratio", subject="merchant", window_s=86400, count_max=1, basis_points=2000, currency="CNY"),
     [sale(0, 1000), sale(1, 100, type="refund"), sale(2, 100, type="refund")], None),
    ("card testing", rule("card_testing", subject="terminal", window_s=3600, count_max=2, amount_max=100, currency="CNY"),
     [sale(0, 1, 1), sale(1, 2, 2), sale(2, 3, 3)],
     "3 different cards at one terminal within 1 hour with sales declined or of at most 1.00 CNY, more than 2"),
    ("as many cards as it may", rule("card_testing", subject="terminal", window_s=3600, count_max=2, amount_max=100, currency="CNY"),
     [sale(0, 1, 1), sale(1, 2, 2)], None),
    ("a card that is large", rule("card_testing", subject="terminal", window_s=3600, count_max=2, amount_max=100, currency="CNY"),
     [sale(0, 1, 1), sale(1, 2, 2), sale(2, 101, 3)], None),
    ("one card many times", rule("card_testing", subject="terminal", window_s=3600, count_max=2, amount_max=100, currency="CNY"),
     [sale(0, 1), sale(1, 2), sale(2, 3), sale(3, 4)], None),
    ("spread", rule("card_spread", window_s=3600, count_max=1), [sale(0), sale(1, terminal=4)],
     "one card at 2 different terminals within 1 hour, more than 1"),
    ("as many terminals as it may", rule("card_spread", window_s=3600, count_max=2), [sale(0), sale(1, terminal=4)], None),
    ("relocated", rule("relocated", window_s=3600, distance_km=50), [sale(4_000_000, away=AWAY)],
     "the terminal is at least 50.1 km from its store, more than 50, since 1970-01-01T00:05:00Z; it last said so at 1970-01-01T00:06:40Z"),
    ("as far as it may be", rule("relocated", window_s=3600, distance_km=50), [sale(4_000_000, away=AWAY._replace(metres=50_000))], None),
    ("said just long enough ago", rule("relocated", window_s=3600, distance_km=50), [sale(4_000_001, away=AWAY)], None),
    ("nobody knows where", rule("relocated", window_s=3600, distance_km=50), [sale(4_000_000)], None),
    ("no spread", rule("card_spread", window_s=3600, count_max=1), [sale(0), sale(1)], None),
]


@pytest.mark.parametrize(("said", "sales", "why"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_rule_is_broken_by_the_last_sale_or_by_none(said: RiskRule, sales: list[Sale], why: str | None) -> None:
    assert judged(said, sales) == [[] for _ in sales[1:]] + [[] if why is None else [why]]


def test_every_kind_is_shown_to_be_broken_and_to_be_just_kept() -> None:
    shown = {(said.kind, why is not None) for _, said, _, why in CASES}
    assert set(WORDS) == set(NEEDS)
    assert shown == {(kind, broken) for kind in NEEDS for broken in (True, False)}


def test_a_sale_that_a_limit_of_amounts_also_counts_is_in_the_ratio_once() -> None:
    """Rules that count the same share a counter."""
    ratio = rule("refund_ratio", subject="merchant", window_s=60, count_max=0, basis_points=5000, currency="CNY")
    sums = rule("velocity", subject="merchant", window_s=60, amount_max=10_000, currency="CNY")._replace(rule_id=UUID(int=78))
    book = Book([ratio, sums], {})
    found = [book.judge(each).hits for each in (sale(0, 100), sale(1, 51, type="refund"), sale(2, 1), sale(3, 1))]
    assert [[hit.kind for hit in hits] for hits in found] == [[], ["refund_ratio"], [], []]  # a refused refund is not counted


@pytest.mark.parametrize(("scope", "fits"), [
    ({"merchant_id": MERCHANT}, True), ({"merchant_id": UUID(int=9)}, False), ({"mccs": frozenset({"5812"})}, True),
    ({"mccs": frozenset({"5411"})}, False), ({"brands": frozenset({"visa", "jcb"})}, True), ({"brands": frozenset({"jcb"})}, False),
    ({"entry_modes": frozenset({"chip"})}, True), ({"entry_modes": frozenset({"manual"})}, False), ({"state": "draft"}, False),
    ({"state": "retired"}, False),
])
def test_a_rule_is_for_its_scope(scope: dict[str, Any], fits: bool) -> None:
    assert judged(rule("amount", amount_max=1, currency="CNY", **scope), [sale(0)]) == [["1.00 CNY in one sale, more than 0.01 CNY"] if fits else []]


def test_a_rule_counts_the_sales_of_its_scope_alone() -> None:
    manual = rule("velocity", subject="card", window_s=60, count_max=1, entry_modes=frozenset({"manual"}))
    assert [bool(found) for found in judged(manual, [sale(0), sale(1, entry_mode="manual"), sale(2), sale(3, entry_mode="manual")])] == [
        False, False, False, True]


def test_refused_sales_are_not_counted() -> None:
    said = rule("velocity", subject="card", window_s=60, count_max=1)
    assert [len(found) for found in judged(said, [sale(0), sale(50_000), sale(63_500)])] == [0, 1, 0]


def entry(subject: str, value: str, verdict: str, number: int = 1, ended: bool = False) -> RiskEntry:
    return RiskEntry(UUID(int=number), subject, value, verdict, "Because", ended)


def test_a_block_goes_before_an_allowance_and_an_allowance_before_rules() -> None:
    said, card, terminal = rule("amount", amount_max=1, currency="CNY"), ("card", "01" * 32), ("terminal", str(UUID(int=3)))
    allowed, blocked = entry(*card, "allow"), entry(*terminal, "block", 2)
    assert judged(said, [sale(0)], {card: allowed}) == [[]]
    assert judged(said, [sale(0)], {card: allowed, terminal: blocked}) == [["the terminal is blocked: Because"]]
    assert judged(said, [sale(0, terminal=4)], {terminal: blocked}) == [["1.00 CNY in one sale, more than 0.01 CNY"]]


def test_the_strongest_action_decides() -> None:
    hits = [Hit("rule", RULE, "amount", action, None, "", {}) for action in ("hold", "flag")]
    assert (strongest(hits), strongest([])) == ("hold", None)
    assert strongest([*hits, hits[0]._replace(action="block"), hits[0]._replace(action="decline")]) == "block"


@pytest.mark.parametrize(("amount", "day", "month", "kind"), [
    (100, 400, 900, None), (101, 0, 0, "limit_per_sale"), (100, 401, 401, "limit_per_day"), (100, 0, 901, "limit_per_month"),
])
def test_a_limit_is_kept_to_the_last_unit(amount: int, day: int, month: int, kind: str | None) -> None:
    hit = over_limit(Limit(RULE, MERCHANT, "CNY", 100, 500, 1000), amount, day, month)
    assert (hit.kind if hit else None) == kind
    assert over_limit(Limit(RULE, MERCHANT, "CNY", None, None, None), amount, day, month) is None


@pytest.mark.parametrize(("minute", "within"), [(1379, False), (1380, True), (0, True), (299, True), (300, False), (720, False)])
def test_a_night_goes_over_midnight(minute: int, within: bool) -> None:
    assert bool(judged(rule("night", minute_from=1380, minute_until=300), [sale(0, minute=minute)])[0]) is within
    assert bool(judged(rule("night", minute_from=300, minute_until=1380), [sale(0, minute=minute)])[0]) is not within


def test_what_is_in_force_follows_what_is_taken_in_any_order() -> None:
    seen = Watchlist()
    old, new = Limit(UUID(int=1), MERCHANT, "CNY", 1, None, None), Limit(UUID(int=2), MERCHANT, "CNY", 2, None, None)
    for record in (old, new, old._replace(state="retired")):
        seen.take(record)
    assert seen.limits == {MERCHANT: {"CNY": new}}
    for each in (entry("card", "01" * 32, "block"), entry("card", "01" * 32, "allow", 2), entry("card", "01" * 32, "block", 1, True)):
        seen.take(each)
    assert [found.verdict for found in seen.entries.values()] == ["allow"]
    seen.take(rule("amount"))
    assert seen.in_force()
    for last in (rule("amount", state="retired"), new._replace(state="retired"), entry("card", "01" * 32, "allow", 2, True)):
        seen.take(last)
    assert not seen.in_force()
