"""Admission in virtual time: places and whose they are as tables, and a simulated acquirer for what the limit learns."""

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import UUID

import pytest

from switch.payments import admission
from switch.payments.admission import AUTHORIZATION, CAPTURE, QUERY, REVERSAL, VOID, Admission, Gate, Permit

ACQUIRER, BIG, SMALL, THIRD = (UUID(int=number) for number in (1, 2, 3, 4))


def gate_of(limit: int, high: int = 2048) -> Gate:
    """A gate that stands at a limit."""
    gate = Gate(min(limit, high), high, 0.0)
    gate._limit_to(limit)
    return gate


def fill(gate: Gate, merchant: UUID, count: int, priority: int = REVERSAL) -> list[Permit]:
    permits = [gate.enter(merchant, priority, 0.0) for _ in range(count)]
    assert all(permits)
    return [permit for permit in permits if permit is not None]


# Places


@pytest.mark.parametrize(("priority", "most"), [(QUERY, 80), (AUTHORIZATION, 90), (CAPTURE, 95), (VOID, 100)])
def test_each_priority_leaves_room_for_those_above_it(priority: int, most: int) -> None:
    gate = gate_of(100)
    fill(gate, BIG, most - 1)
    assert gate.enter(SMALL, priority, 0.0)
    assert gate.enter(THIRD, priority, 0.0) is None
    higher = [each for each in (VOID, CAPTURE, AUTHORIZATION, QUERY) if each < priority]
    assert all(gate.enter(THIRD, each, 0.0) for each in higher)


def test_a_reversal_is_never_refused_and_counts() -> None:
    gate = gate_of(1, high=1)
    fill(gate, BIG, 50)
    assert gate.in_flight == 50
    assert gate.enter(SMALL, VOID, 0.0) is None


@pytest.mark.parametrize(("limit", "alone"), [(1, 1), (2, 1), (3, 2), (10, 8), (100, 81), (1000, 810)])
def test_a_merchant_alone_may_use_nearly_all_and_leaves_room_for_another(limit: int, alone: int) -> None:
    gate = gate_of(limit)
    while gate.enter(BIG, AUTHORIZATION, 0.0):
        pass
    assert gate.in_flight == alone
    if limit >= 10:
        assert gate.enter(SMALL, AUTHORIZATION, 0.0)


def test_a_merchant_that_holds_its_share_waits_while_one_that_does_not_gets_in() -> None:
    gate = gate_of(100)
    fill(gate, BIG, 60)
    fill(gate, SMALL, 21)
    assert gate.room_for(BIG, AUTHORIZATION) == "share"
    assert gate.room_for(SMALL, AUTHORIZATION) == ""
    fill(gate, THIRD, 9)
    assert gate.room_for(SMALL, AUTHORIZATION) == "full"


def test_places_come_back_and_a_merchant_that_left_is_forgotten() -> None:
    gate = gate_of(10)
    permits = fill(gate, BIG, 8)
    for permit in permits:
        permit.leave(0.1)
        permit.leave(0.1)  # a second time changes nothing
    assert (gate.in_flight, gate.held) == (0, {})


def test_limits_follow_the_record_of_the_acquirer() -> None:
    doors = Admission(lambda: 0.0)
    assert doors.adjust(ACQUIRER, 16, 2048, 0.0).limit == admission.START
    assert doors.adjust(ACQUIRER, 16, 40, 1.0).limit == 40
    assert doors.adjust(ACQUIRER, 64, 40, 1.0).limit == 40, "the most goes before the least"
    assert doors.adjust(ACQUIRER, 300, 2048, 1.0).limit == 300


def test_what_an_acquirer_answers_in_half_a_second_may_be_on_its_way_at_once() -> None:
    gate = Admission(lambda: 0.0).adjust(ACQUIRER, 16, 2048, 0.0)
    on_way: list[tuple[float, Any]] = []
    for turn in range(3000):  # three seconds of 1,000 a second that are answered after 24 ms: the limit is never felt
        now = turn / 1000
        on_way.append((now, gate.enter(BIG, AUTHORIZATION, now)))
        if on_way[0][0] <= now - 0.024:
            on_way.pop(0)[1].leave(now, 0.024)
    assert 400 <= gate.limit <= 600
    burst = [gate.enter(BIG, AUTHORIZATION, 3.0 + turn / 1000) for turn in range(300)]  # our disk stood still for 300 ms
    assert None not in burst
    quick = Admission(lambda: 0.0).adjust(ACQUIRER, 16, 2048, 0.0)
    for turn in range(300):  # 100 a second
        for permit in fill(quick, BIG, 10, AUTHORIZATION):
            permit.leave(turn / 10 + 0.024, 0.024)
    assert quick.limit == admission.START, "half a second of these is less than it may anyway"


# The door


def test_the_door_is_shut_when_every_acquirer_is_full_the_loop_is_late_or_the_journal_is_behind() -> None:
    doors, other = Admission(lambda: 0.0), UUID(int=9)
    both: Any = [SimpleNamespace(acquirer_id=ACQUIRER), SimpleNamespace(acquirer_id=other)]
    assert doors.shut(both, BIG, 0, 0.0) == "", "nothing is known of them yet"
    full, free = doors.adjust(ACQUIRER, 1, 1, 0.0), doors.adjust(other, 1, 1, 0.0)
    fill(full, BIG, 1)
    assert doors.shut(both, BIG, 0, 0.0) == ""
    fill(free, BIG, 1)
    assert doors.shut(both, BIG, 0, 0.0) == "full"
    assert (full.refused, free.refused) == (2, 1), "what the door refuses was wanted: the limit was felt"
    assert doors.shut([], BIG, 0, 0.0) == "", "no route is another refusal"
    assert doors.shut([], BIG, admission.QUEUE_MAX + 1, 0.0) == "journal"
    for _ in range(admission.LATE_TIMES):
        assert doors.shut([], BIG, 0, 0.0) == "", "once is a hiccup"
        doors.late(admission.LAG_MAX_S + 0.01)
    assert doors.shut([], BIG, 0, 0.0) == "lag"
    doors.late(0.0)
    assert doors.shut([], BIG, 0, 0.0) == ""


def test_what_our_own_loop_adds_is_no_queue_of_the_acquirer() -> None:
    doors = Admission(lambda: 0.0)
    gate = doors.adjust(ACQUIRER, 16, 2048, 0.0)
    for turn in range(40):
        doors.late(0.2 if turn >= 20 else 0.0)
        for permit in fill(gate, BIG, 20, AUTHORIZATION):
            permit.leave(turn * 1.0 + 0.7, 0.2 if turn < 20 else 0.6)
    assert gate.limit >= admission.START
    for turn in range(40, 60):  # the same times without the lag are a queue
        gate.lag = 0.0
        for permit in [permit for _ in range(20) if (permit := gate.enter(BIG, AUTHORIZATION, turn * 1.0))]:
            permit.leave(turn * 1.0 + 0.7, 0.6)
    assert gate.limit < 60


def test_those_refused_together_do_not_come_back_together() -> None:
    drawn = random.Random(1)
    seconds = Counter(Admission(drawn.random).retry_after() for _ in range(3000))
    assert sorted(seconds) == [1, 2, 3]
    assert min(seconds.values()) > 800


# What the limit learns


class Run(NamedTuple):
    gate: Gate
    entered: Counter[UUID]
    refused: Counter[UUID]
    answers: list[tuple[float, float, float]]  # when, how long it took, the limit

    def per_second(self, since: float, until: float) -> float:
        return sum(since < at <= until for at, _, _ in self.answers) / (until - since)

    def longest(self, since: float, until: float) -> float:
        return max(took for at, took, _ in self.answers if since < at <= until)

    def success(self, merchant: UUID) -> float:
        return self.entered[merchant] / (self.entered[merchant] + self.refused[merchant])


def drive(capacity: Callable[[float], float], delay: float, loads: list[tuple[UUID, float, float, float]], *, low: int = 16,
          timeout: float = 30.0, noise: float = 0.0, silent: tuple[float, float] = (0.0, 0.0)) -> Run:
    """Merchants offer (who, per second, from, until); the acquirer works one by one through its queue and adds `delay`, but for what comes
    while it is silent."""
    drawn, number = random.Random(7), itertools.count()
    gate, entered, refused, answers = Gate(low, 2048, 0.0), Counter[UUID](), Counter[UUID](), []
    todo: list[tuple[float, int, UUID, Permit | None]] = []
    for merchant, rate, since, until in loads:
        todo += [(since + each / rate, next(number), merchant, None) for each in range(int((until - since) * rate))]
    heapq.heapify(todo)
    free_at = 0.0
    while todo:
        now, _, merchant, permit = heapq.heappop(todo)
        if permit is not None:
            took = now - permit.entered_at
            answered = took < timeout
            permit.leave(now, took if answered else None, not answered)
            if answered:
                answers.append((now, took, gate.limit))
            continue
        permit = gate.enter(merchant, AUTHORIZATION, now)
        if permit is None:
            refused[merchant] += 1
            continue
        entered[merchant] += 1
        ends = now + timeout
        if not silent[0] < now < silent[1]:
            free_at = max(free_at, now) + 1 / capacity(now)
            ends = min(free_at + delay * (1 + noise * drawn.random()), ends)
        heapq.heappush(todo, (ends, next(number), merchant, permit))
    assert (gate.in_flight, gate.held) == (0, {}), "a place was not given back"
    return Run(gate, entered, refused, answers)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_at_ten_times_the_capacity_the_acquirer_works_at_its_pace_and_the_other_merchant_does_not_notice(noise: float) -> None:
    run = drive(lambda _: 150, 0.2, [(BIG, 1500, 0, 60), (SMALL, 20, 0, 60)], noise=noise)
    assert run.per_second(5, 60) > 0.95 * 150
    assert run.success(SMALL) >= 0.99
    assert run.longest(10, 60) < 1.0, "no queue stands at the acquirer"


def test_an_acquirer_that_keeps_up_is_not_held_back() -> None:
    run = drive(lambda _: 5000, 0.001, [(BIG, 3000, 0, 5)])
    assert not run.refused


def test_the_limit_shrinks_when_the_acquirer_slows_down_and_comes_back_with_it() -> None:
    run = drive(lambda now: 50 if 10 < now < 30 else 1000, 0.05, [(BIG, 800, 0, 50)])
    assert run.per_second(2, 10) > 0.99 * 800
    assert run.per_second(15, 30) > 0.9 * 50
    assert run.longest(20, 30) < 1.0
    assert run.per_second(35, 50) > 0.95 * 800


def test_an_acquirer_that_goes_silent_holds_few_places_and_is_tried_again() -> None:
    run = drive(lambda _: 1000, 0.02, [(BIG, 500, 0, 60)], timeout=5.0, silent=(10, 20))
    held = sum(run.entered.values()) - len(run.answers)
    assert held < 1000, "of the 5,000 offered while it was silent"
    assert run.per_second(45, 60) > 0.9 * 500


def test_one_quick_answer_among_slow_ones_does_not_shrink_the_limit() -> None:
    """Declines that the host makes by itself come at once; what they took says nothing of the others."""
    gate = Gate(16, 2048, 0.0)
    for turn in range(400):
        now = turn * 0.25
        for permit, took in zip(fill(gate, BIG, 20, AUTHORIZATION), itertools.cycle((0.001, 0.2, 0.2, 0.2)), strict=False):
            permit.leave(now + took, took)
    assert gate.limit >= admission.START


def test_a_few_timeouts_in_a_row_halve_the_limit_each_time_down_to_the_least() -> None:
    gate, limits, now = Gate(16, 2048, 0.0), [], 0.0
    for _ in range(6):
        permits = [permit for _ in range(300) if (permit := gate.enter(BIG, AUTHORIZATION, now))]
        now += 3.0
        for permit in permits:
            permit.leave(now, None, True)
        gate.judge(now + 0.2)
        now += 0.3
        limits.append(int(gate.limit))
    assert limits == sorted(limits, reverse=True)
    assert limits[-1] == 16
