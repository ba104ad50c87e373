"""Messages of ours and what became of them, as an acquirer's lines remember them together. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heapify, heappop, heappush
from typing import NamedTuple, Protocol

from messages.dialect import Dialect, differing_field
from switch.links import Counters

ENDED_MAX = 4096  # ended requests that are remembered, to call a late answer late
EVIDENCE_FIELDS = ("0", "3", "4", "7", "11", "37", "41", "42", "49", "60")  # what is kept of an ended request: no card data


class Sender(Protocol):
    """The line over which a request was sent."""

    in_flight: int
    counters: Counters


@dataclass(slots=True, eq=False)
class Exchange:
    """One request: waiting while `end` is None, queued while `sent_at` is None too."""

    key: str
    request: Mapping[str, str] = field(repr=False)
    token: object
    sender: Sender = field(repr=False)
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
    """Requests in flight and ended, of all lines to one acquirer: a key is in flight once, and an answer may come over any of them."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self.by_key: dict[str, Exchange] = {}
        self._by_stan: dict[str, Exchange] = {}
        self._beside = "37" if "37" in dialect.match["*"] else "41"  # what an answer is known by if its STAN is wrong: many hosts give the RRN
        self._by_number: dict[str, Exchange] = {}
        self._ended: deque[Exchange] = deque()

    def add(self, exchange: Exchange) -> None:
        request = exchange.request
        self.by_key[exchange.key] = self._by_stan[request.get("11", "")] = self._by_number[request.get(self._beside, "")] = exchange

    def end(self, exchange: Exchange, end: str) -> None:
        """What never left is forgotten at once; of the rest the last are remembered, without card data."""
        exchange.sender.in_flight -= 1
        request = exchange.request
        exchange.request = {number: request[number] for number in EVIDENCE_FIELDS if number in request}
        exchange.end, exchange.token, exchange.payload = end, None, b""
        if exchange.sent_at is None:
            self._forget(exchange)
            return
        self._ended.append(exchange)
        if len(self._ended) > ENDED_MAX:
            self._forget(self._ended.popleft())

    def sent_by(self, sender: Sender) -> list[Exchange]:
        """Those that are still in flight."""
        return [exchange for exchange in self.by_key.values() if exchange.end is None and exchange.sender is sender]

    def _forget(self, exchange: Exchange) -> None:
        request = exchange.request
        tables = (self.by_key, exchange.key), (self._by_stan, request.get("11", "")), (self._by_number, request.get(self._beside, ""))
        for table, key in tables:
            if table.get(key) is exchange:
                del table[key]

    def nearest_difference(self, message: Mapping[str, str]) -> str | None:
        """The first field that differs from the request with this STAN or this RRN, or the last one of this terminal where the host gives the
        RRN, whichever is nearer; None if there is neither."""
        found = (self._by_number.get(message.get(self._beside, "")), self._by_stan.get(message.get("11", "")))
        candidates = [exchange for exchange in found if exchange is not None]
        if not candidates:
            return None
        numbers, value = self.dialect.match["*"], self.dialect.value
        near = min(candidates, key=lambda exchange: sum(value(exchange.request, number) != value(message, number) for number in numbers))
        return differing_field(self.dialect, near.request, message)


class Deadlines:
    """When to look at which exchange of one line. Entries of ended ones are dropped when met, or when there are more than `most`."""

    def __init__(self, most: int) -> None:
        self.most, self.serial = most, 0
        self.heap: list[tuple[float, int, Exchange]] = []

    def watch(self, exchange: Exchange, instant: float) -> None:
        self.serial += 1
        heappush(self.heap, (instant, self.serial, exchange))
        if len(self.heap) > self.most:
            self.heap = [entry for entry in self.heap if entry[2].end is None]
            heapify(self.heap)

    def due(self, now: float) -> Exchange | None:
        """The next one whose instant has come; it is watched no more."""
        while self.heap and self.heap[0][0] <= now:
            exchange = heappop(self.heap)[2]
            if exchange.end is None:
                return exchange
        return None

    def clear(self) -> None:
        self.heap.clear()
