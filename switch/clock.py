"""UTC as the database tells it, carried on by the monotonic clock: what is stored and later compared with the database's now().

A wall clock that jumps, or is a minute off, then moves no deadline that another worker reads.
"""

import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Behind the database by at most the shortest round trip so far; goes back only when the database's own clock did.

    Before the first answer it is the machine's clock.
    """

    __slots__ = ("_start",)

    def __init__(self) -> None:
        self._start: float | None = None  # UTC, as seconds since 1970, when the monotonic clock stood at 0; good to a microsecond

    def told(self, utc: datetime, asked_at: float) -> None:
        """The database said `utc`, asked at the monotonic instant `asked_at`: by now it is that, or up to the round trip later."""
        now = time.monotonic()
        if self._start is None or not utc <= self.now() <= utc + timedelta(seconds=now - asked_at):
            self._start = utc.timestamp() - now

    def now(self) -> datetime:
        if self._start is None:
            return datetime.now(UTC)
        return datetime.fromtimestamp(self._start + time.monotonic(), UTC)


clock = Clock()
