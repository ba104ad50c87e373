"""The words of routing: why a rule put its acquirer where it is, and what speaks against each other one."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from test_routing import ACQUIRERS, MERCHANT, OTHER, A, B, C, identity, rules, sale

from switch.payments.explanation import explain, in_force
from switch.payments.routing import Health
from switch.records import Route


def why_not(condition: dict[str, Any], **changed: Any) -> str:
    judged = explain(rules({"acquirer_id": A} | condition), sale(**changed), (A,), ACQUIRERS)
    assert [each.place for each in judged] == [None]
    return "; ".join(judged[0].why)


@pytest.mark.parametrize(("condition", "words"), [
    ({"state": "draft"}, "it is a draft"), ({"state": "retired"}, "it is retired"), ({"merchant_id": OTHER}, "it is another merchant's"),
    ({"brand": "jcb"}, "it is for jcb, and the card is visa"), ({"mccs": frozenset({"5411", "5999"})}, "it is for merchants of 5411, 5999, and this one is 5812"),
    ({"bin_low": "6212", "bin_high": "6299"}, "it is for card numbers from 6212 to 6299"),
    ({"currencies": frozenset({"USD"})}, "it is for USD, not CNY"), ({"amount_min": 10_001}, "it begins at 10001 minor units"),
    ({"amount_max": 9_999}, "it ends at 9999 minor units"), ({"entry_modes": frozenset({"manual"})}, "it is for cards read by manual, not chip"),
    ({"weekdays": frozenset({6, 7}), "minute_from": 480, "minute_until": 1320},
     "it holds Sat Sun 08:00 to 22:00 where the merchant is, and there it is Tue 12:30"),
    ({"acquirer_id": B}, "its acquirer has no number for the terminal"),
    ({"acquirer_id": UUID(int=77)}, "its acquirer has no number for the terminal; its acquirer has no record with an open day"),
])
def test_what_speaks_against_a_rule_is_said(condition: dict[str, Any], words: str) -> None:
    assert why_not(condition) == words


def test_all_that_speaks_against_it_is_said_and_unknown_digits_too() -> None:
    assert why_not({"brand": "jcb", "bin_low": "4111111111", "bin_high": "4111111111"}, bin="41111111") == (
        "it is for jcb, and the card is visa; it is for card numbers from 4111111111 to 4111111111, and only 8 digits of this one are known")


def test_the_rule_that_fires_says_why_and_a_second_one_to_the_same_acquirer_names_it() -> None:
    routes = rules({"acquirer_id": A, "name": "Ours", "merchant_id": MERCHANT, "brand": "visa"}, {"acquirer_id": B}, {"acquirer_id": A})
    ours, theirs, again = explain(routes, sale(), (A, B, C), ACQUIRERS)
    assert (ours.place, ours.why) == (1, ("priority 100, this merchant's own, visa alone",))
    assert (theirs.place, theirs.why) == (2, ("priority 100",))
    assert (again.place, again.why) == (None, ("it fits, and its acquirer has its place already, by the rule Ours",))


def test_a_split_says_which_point_was_drawn() -> None:
    routes = rules({"acquirer_id": A, "weight": 70}, {"acquirer_id": B, "weight": 30})
    first, second = explain(routes, sale(identity=identity(3)), (A, B), ACQUIRERS)
    assert " of 100, and point " in first.why[1] and first.why == explain(routes, sale(identity=identity(3)), (A, B), ACQUIRERS)[0].why
    assert len(second.why) == 1, "what is left is not drawn"


def test_costs_and_health_are_said() -> None:
    (rule,) = rules({"acquirer_id": A, "cost_basis_points": 35, "cost_fixed": 2, "currencies": frozenset({"CNY"}), "healthy_percent": 90})
    ill = next(sale(amount=10_001, identity=identity(number)) for number in range(99)
               if "behind" in explain([rule], sale(identity=identity(number)), (A,), ACQUIRERS, lambda _: Health(True, 40, 12))[0].why[-1])
    assert explain([rule], ill, (A,), ACQUIRERS, lambda _: Health(True, 40, 12))[0].why == (
        "priority 100, CNY", "by its word it costs 37.0035 minor units",
        "its acquirer is not well (answered 12 of 40, 90 % wanted): it stands behind")
    assert explain([rule], ill, (A,), ACQUIRERS, lambda _: Health(False, 0, 0))[0].why[-1] == "its acquirer is not well (its line is down or its breaker open): it stands behind"


def test_rules_are_judged_as_they_stood() -> None:
    at = datetime(2026, 11, 24, tzinfo=UTC)
    hour = timedelta(hours=1)
    (rule,) = rules({"acquirer_id": A, "activated_at": at, "retired_at": at + hour, "state": "retired"})
    (never,) = rules({"acquirer_id": A, "retired_at": at, "state": "retired"})

    def states(route: Route) -> list[str]:
        return [in_force([route], instant)[0].state for instant in (at - hour, at, at + hour - timedelta(microseconds=1), at + hour)]

    assert states(rule) == ["draft", "active", "active", "retired"] and states(never) == ["draft", "retired", "retired", "retired"]
