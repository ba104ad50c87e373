"""Who gets which software: stages that only grow, stores, pauses, roll-backs, and never in the middle of a batch."""

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from switch.terminals.rollout import LIFE, Rollout, bucket, chosen, target, when

STORE, OTHER = UUID(int=1), UUID(int=2)
DEVICES = [UUID(int=number << 64 | 7) for number in range(2000)]


def rollout(version: str = "2", state: str = "running", percent: int = 100, stores: frozenset[UUID] | None = None, number: int = 1, back_to: str = "1") -> Rollout:
    return Rollout(UUID(int=number), version, back_to, state, percent, stores)


@given(st.uuids(), st.uuids(), st.integers(0, 100), st.integers(0, 100))
def test_who_was_chosen_stays_chosen_when_the_percentage_grows(rollout_id: UUID, device_id: UUID, one: int, other: int) -> None:
    smaller, larger = (Rollout(rollout_id, "2", "1", "running", percent, None) for percent in sorted((one, other)))
    assert not chosen(smaller, device_id, STORE) or chosen(larger, device_id, STORE)
    assert chosen(larger._replace(percent=100), device_id, STORE) and not chosen(smaller._replace(percent=0), device_id, STORE)


@pytest.mark.parametrize("percent", [5, 25, 50, 90])
def test_a_percentage_chooses_about_so_many_and_another_roll_out_chooses_others(percent: int) -> None:
    found = {each for each in DEVICES if chosen(rollout(percent=percent), each, STORE)}
    assert abs(len(found) / len(DEVICES) * 100 - percent) < 4
    assert found != {each for each in DEVICES if chosen(rollout(percent=percent, number=2), each, STORE)}


def test_a_bucket_is_the_same_for_ever() -> None:
    """A changed hash would choose others in the middle of a roll-out."""
    assert (bucket(UUID(int=1), UUID(int=2)), bucket(UUID(int=2), UUID(int=1))) == (72, 44)


def test_stores_bound_a_roll_out() -> None:
    some = rollout(stores=frozenset({STORE}))
    assert target([some], DEVICES[0], STORE, "1") == "2" and target([some], DEVICES[0], OTHER, "1") is None


def test_paused_means_nobody_new_and_nobody_back() -> None:
    paused = rollout(state="paused")
    assert target([paused], DEVICES[0], STORE, "1") is None
    assert target([paused], DEVICES[0], STORE, "2") == "2"
    assert target([paused, rollout("1.5", number=2)], DEVICES[0], STORE, "1") == "1.5", "what went before it goes on"


def test_rolled_back_means_that_who_has_it_goes_back_and_others_hear_nothing() -> None:
    back = rollout(state="rolled_back")
    assert target([back], DEVICES[0], STORE, "2") == "1"
    assert target([back], DEVICES[0], STORE, "1") is None and target([back], DEVICES[0], STORE, None) is None


def test_what_was_rolled_back_comes_with_no_older_roll_out() -> None:
    back, older = rollout(state="rolled_back", number=2), rollout()
    assert target([back, older], DEVICES[0], STORE, "2") == "1" and target([back, older], DEVICES[0], STORE, "1") is None, "it would go to and fro"
    assert target([rollout(number=3), back, older], DEVICES[0], STORE, "1") == "2", "a new decision is one"


def test_the_newest_that_has_chosen_a_device_counts() -> None:
    newest, older = rollout("3", percent=0, number=2), rollout("2")
    assert target([newest, older], DEVICES[0], STORE, "1") == "2"
    assert target([newest._replace(percent=100), older], DEVICES[0], STORE, "1") == "3"
    assert target([], DEVICES[0], STORE, "1") is None


@pytest.mark.parametrize(("wanted", "installed", "open_", "told"), [
    (None, "1", False, "none"), ("1", "1", False, "none"), ("2", "1", False, "now"), ("2", "1", True, "after_batch"), ("2", None, True, "after_batch"),
    ("1", "2", True, "after_batch"),
])
def test_nothing_is_installed_in_the_middle_of_a_batch(wanted: str | None, installed: str | None, open_: bool, told: str) -> None:
    assert when(wanted, installed, open_) == told


def test_a_roll_back_is_the_end() -> None:
    assert not [event for state, event in LIFE if state == "rolled_back"]
