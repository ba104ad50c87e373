"""The life of a payout, what its facts post, and what of a balance is paid: rules over all values."""

import itertools
from collections import Counter
from datetime import date
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.settlement.funding.payable import WORDS, shares
from switch.settlement.payouts.life import EVENT_OF, ILLEGAL, LIFE, IllegalMove, Payout, contradicts, requested, step, transfers

STATES, EVENTS = ("requested", "sent", "confirmed", "returned"), ("send", "confirm", "return", "reject")
DAY = date(2026, 11, 26)
ONE = Payout(UUID(int=1), UUID(int=2), "EUR", 12_345)
FACTS = st.lists(st.sampled_from(sorted(EVENT_OF)), max_size=6)


def books(facts: list[str]) -> tuple[dict[str, int], set[tuple[object, ...]]]:
    """Balances by kind of account, and transfers, with each posting key once."""
    posted = {each.posting_key: each for event in facts for each in transfers(ONE, EVENT_OF[event], DAY)}
    posted |= {each.posting_key: each for each in requested(ONE, DAY)}
    balances: Counter[str] = Counter()
    for each in posted.values():
        balances[each.debit.kind] -= each.amount
        balances[each.credit.kind] += each.amount
    return dict(balances), {(each.debit, each.credit, each.amount, each.cause) for each in posted.values()}


def test_every_move_is_in_one_table_or_is_refused_by_name() -> None:
    assert LIFE.keys() | ILLEGAL.keys() == set(itertools.product(STATES, EVENTS))
    assert not LIFE.keys() & ILLEGAL.keys()
    for (state, event), name in ILLEGAL.items():
        with pytest.raises(IllegalMove, match=f"^{name}$"):
            step(state, event)
    assert step("requested", "send") == "sent"


@given(FACTS, st.randoms())
def test_any_order_of_facts_gives_the_same_ledger_and_it_sums_to_zero(facts: list[str], chance: object) -> None:
    shuffled = list(facts)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    balances, posted = books(facts)
    assert (balances, posted) == books(shuffled) == books(facts + shuffled)
    assert sum(balances.values()) == 0
    if "returned" in facts:  # whatever else was said: the merchant has it again, and nothing is left on its way
        assert balances["merchant"] == 0 and ("rejected" in facts or balances["payout"] == 0)


@given(FACTS)
def test_what_came_back_stays_returned(facts: list[str]) -> None:
    state = "sent"
    for fact in facts:
        state = step(state, EVENT_OF[fact])
    assert state == ("returned" if {"returned", "rejected"} & set(facts) else "confirmed" if facts else "sent")
    assert contradicts(frozenset(facts)) == ("confirmed" in facts and "rejected" in facts and "returned" not in facts)


@given(st.integers(-10**12, 10**12), st.integers(-10**12, 10**12), st.integers(0, 10**9), st.booleans(), st.sampled_from([None, "active", "suspended"]))
def test_what_is_paid_and_what_is_carried_is_what_was_due(balance: int, not_due: int, minimum: int, held: bool, account: str | None) -> None:
    found = shares(balance, not_due, minimum, held, account)
    assert found.paid + found.carried == found.due == balance - max(0, not_due)
    assert 0 <= found.paid <= max(0, balance) and (found.paid == 0) == bool(found.reason) and WORDS[found.reason]
    if found.paid:
        assert not held and account == "active" and found.paid >= minimum and found.carried == 0


@pytest.mark.parametrize(("account", "reason"), [(None, "no_bank_account"), ("suspended", "account_suspended"), ("active", "")])
def test_money_needs_somewhere_to_go(account: str | None, reason: str) -> None:
    assert shares(500, 0, 0, False, account).reason == reason
    assert shares(500, 0, 501, False, account).reason == "below_minimum"
    off = shares(500, 0, 0, False, account, works=False)
    assert (off.paid, off.carried, off.reason) == (0, 500, reason or "no_business_day")
