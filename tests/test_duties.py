"""The rules of duties as a table: what comes back from an acquirer, and what the duty becomes. No clock, no socket, no database."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from messages.grammar import QueryRule
from switch.payments import duties
from switch.payments.duties import Again, Close, Owed, Pace, Park
from switch.payments.transaction import Event

T0 = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)
CODES = {"00": "acknowledged", "94": "acknowledged", "25": "not_found", "12": "not_found", "91": "retry", "96": "retry", "21": "park", "30": "park"}
DAY = 86_400.0
AGE = 3 * DAY
SETTLED = 90  # seconds after T0


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def owed(**changes: object) -> Owed:
    plain = Owed("reversal", 1, 0, T0, None, at(SETTLED))
    return plain._replace(**changes)


# code or -, transmissions, first "not found" at, now -> what becomes of it; times in seconds after T0, the drawn fraction is a half.
TABLE = """
00   1  -   5        close ack
94   2  -   5        close ack
00   9  -   999999   close ack            # late, and still an answer
25   1  -   5        again 90 found 5     # the first is never believed
25   1  -   95       again 96.5 found 95  # nor is a first one that comes late
25   2  5   89.9     again 92.4 found 5   # the second came too early: the earlier one stays remembered
25   2  5   90       close not_found
12   2  5   95       close not_found
25   7  5   999999   close not_found      # whatever its age
91   1  -   5        again 6.5
96   2  -   5        again 7.5
06   3  -   5        again 9.5            # in no set: sent again
zz   4  -   5        again 13.5
     4  -   5        again 13.5           # an empty code is in no set
-    5  -   5        again 21.5
-    6  -   5        again 35.5           # 64 s are cut to a minute
-    99 -   5        again 35.5
21   1  -   5        park code
30   2  5   95       park code
-    3  -   259199   again 259203.5
-    3  -   259200   park max_age
91   3  -   259200   park max_age
25   3  -   259200   park max_age         # a first "not found" proves nothing
"""


def rows() -> list[tuple[str, int, float | None, float, list[str]]]:
    found = []
    for line in TABLE.strip("\n").splitlines():
        plain = line.partition("#")[0]
        code, rest = plain[:5].strip(), plain[5:].split()
        found.append((code, int(rest[0]), None if rest[1] == "-" else float(rest[1]), float(rest[2]), rest[3:]))
    return found


@pytest.mark.parametrize(("code", "transmissions", "first", "now", "becomes"), rows())
def test_what_becomes_of_a_reversal(code: str, transmissions: int, first: float | None, now: float, becomes: list[str]) -> None:
    duty = owed(transmissions=transmissions, not_found_at=None if first is None else at(first))
    decided = (duties.unanswered(duty, AGE, at(now), 0.5) if code == "-" else
               duties.reversal_answered(duty, code, CODES, AGE, at(now), 0.5))
    match becomes:
        case ["close", by]:
            assert decided == Close(by, Event.ACKNOWLEDGED if by == "ack" else Event.NOT_FOUND)
        case ["again", again, "found", found]:
            assert decided == Again(at(float(again)), at(float(found)))
        case ["again", again]:
            assert decided == Again(at(float(again)))
        case ["park", reason]:
            assert decided == Park(reason, Event.GIVE_UP)


@pytest.mark.parametrize(("event", "becomes"), [
    (Event.APPROVE, Close("ack", Event.APPROVE)), (Event.DECLINE, Close("declined", Event.DECLINE)), (Event.DOUBT, Again(at(9 * DAY + 1.5))),
    (Event.BAD_MAC, Again(at(9 * DAY + 1.5))),
])
def test_an_advice_is_answered_or_repeated_and_has_no_age(event: Event, becomes: duties.Decision) -> None:
    assert duties.advice_answered(owed(kind="advice"), event, at(9 * DAY), 0.5) == becomes


def test_an_advice_without_an_answer_is_never_parked() -> None:
    assert duties.unanswered(owed(kind="advice"), 1.0, at(9 * DAY), 0.5) == Again(at(9 * DAY + 1.5))
    assert duties.bounced(owed(kind="advice"), 1.0, at(9 * DAY), 0.5) == Again(at(9 * DAY + 1), sent=False)


@pytest.mark.parametrize(("now", "becomes"), [(5, Again(at(6), sent=False)), (AGE, Park("max_age"))])
def test_what_never_left_is_not_counted_and_tried_soon(now: float, becomes: duties.Decision) -> None:
    assert duties.bounced(owed(transmissions=9), AGE, at(now), 0.5) == becomes


@pytest.mark.parametrize(("faults", "becomes"), [
    (0, Again(at(6.5), sent=False, fault=True)), (1, Again(at(7.5), sent=False, fault=True)), (2, Park("unbuildable")), (3, Park("unbuildable")),
])
@pytest.mark.parametrize("kind", ["reversal", "advice"])
def test_a_message_that_cannot_be_built_three_times_is_a_persons(kind: str, faults: int, becomes: duties.Decision) -> None:
    assert duties.unbuilt(owed(kind=kind, faults=faults), at(5), 0.5) == becomes


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("times", [0, 1, 2, 6, 7, 40])
def test_the_pause_grows_to_a_minute_and_its_jitter_is_full(times: int, fraction: float) -> None:
    assert duties.pause(times, fraction).total_seconds() == pytest.approx(0.5 + fraction * min(60, 2**times))


def test_only_the_first_transmission_is_no_repeat() -> None:
    assert [duties.mti_of("0420", number) for number in (0, 1, 2, 3)] == ["0420", "0420", "0421", "0421"]
    assert duties.mti_of("0220", 2) == "0221"


@pytest.mark.parametrize(("now", "answered", "first"), [(1, False, 7), (3, False, 8), (1, True, 1)])
def test_the_first_attempt_cannot_overtake_its_original(now: float, answered: bool, first: float) -> None:
    assert duties.first_attempt_at(at(now), at(2), 5.0, answered) == at(first)


def test_not_found_is_believed_a_minute_after_the_original_could_be_answered() -> None:
    assert duties.settled_at(at(2), 30.0) == at(92)


@pytest.mark.parametrize(("state", "due", "leased", "may"), [
    ("open", 0, None, True), ("open", 0, -1, True), ("open", 0, 0, True), ("open", 0, 1, False), ("open", 1, None, False), ("done", 0, None, False),
    ("parked", 0, None, False),
])
def test_a_duty_is_taken_by_one_at_a_time(state: str, due: float, leased: float | None, may: bool) -> None:
    assert duties.takeable(state, at(due), None if leased is None else at(leased), T0) is may
    assert duties.lease(30.0) == timedelta(seconds=35)


def test_the_pace_lets_so_many_a_second_leave_and_saves_up_a_tenth() -> None:
    pace, left = Pace(0.0, 0.0), 0
    for step in range(1, 101):  # a second, in steps of 10 ms
        pace = pace.refilled(50, step / 100)
        left += int(pace.tokens)
        pace = pace.spent(int(pace.tokens))
    assert left == 50
    assert Pace(0.0, 0.0).refilled(50, 3600.0).tokens == 5.0
    assert Pace(0.0, 0.0).refilled(1, 3600.0).tokens == 1.0


RULE = QueryRule(first_s=2.0, longest_s=15.0, limit_s=90.0)
OPEN, NEVER = duties.asking(at(0), True, RULE), duties.asking(at(0), False, RULE)


@pytest.mark.parametrize(("event", "found", "not_found_at", "now", "becomes"), [
    (Event.APPROVE, True, None, 5, Close("ack", Event.APPROVE)), (Event.DECLINE, True, None, 5, Close("declined", Event.DECLINE)),
    (Event.PENDING, True, None, 5, Again(at(8))), (Event.DOUBT, True, None, 5, Again(at(8))),
    (Event.PENDING, True, at(3), 5, Again(at(8))),  # the host knows it after all: what it said before counts no more
    (Event.DOUBT, False, None, 5, Again(at(8), at(5))), (Event.DOUBT, False, at(3), 5, Again(at(8), at(3))),
    (Event.DOUBT, False, None, 200, Again(at(203), at(200))), (Event.DOUBT, False, at(3), 200, Close("not_found", Event.DECLINE)),
])
def test_only_the_hosts_word_ends_a_query(event: Event, found: bool, not_found_at: Any, now: float, becomes: duties.Decision) -> None:
    asked = owed(kind="query", transmissions=1, not_found_at=not_found_at, settled_at=at(92))
    assert duties.query_answered(asked, event, found, OPEN, at(now), 0.5) == becomes


@pytest.mark.parametrize("sent", [True, False])
def test_silence_keeps_what_was_heard_before_and_no_age_ends_it(sent: bool) -> None:
    asked = owed(kind="query", transmissions=30, not_found_at=at(3))
    assert duties.query_unheard(asked, sent, NEVER, at(10_000_000), 0.5) == Again(at(10_000_015), at(3), sent)


@pytest.mark.parametrize(("transmissions", "now", "next_at"), [(0, 0, 2), (1, 2, 5), (2, 5, 9.5), (5, 40, 55), (9, 80, 90), (9, 90, 105)])
def test_it_is_asked_half_as_long_again_each_time_and_once_when_the_payers_time_is_over(transmissions: int, now: float, next_at: float) -> None:
    assert duties.asked_again(owed(kind="query", transmissions=transmissions), OPEN, at(now), 0.5) == at(next_at)


def test_past_the_payers_time_a_sale_is_closed_and_a_refund_only_asked_for() -> None:
    assert [duties.asks_what(OPEN, at(now)) for now in (0, 89.9, 90, 10_000)] == ["query", "query", "close", "close"]
    assert [duties.asks_what(NEVER, at(now)) for now in (0, 10_000)] == ["query", "query"]
