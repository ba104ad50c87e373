"""Tickets as rules: the table of their life, who may take which step, deadlines, and causes from facts."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from migrations.versions import r0028_support
from switch.errors import PROBLEMS
from switch.merchants.support.causes import KINDS, Declines, Facts, Health, Line, causes
from switch.merchants.support.life import LIFE, OF_MERCHANT, OF_SUPPORT, Term, deadlines, overdue, refusal

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
# "." is refused.
FOLLOWS = """
from                 assign   take_over ask                  answer   repair    give_back swap     resolve  withdraw close  reopen
open                 assigned .         .                    .        .         .         .        .        closed   .      .
assigned             assigned assigned  waiting_for_merchant .        in_repair .         assigned resolved .        .      .
waiting_for_merchant .        .         .                    assigned .         .         .        resolved closed   .      .
in_repair            .        .         .                    .        .         assigned  assigned .        .        .      .
resolved             .        .         .                    .        .         .         .        .        .        closed open
closed               .        .         .                    .        .         .         .        .        .        .      open
"""
HEAD, *LINES = [line.split() for line in FOLLOWS.strip().splitlines()]
TABLE = {(line[0], event): state for line in LINES for event, state in zip(HEAD[1:], line[1:], strict=True)}


@pytest.mark.parametrize(("state", "event"), TABLE)
@pytest.mark.parametrize("support", [True, False])
def test_only_the_steps_of_the_life_are_taken_and_only_by_whom_they_are_for(state: str, event: str, support: bool) -> None:
    refused = refusal(state, event, support)
    if TABLE[state, event] == "." or event not in (OF_SUPPORT if support else OF_MERCHANT):
        assert refused is not None and refused.code == "ticket_move" and event in refused.detail
    else:
        assert refused is None and LIFE[state, event] == TABLE[state, event]


def test_the_table_of_this_test_is_whole_and_the_database_holds_the_same_steps() -> None:
    assert {line[0] for line in LINES} == set(LIFE.states) and set(HEAD[1:]) == LIFE.events == OF_MERCHANT | OF_SUPPORT
    assert {f"{was}>{state}" for (was, _), state in LIFE.items()} == set(r0028_support.STEPS)
    assert {"ticket_move", "ticket_rated"} <= PROBLEMS.keys()


def test_deadlines_are_those_of_the_severity_and_either_makes_it_overdue() -> None:
    answer_by, resolve_by = deadlines(Term(30, 240), NOW)
    assert (answer_by - NOW, resolve_by - NOW) == (timedelta(minutes=30), timedelta(hours=4))
    assert not overdue(answer_by, resolve_by, NOW + timedelta(minutes=29)) and overdue(answer_by, resolve_by, answer_by)
    assert not overdue(None, resolve_by, answer_by) and overdue(None, resolve_by, resolve_by) and not overdue(None, None, resolve_by)


WELL = Health("dev_1", "live", None, NOW, None, 80, False, "ok")
LINE = Line("acq_1", True, "up", "closed", None, NOW)
SOUND = Facts(NOW, "active", "active", 1, WELL, (LINE,))


def test_nothing_is_suggested_where_all_is_well() -> None:
    assert causes(SOUND) == [] and causes(Facts(NOW, "active")) == []


@pytest.mark.parametrize(("kind", "changed", "evidence"), [
    ("merchant_not_active", {"merchant_status": "suspended"}, {"status": "suspended"}),
    ("terminal_not_active", {"terminal_status": "suspended"}, {"status": "suspended", "device": "dev_1", "device_state": "live"}),
    ("terminal_tampered", {"health": WELL._replace(tampered_at=NOW)}, {"device": "dev_1", "since": NOW}),
    ("terminal_without_key", {"keys": 0}, {"good_keys": 0}),
    ("line_down", {"lines": (LINE._replace(signed_on=False, state="down"),)}, {"acquirer": "acq_1", "state": "down", "as_of": NOW}),
    ("breaker_open", {"lines": (LINE, LINE._replace(breaker="open"))}, {"acquirer": "acq_1", "breaker": "open", "as_of": NOW}),
    ("certificate_ends", {"lines": (LINE._replace(certificate_ends_at=NOW + timedelta(days=13)),)},
     {"acquirer": "acq_1", "ends_at": NOW + timedelta(days=13)}),
    ("key_trouble", {"alerts": (("mac_fault", "acq_1", NOW),)}, {"alert": "mac_fault", "object": "acq_1", "last_at": NOW}),
    ("terminal_silent", {"health": WELL._replace(silent_since=NOW)}, {"device": "dev_1", "last_heartbeat_at": NOW, "silent_since": NOW}),
    ("paper_out", {"health": WELL._replace(paper="out")}, {"device": "dev_1", "paper": "out", "said_at": NOW}),
    ("battery_low", {"health": WELL._replace(battery_percent=14)}, {"device": "dev_1", "battery_percent": 14, "said_at": NOW}),
    ("limit_reached", {"limits": (("day over", 2, NOW),)}, {"why": "day over", "count": 2, "last_at": NOW}),
    ("declined", {"declines": (Declines("51", "insufficient_funds", 3, "txn_1", NOW),)},
     {"response_code": "51", "reason": "insufficient_funds", "count": 3, "last": "txn_1", "last_at": NOW}),
])
def test_a_cause_is_told_by_what_was_recorded_with_its_evidence(kind: str, changed: dict[str, Any], evidence: dict[str, Any]) -> None:
    (found,) = causes(SOUND._replace(**changed))
    assert (found.kind, found.evidence, found.says) == (kind, evidence, KINDS[kind])


@pytest.mark.parametrize("changed", [
    {"lines": (LINE._replace(signed_on=False, state="down"), LINE)},  # another worker is signed on
    {"lines": (LINE._replace(certificate_ends_at=NOW + timedelta(days=15)),)},
    {"health": WELL._replace(battery_percent=5, charging=True)}, {"health": WELL._replace(battery_percent=15)},
    {"declines": (Declines("51", "insufficient_funds", 2, "txn_1", NOW),)}, {"keys": None},
])
def test_what_is_no_cause_is_not_suggested(changed: dict[str, Any]) -> None:
    assert causes(SOUND._replace(**changed)) == []
