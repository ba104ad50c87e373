"""Parameters: what they may hold, which level wins, and that four numbers name what a terminal got."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.terminals.parameters import COUNT_MAX, KNOWN, faults, resolved, same, version_of, versions_of

GOOD: dict[str, Any] = {
    "heartbeat_interval_s": 60, "silent_after_s": 3600, "answer_timeout_s": 45, "idle_timeout_s": 30, "offline_allowed": True, "offline_amount_max": 0,
    "offline_count_max": 5, "entry_modes": ["chip", "contactless"], "currencies": ["CNY"], "amount_max": 1, "tips_allowed": False, "refunds_allowed": True,
    "preauthorizations_allowed": True, "signature_required": False, "supervisor_for_refunds": True, "batch_close_at": "23:59", "receipt_language": "zh",
    "receipt_width_mm": 80, "receipt_copies": 2, "receipt_header": "欢迎\nWelcome", "receipt_footer": "", "update_window": "02:00-05:00",
}


def test_every_known_parameter_takes_a_good_value() -> None:
    assert GOOD.keys() == KNOWN.keys()
    assert faults(GOOD) == []


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_every_known_parameter_can_be_taken_away_and_refuses_what_it_may_not_hold(name: str) -> None:
    assert faults({name: None}) == []
    for wrong in ({}, [], [1], "\x00", -1, 10**13, "x" * 401, [["chip"]], 1.5):
        assert [field for field, _ in faults({name: wrong})] == [f"values.{name}"], wrong


@pytest.mark.parametrize(("name", "wrong"), [
    ("offline_allowed", 1), ("offline_allowed", "true"), ("offline_amount_max", True), ("receipt_width_mm", True), ("receipt_width_mm", 57), ("receipt_width_mm", "58"),
    ("batch_close_at", "24:00"), ("batch_close_at", "23:59\n"), ("batch_close_at", "２3:59"), ("entry_modes", ["chip", "chip"]), ("entry_modes", []), ("currencies", ["cny"]),
    ("answer_timeout_s", 35), ("heartbeat_interval_s", 9), ("update_window", "02:00"), ("receipt_header", "a\tb"), ("receipt_language", "de"),
])
def test_a_wrong_value_is_a_fault_with_its_rule(name: str, wrong: Any) -> None:
    ((field, rule),) = faults({name: wrong})
    assert field == f"values.{name}" and rule == KNOWN[name][1]


def test_names_of_ones_own_begin_with_x_and_hold_plain_values() -> None:
    assert faults({"x_logo": "shop.png", "x_volume": 3, "x_dark": True, "x_nothing": None}) == []
    for wrong in ({}, [], "x" * 201, 10**15, 1.0, "a\nb"):
        assert len(faults({"x_logo": wrong})) == 1, wrong
    ((field, _),) = faults({"canary": 1})
    assert "canary" not in field
    assert faults({"x_": 1}) and faults({"X_a": 1}) and faults({f"x_{'a' * 61}": 1})
    assert faults({f"x_{number}": 1 for number in range(COUNT_MAX + 1)}) == [("values", f"at most {COUNT_MAX} parameters")]


def test_the_nearest_level_wins_and_null_takes_away() -> None:
    assert resolved([{"a": 1, "b": 1, "c": 1}, {"b": 2}, {"c": None}, {"d": 4, "a": 0}]) == {"a": 0, "b": 2, "d": 4}
    assert resolved([{"a": 1}, {"a": None}, {}, {"a": 3}]) == {"a": 3}
    assert list(resolved([{"b": 1}, {"a": 1}, {}, {}])) == ["a", "b"]


@given(st.lists(st.integers(0, 10**9 - 1), min_size=4, max_size=4))
def test_a_version_is_four_numbers_and_back(numbers: list[int]) -> None:
    assert versions_of(version_of(numbers)) == numbers


@pytest.mark.parametrize("text", ["", "1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.-4", "1.2.3.4\n", "1.2.3.x", "1.2.3.9999999999", "١.2.3.4", " 1.2.3.4"])
def test_anything_else_is_no_version(text: str) -> None:
    assert versions_of(text) is None


@pytest.mark.parametrize(("sent", "has"), [
    ('"1.0.0.0"', True), ('W/"1.0.0.0"', True), ('"0.0.0.0", "1.0.0.0"', True), ("*", True), ("", False), ('"1.0.0.1"', False), ("1.0.0.0", False),
])
def test_an_etag_is_compared_weakly(sent: str, has: bool) -> None:
    assert same(sent, '"1.0.0.0"') is has
