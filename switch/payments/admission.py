"""Admission: how much may be on its way to an acquirer, and who may add to it. Decided before anything is written; pure.

Each acquirer has a gate. Its limit follows what the acquirer shows: it grows while answers come as fast as they lately could, and shrinks to what
the acquirer worked through when they take longer (a queue stands there) or do not come. Only what entered after the last change is judged.
Instants are seconds of the loop's clock; no locks, since one loop owns all gates; `enter` and `leave` cost about a microsecond each.
"""

from collections.abc import Callable, Iterable
from uuid import UUID

from switch.records import Acquirer

REVERSAL, VOID, CAPTURE, AUTHORIZATION, QUERY = range(5)  # priorities, the first goes before all others
ROOM = (0.0, 1.0, 0.95, 0.9, 0.8)  # share of the limit that each may fill; reversals are paced by their own queue and never refused
NEWCOMERS = 0.1  # of a priority's room, which only merchants that hold less than their share may fill
LOW, HIGH, START = 16, 2048, 256  # limits: the least, the most, the first one

WINDOW_S = 0.1  # the shortest time between two judgements; never shorter than an answer takes
SAMPLES_MIN, SAMPLES_MAX = 8, 128  # answers per judgement
RECENT_S = 30.0  # how long the best of the recent medians is remembered, at least
SLOW, SLOW_S = 1.75, 0.15  # a queue stands at the acquirer: this many times its best, and at least so much longer
QUICK, QUICK_S = 1.4, 0.03  # no queue
RAISE, ADD = 1.25, 0.04  # growth while there is no queue, and else
AHEAD_S = 0.5  # what an acquirer lately answered in so long may be on its way at least: a hiccup of ours is no reason to refuse
DROP = 0.9  # of what the acquirer worked through: a little less, so that its true best shows
FALL_MAX, TIMED_OUT = 0.1, 0.5  # the deepest fall at once; the fall after a timeout
SILENT, SILENT_S = 4.0, 1.0  # no answer at all for so many times its best, and at least so long, is as good as a timeout

LAG_KEPT = 0.85  # of the greatest lag, per measurement (20 a second)
LAG_MAX_S, LATE_TIMES = 0.5, 3  # of this worker's loop, in a row: what comes then is refused at the door; once is a hiccup
QUEUE_MAX = 1024  # intents that wait for their commit
RETRY_AFTER_S = 3  # a refused terminal comes back after 1 to so many seconds, drawn


class Permit:
    """One place at a gate, to be left exactly once: by an answer, a timeout, or anything else."""

    __slots__ = ("entered_at", "gate", "merchant_id")

    def __init__(self, gate: "Gate", merchant_id: UUID, entered_at: float) -> None:
        self.gate: Gate | None = gate
        self.merchant_id, self.entered_at = merchant_id, entered_at

    def leave(self, now: float, answer_seconds: float | None = None, timed_out: bool = False) -> None:
        """`answer_seconds`: from the write to the answer; None when there was none. Again changes nothing."""
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.leave(self, now, answer_seconds, timed_out)


class Gate:
    """One acquirer's limit and what is within it."""

    def __init__(self, low: int, high: int, now: float) -> None:
        self.in_flight, self.peak, self.refused, self.timeouts = 0, 0, 0, 0
        self.shed = 0  # refused in all
        self.held: dict[UUID, int] = {}
        self.samples: list[float] = []
        self.lag = 0.0  # seconds by which this worker's loop is late, which its answers seem to take longer
        self.ours = 0.0  # seconds that those held their places while nothing was at the acquirer, summed
        self.best: float | None = None  # the least recent median, seconds
        self.bests = [float("inf"), float("inf")]  # of this stretch of RECENT_S and of the one before
        self.stretch_ends = now + RECENT_S
        self.changed_at = self.judged_at = self.answered_at = now
        self.judge_at = now + WINDOW_S
        self.low, self.high = min(low, high), high
        self.limit = 0.0
        self._limit_to(START)

    def adjust(self, low: int, high: int) -> None:
        """The acquirer's record changed. A limit that still fits stays."""
        self.low, self.high = min(low, high), high
        self._limit_to(self.limit)

    def _limit_to(self, limit: float, was: float = 0.0) -> None:
        """`was`: the limit before a fall. Until the next judgement it still stands for merchants below their share: they did not cause it."""
        self.limit = limit = max(float(self.low), min(limit, float(self.high)))
        self.rooms = tuple(max(1, int(max(limit, min(was, float(self.high))) * share)) for share in ROOM)
        own = tuple(max(1, int(limit * share)) for share in ROOM)
        self.left_to_big = tuple(room - max(1, int(room * NEWCOMERS)) if room > 2 else room for room in own)

    def room_for(self, merchant_id: UUID, priority: int) -> str:
        """"" or why there is none: `full` for everybody, `share` for a merchant that holds its share of it already."""
        room, held = self.rooms[priority], self.held
        if self.in_flight < self.left_to_big[priority]:
            return ""
        if self.in_flight >= room:
            return "full"
        mine = held.get(merchant_id, 0)
        return "share" if mine * (len(held) + 1) >= room else ""

    def enter(self, merchant_id: UUID, priority: int, now: float) -> "Permit | None":
        if now >= self.judge_at:
            self.judge(now)
        if priority != REVERSAL and self.room_for(merchant_id, priority):
            self.refused += 1
            self.shed += 1
            return None
        self.in_flight += 1
        if self.in_flight > self.peak:
            self.peak = self.in_flight
        self.held[merchant_id] = self.held.get(merchant_id, 0) + 1
        return Permit(self, merchant_id, now)

    def leave(self, permit: Permit, now: float, answer_seconds: float | None, timed_out: bool) -> None:
        self.in_flight -= 1
        left = self.held[permit.merchant_id] - 1
        if left:
            self.held[permit.merchant_id] = left
        else:
            del self.held[permit.merchant_id]
        if answer_seconds is not None:
            self.answered_at = now
            if permit.entered_at >= self.changed_at and len(self.samples) < SAMPLES_MAX:
                self.samples.append(answer_seconds)
                self.ours += now - permit.entered_at - answer_seconds
        elif timed_out and permit.entered_at >= self.changed_at:
            self.timeouts += 1
        if now >= self.judge_at:
            self.judge(now)

    def judge(self, now: float) -> None:
        """Moves the limit by what came since the last judgement."""
        if self.timeouts or self._silent(now):
            self._fall(TIMED_OUT, now)
        elif len(self.samples) < SAMPLES_MIN:
            self.judge_at = now + WINDOW_S
            return
        else:
            self.samples.sort()
            median = self.samples[len(self.samples) // 2]
            best = self._remember(median, now)
            if median > max(best * SLOW, best + SLOW_S) + 2 * self.lag:  # a request and its answer both wait for the loop
                ours = max(0.0, self.ours / len(self.samples))  # a place is held for our commit too, and that is no queue of the acquirer's
                ours += 2 * self.lag
                self._fall(max(FALL_MAX, DROP * (ours + best) / (ours + median)), now)
            else:
                felt = self.refused or self.peak * 2 > self.limit  # or nearly
                growth = self.limit * RAISE if median <= max(best * QUICK, best + QUICK_S) else self.limit + max(1.0, self.limit * ADD)
                shown = len(self.samples) / max(WINDOW_S, now - self.judged_at) * AHEAD_S
                self._limit_to(max(growth if felt else self.limit, shown))
            self.judge_at = now + max(WINDOW_S, median)
        self.samples.clear()
        self.ours, self.judged_at = 0.0, now
        self.peak, self.refused, self.timeouts = self.in_flight, 0, 0

    def _silent(self, now: float) -> bool:
        """Nothing at all has been answered for long, though something waits."""
        if self.best is None or not self.in_flight:
            self.answered_at = now if not self.in_flight else self.answered_at
            return False
        return now - max(self.answered_at, self.changed_at) > max(SILENT_S, SILENT * self.best)

    def _fall(self, factor: float, now: float) -> None:
        felt = max(self.peak / (ROOM[AUTHORIZATION] - NEWCOMERS), self.limit * FALL_MAX)  # a limit that was not felt says nothing
        self._limit_to(min(self.limit, felt) * factor, self.limit)
        self.changed_at, self.judge_at = now, now + WINDOW_S

    def _remember(self, median: float, now: float) -> float:
        if now >= self.stretch_ends:
            self.bests = [float("inf"), self.bests[0]]
            self.stretch_ends = now + RECENT_S
        self.bests[0] = min(self.bests[0], median)
        self.best = min(self.bests)
        return self.best


class Admission:
    """The gates of this worker, and its own door."""

    def __init__(self, draw: Callable[[], float]) -> None:
        """`draw`: a number from 0 up to 1, for the jitter of Retry-After."""
        self.draw = draw
        self.gates: dict[UUID, Gate] = {}
        self.lag, self.late_times = 0.0, 0

    def adjust(self, acquirer_id: UUID, low: int, high: int, now: float) -> Gate:
        """The gate of an acquirer, with these limits from now on."""
        gate = self.gates.get(acquirer_id)
        if gate is None:
            gate = self.gates[acquirer_id] = Gate(low, high, now)
        else:
            gate.adjust(low, high)
        return gate

    def late(self, seconds: float) -> None:
        """By how much this worker's loop is late, from whoever measures it. A peak is forgotten within a second."""
        self.late_times = self.late_times + 1 if seconds > LAG_MAX_S else 0
        self.lag = max(seconds, self.lag * LAG_KEPT)
        for gate in self.gates.values():
            gate.lag = self.lag

    def enter(self, acquirer_id: UUID, merchant_id: UUID, priority: int, now: float) -> Permit | None:
        """A place on the way to an acquirer, or None: then nothing may be written. REVERSAL is never refused, only counted."""
        gate = self.gates.get(acquirer_id)
        return (gate or self.adjust(acquirer_id, LOW, HIGH, now)).enter(merchant_id, priority, now)

    def shut(self, acquirers: Iterable[Acquirer], merchant_id: UUID, queued: int, now: float) -> str:
        """Why a sale may be refused at the door already, by a look and without reading it; "" when it may come in.

        `acquirers`: all it could go to; `queued`: intents that wait for their commit.
        """
        if self.late_times >= LATE_TIMES:
            return "lag"
        if queued > QUEUE_MAX:
            return "journal"
        reason = ""
        for acquirer in acquirers:
            gate = self.gates.get(acquirer.acquirer_id)
            if gate is None:
                return ""
            if now >= gate.judge_at:
                gate.judge(now)
            reason = gate.room_for(merchant_id, AUTHORIZATION)
            if not reason:
                return ""
            gate.refused += 1
            gate.shed += 1
        return reason

    def retry_after(self) -> int:
        """Whole seconds, drawn anew for each, so that those refused together do not come back together."""
        return 1 + int(self.draw() * RETRY_AFTER_S)
