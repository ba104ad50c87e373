"""A line's breaker: what opens it, how long it stays open, what closes it. Pure: instants come in.

It counts what the host did not answer, and what it answered with a code that says an outage; never a decline. While it is open no new request is sent
over its line; what is owed (reversals, advices) still is. It is probed with echoes, never with money.
"""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import NamedTuple

SLICES = 10  # of the window: what is older than nine to ten of them is forgotten
PAUSE_TIMES_MAX = 8  # of the pause, when it opens again and again
QUIET_TIMES = 4  # pauses without a trip, after which the next one is a first one again

# (state, event) -> state. What is not here changes nothing.
LIFE: Mapping[tuple[str, str], str] = MappingProxyType({
    ("closed", "tripped"): "open",
    ("open", "pause_over"): "half_open",
    ("half_open", "probe_failed"): "open",
    ("half_open", "probed"): "closed",
})


class Terms(NamedTuple):
    """When a breaker opens: at least `faults` within the window that are at least `percent` of all that ended in it. How it closes: after
    the pause, by so many echoes in a row."""

    faults: int
    percent: int
    window_s: float
    pause_s: float
    probes: int
    codes: frozenset[str]  # DE39 that count as faults


class Breaker:
    """One line's. `state`: closed open half_open. `now` is monotonic seconds, `utc` goes into `since`."""

    def __init__(self, terms: Terms, now: float, utc: datetime) -> None:
        self.terms, self.state, self.since = terms, "closed", utc
        self.trips = 0  # since the start
        self.counts = [[0, 0] for _ in range(SLICES)]  # ended, and faults among them
        self.at = 0  # the slice of the last end
        self.pause_until = self.closed_at = now
        self.pauses = self.passed = 0

    def said(self, code: str, sent_at: datetime, now: float, utc: datetime) -> None:
        """The host answered with this DE39 what was sent at that time."""
        self._ended(code in self.terms.codes, sent_at, now, utc)

    def timed_out(self, sent_at: datetime, now: float, utc: datetime) -> None:
        self._ended(True, sent_at, now, utc)

    def probe_due(self, now: float, utc: datetime) -> bool:
        """To be asked all the time: whether an echo is wanted now, if none is on its way."""
        if self.state == "open" and now >= self.pause_until:
            self._move("pause_over", utc)
        return self.state == "half_open"

    def probed(self, answered: bool, now: float, utc: datetime) -> None:
        """An echo ended, or the line was lost while one was wanted."""
        if self.state != "half_open":
            return
        self.passed = self.passed + 1 if answered else 0
        if not answered:
            self._pause(now)
            self._move("probe_failed", utc)
        elif self.passed >= self.terms.probes:
            self.closed_at = now
            self.counts = [[0, 0] for _ in range(SLICES)]
            self._move("probed", utc)

    def _ended(self, fault: bool, sent_at: datetime, now: float, utc: datetime) -> None:
        if self.state != "closed" or sent_at < self.since:  # what was sent before it closed says nothing about the host of now
            return
        at = int(now * SLICES / self.terms.window_s)
        for passed in range(self.at + 1, at + 1) if at - self.at < SLICES else range(SLICES):
            self.counts[passed % SLICES] = [0, 0]
        self.at = at
        slice_ = self.counts[at % SLICES]
        slice_[0] += 1
        if not fault:
            return
        slice_[1] += 1
        ended, faults = (sum(each) for each in zip(*self.counts, strict=True))
        if faults >= self.terms.faults and faults * 100 >= ended * self.terms.percent:
            if now - self.closed_at >= QUIET_TIMES * self.terms.pause_s:
                self.pauses = 0
            self.trips += 1
            self._pause(now)
            self._move("tripped", utc)

    def _pause(self, now: float) -> None:
        self.pause_until = now + self.terms.pause_s * min(PAUSE_TIMES_MAX, 2 ** self.pauses)
        self.pauses = min(self.pauses + 1, PAUSE_TIMES_MAX)
        self.passed = 0

    def _move(self, event: str, utc: datetime) -> None:
        self.state, self.since = LIFE[self.state, event], utc
