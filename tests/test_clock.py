"""The clock that deadlines are written with: the database's, whatever the machine's own clock does."""

import time
from datetime import UTC, datetime, timedelta

import pytest

from switch import clock as clocks
from switch.clock import Clock

TOLD = datetime(2026, 11, 25, 23, 59, 58, tzinfo=UTC)


def test_before_the_database_has_spoken_it_is_the_machines_clock() -> None:
    assert abs(Clock().now() - datetime.now(UTC)) < timedelta(seconds=1)


def test_it_goes_on_from_what_the_database_said_when_the_machines_clock_jumps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, jumped = Clock(), type("Jumped", (datetime,), {"now": classmethod(lambda cls, tz=None: TOLD + timedelta(days=1))})
    clock.told(TOLD, time.monotonic())
    monkeypatch.setattr(clocks, "datetime", jumped)
    assert timedelta(0) <= clock.now() - TOLD < timedelta(seconds=1)


def test_an_answer_that_was_long_on_its_way_does_not_set_it_back() -> None:
    clock = Clock()
    clock.told(TOLD, time.monotonic())
    clock.told(TOLD - timedelta(seconds=1), time.monotonic() - 1.5)
    assert clock.now() >= TOLD


def test_it_follows_a_database_whose_own_clock_was_put_right() -> None:
    for off in (timedelta(hours=-1), timedelta(hours=1)):
        clock = Clock()
        clock.told(TOLD, time.monotonic())
        clock.told(TOLD + off, time.monotonic())
        assert abs(clock.now() - TOLD - off) < timedelta(seconds=1)


def test_the_first_answer_counts_however_long_it_took() -> None:
    clock = Clock()
    clock.told(TOLD, time.monotonic() - 5)
    assert abs(clock.now() - TOLD) < timedelta(seconds=1)
