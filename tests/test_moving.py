"""The life of a change of acquirer, and the rules that a share makes: pure."""

from datetime import date
from typing import Any
from uuid import UUID

import pytest

from migrations.versions.r0029_moving import STATES, STEPS
from switch.merchants.moving.life import CLOSED, LIFE, Share, in_the_way, made

OLD, NEW, OTHER, MERCHANT = (UUID(int=number) for number in range(1, 5))
_NONE = dict.fromkeys(("brand", "bin_low", "bin_high", "amount_min", "currencies", "weight", "cost_basis_points", "cost_fixed", "stores", "date_from",
                       "date_until", "merchant_id"))


def rule(number: int, acquirer: UUID, **said: Any) -> dict[str, Any]:
    return {**_NONE, "route_id": UUID(int=number), "acquirer_id": acquirer, "priority": 100, **said}


def test_the_database_holds_the_same_steps() -> None:
    assert sorted(STEPS) == sorted({f"{was}>{state}" for (was, _), state in LIFE.items()})
    assert {each.strip("' ") for each in STATES.split(",")} == set(LIFE.states)


@pytest.mark.parametrize("state", LIFE.states)
@pytest.mark.parametrize("event", LIFE.events)
def test_an_event_follows_or_is_refused_by_name(state: str, event: str) -> None:
    if (state, event) in LIFE:
        assert LIFE.refusal(state, event) is None
    else:
        refused = LIFE.refusal(state, event)
        assert refused is not None and refused.code == "move_step" and state in refused.detail and event in refused.detail
        with pytest.raises(LookupError):
            LIFE[state, event]
    if state in CLOSED:
        assert (state, event) not in LIFE


def test_a_share_is_two_rules_before_each_that_leads_to_the_old_acquirer_under_its_conditions() -> None:
    rules = [rule(10, OLD, brand="visa", priority=7, currencies=["CNY"]), rule(11, OTHER, brand="jcb"), rule(12, OLD, merchant_id=MERCHANT)]
    found = made(rules, OLD, NEW, Share(30))
    assert [(each.acquirer_id, each.brand, each.priority, each.conditions) for each in found] == [
        (NEW, "visa", 7, {"currencies": ["CNY"], "weight": 30}), (OLD, "visa", 7, {"currencies": ["CNY"], "weight": 70}),
        (NEW, None, 100, {"weight": 30}), (OLD, None, 100, {"weight": 70})]


def test_a_share_of_stores_from_a_day_on_says_so_in_both_rules() -> None:
    store, day = UUID(int=77), date(2026, 12, 1)
    for each in made([rule(10, OLD)], OLD, NEW, Share(100, (store,), day)):
        assert (each.conditions["stores"], each.conditions["date_from"]) == ([store], day)
        assert each.conditions["weight"] == (100 if each.acquirer_id == NEW else 0)


@pytest.mark.parametrize(("rules", "named"), [
    ([rule(10, OLD)], []), ([rule(10, OLD, weight=5)], [10]), ([rule(10, OLD, cost_fixed=5)], [10]), ([rule(10, OLD, stores=[NEW])], [10]),
    ([rule(10, OLD), rule(11, OTHER, brand="visa")], [11]), ([rule(10, OLD), rule(11, OTHER, priority=5)], []),
    ([rule(10, OLD, merchant_id=MERCHANT), rule(11, OTHER)], []), ([rule(11, OTHER, weight=5)], []),
])
def test_rules_that_cannot_be_shared_are_named(rules: list[dict[str, Any]], named: list[int]) -> None:
    assert [route_id.int for route_id, _ in in_the_way(rules, OLD, MERCHANT)] == named
