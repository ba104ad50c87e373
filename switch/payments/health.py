"""How an acquirer answers, as one worker sees it. Pure: instants are seconds of the loop's clock.

The window is the last minute, and longer back until it holds HEALTH_SAMPLES requests: an acquirer that gets few sales because it is not well is
judged by those few. What is older than FORGET_S is forgotten, so that one that gets none is tried again.
"""

from collections import deque

from switch.payments.routing import HEALTH_SAMPLES

WINDOW_S, SPAN_S, FORGET_S = 60.0, 5.0, 600.0


class Answers:
    """Of one acquirer: what was asked and what was answered, by spans of SPAN_S."""

    def __init__(self) -> None:
        self.spans: deque[list[float]] = deque()  # begin, asked, answered; the newest last
        self.asked = self.answered = 0

    def note(self, now: float, answered: bool) -> None:
        """One request that left: answered, or not at all or by a host that could do nothing."""
        if not self.spans or now - self.spans[-1][0] >= SPAN_S:
            self.spans.append([now, 0, 0])
            self._forget(now)
        span = self.spans[-1]
        span[1] += 1
        self.asked += 1
        if answered:
            span[2] += 1
            self.answered += 1

    def counts(self, now: float) -> tuple[int, int]:
        """Asked, answered."""
        self._forget(now)
        return self.asked, self.answered

    def _forget(self, now: float) -> None:
        spans = self.spans
        while spans:
            begin, asked, answered = spans[0]
            age = now - begin
            if age <= WINDOW_S + SPAN_S or (age <= FORGET_S and self.asked - asked < HEALTH_SAMPLES):
                return
            spans.popleft()
            self.asked -= int(asked)
            self.answered -= int(answered)
