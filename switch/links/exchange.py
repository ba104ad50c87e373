"""Messages of ours and what became of them, as a line remembers them. Pure."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from messages.dialect import Dialect, differing_field

ENDED_MAX = 4096  # ended requests that are remembered, to call a late answer late


@dataclass(slots=True, eq=False)
class Exchange:
    """One request: waiting while `end` is None, queued while `sent_at` is None too."""

    key: str
    request: Mapping[str, str] = field(repr=False)
    token: object
    send_not_after: float
    deadline: float
    payload: bytes = field(default=b"", repr=False)
    sent_at: datetime | None = None
    end: str | None = None
    sealed: bool = False  # it carries a MAC, so its answer must


class NetworkRequest(NamedTuple):
    """Our own 0800 that waits for its 0810."""

    message: dict[str, str]
    sent: float
    deadline: float


class Exchanges:
    """Requests in flight and ended, by match key, and by the numbers that tell which one an answer is nearest to."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.by_key: dict[str, Exchange] = {}
        self._by_stan: dict[str, Exchange] = {}
        self._by_rrn: dict[str, Exchange] = {}
        self._ended: deque[Exchange] = deque()

    def add(self, exchange: Exchange) -> None:
        request = exchange.request
        self.by_key[exchange.key] = self._by_stan[request.get("11", "")] = self._by_rrn[request.get("37", "")] = exchange

    def running(self) -> Iterator[Exchange]:
        return iter([exchange for exchange in self.by_key.values() if exchange.end is None])

    def ended(self, exchange: Exchange) -> None:
        """Remembered for a while if it left, else forgotten."""
        if exchange.sent_at is None:
            self._forget(exchange)
            return
        self._ended.append(exchange)
        if len(self._ended) > ENDED_MAX:
            self._forget(self._ended.popleft())

    def _forget(self, exchange: Exchange) -> None:
        request = exchange.request
        tables = (self.by_key, exchange.key), (self._by_stan, request.get("11", "")), (self._by_rrn, request.get("37", ""))
        for table, key in tables:
            if table.get(key) is exchange:
                del table[key]

    def nearest_difference(self, message: Mapping[str, str]) -> str | None:
        """The first field that differs from the request with this RRN or this STAN, whichever is nearer; None if there is neither."""
        found = (self._by_rrn.get(message.get("37", "")), self._by_stan.get(message.get("11", "")))
        candidates = [exchange for exchange in found if exchange is not None]
        if not candidates:
            return None
        numbers = self.dialect.match["*"]
        near = min(candidates, key=lambda exchange: sum(exchange.request.get(number) != message.get(number) for number in numbers))
        return differing_field(self.dialect, near.request, message)
