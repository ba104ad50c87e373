"""A device's life: the table, what is refused by name, and that the database holds the same steps."""

import pytest

from migrations.versions import r0017_devices
from switch.errors import PROBLEMS
from switch.terminals.lifecycle import AFTER_TAMPER, ASSIGNED, BOUND, BY_PEOPLE, LIFE, refusal, sells

# "." is refused.
FOLLOWS = """
from         order   cancel    ship    install   activate  begin_test end_test  go_live maintain    restore tamper      swap_in   swap_out return   restock   repair    retire
inventory    ordered .         .       .         .         .          .         .       .           .       .           installed .        .        .         .         retired
ordered      .       inventory shipped .         .         .          .         .       .           .       .           installed .        .        .         .         .
shipped      .       .         .       installed .         .          .         .       .           .       .           installed .        returned .         .         retired
installed    .       .         .       .         activated .          .         .       .           .       maintenance .         returned returned .         .         retired
activated    .       .         .       .         activated activated  activated live    .           .       maintenance .         returned returned .         .         retired
live         .       .         .       .         .         .          .         .       maintenance .       maintenance .         returned returned .         .         retired
maintenance  .       .         .       .         activated .          .         .       maintenance live    maintenance .         returned returned .         .         retired
returned     .       .         .       .         .         .          .         .       .           .       .           .         .        .        inventory inventory retired
retired      .       .         .       .         .         .          .         .       .           .       .           .         .        .        .         .         .
"""
HEAD, *LINES = [line.split() for line in FOLLOWS.strip().splitlines()]
TABLE = {(line[0], event): state for line in LINES for event, state in zip(HEAD[1:], line[1:], strict=True)}


@pytest.mark.parametrize(("state", "event"), TABLE)
def test_only_the_steps_of_the_life_are_taken(state: str, event: str) -> None:
    refused = refusal(state, event, False)
    if TABLE[state, event] == ".":
        assert refused is not None and refused.code == "device_move" and state in refused.detail and event in refused.detail
        with pytest.raises(LookupError):
            LIFE[state, event]
    else:
        assert refused is None and LIFE[state, event] == TABLE[state, event]


def test_the_table_of_this_test_is_whole() -> None:
    assert {line[0] for line in LINES} == set(LIFE.states) and set(HEAD[1:]) == LIFE.events


def test_a_refusal_says_what_can_follow_and_is_a_known_problem() -> None:
    refused = refusal("ordered", "go_live", False)
    assert refused is not None and "cancel, ship" in refused.detail
    last = refusal("retired", "order", False)
    assert last is not None and "nothing follows" in last.detail
    assert {"device_move", "device_tampered"} <= PROBLEMS.keys()


@pytest.mark.parametrize(("state", "event"), LIFE)
def test_what_was_opened_goes_back_or_ends_and_nothing_else(state: str, event: str) -> None:
    refused = refusal(state, event, True)
    assert (refused is None) is (event in AFTER_TAMPER)
    if refused is not None:
        assert refused.code == "device_tampered"


def test_a_till_sells_while_its_device_is_live_or_may_while_it_is_maintained() -> None:
    selling = {(state, allowed) for state in LIFE.states for allowed in (False, True) if sells(state, allowed, False)}
    assert selling == {("live", False), ("live", True), ("maintenance", True)}
    assert not [state for state in LIFE.states for allowed in (False, True) if sells(state, allowed, True)]


def test_the_database_allows_exactly_these_steps() -> None:
    assert set(r0017_devices.STEPS) == {f"{was}>{state}" for (was, _), state in LIFE.items()}
    assert len(set(r0017_devices.STEPS)) == len(r0017_devices.STEPS)
    assert {each.strip(" '") for each in r0017_devices.STATES.split(",")} == set(LIFE.states)
    assert {each.strip(" '") for each in r0017_devices.BOUND.split(",")} == BOUND


def test_what_is_bound_is_assigned_and_people_have_no_word_in_what_has_a_door_of_its_own() -> None:
    assert BOUND < ASSIGNED
    assert {"activate", "swap_in", "swap_out", "begin_test", "end_test"} == LIFE.events - BY_PEOPLE
