"""How long a line waits before it connects or signs on again. Pure."""

from collections.abc import Callable


def backoff_delay(attempt: int, minimum: float, maximum: float, fraction: float) -> float:
    """Full jitter: `fraction` (0 to 1, drawn by the caller) of `minimum` doubled per attempt, at most `maximum` seconds."""
    return fraction * min(maximum, minimum * 2.0 ** min(attempt, 30))


class Backoff:
    """One line's. `draw` gives the jitter, a number from 0 to 1."""

    def __init__(self, minimum: float, maximum: float, draw: Callable[[], float]) -> None:
        self.minimum, self.maximum, self.draw = minimum, maximum, draw
        self.attempt = 0
        self.up_since: float | None = None

    def up(self, now: float) -> None:
        self.up_since = now

    def delay(self, now: float) -> float:
        """Seconds from now. Only a line that stayed up for `maximum` starts small again."""
        if self.up_since is not None and now - self.up_since >= self.maximum:
            self.attempt = 0
        self.up_since = None
        self.attempt += 1
        return backoff_delay(self.attempt - 1, self.minimum, self.maximum, self.draw())
