"""One message of ours and what became of it, as an acquirer's lines remember it together. Pure."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

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


class NetworkRequest(NamedTuple):
    """Our own 0800 that waits for its 0810."""

    message: dict[str, str]
    sent: float
    deadline: float


class Exchanges:
    """Requests in flight and ended, of all lines to one acquirer: a key is in flight once, and an answer may come over any of them."""

    def __init__(self) -> None:
        self.by_key: dict[str, Exchange] = {}
        self.by_stan: dict[str, Exchange] = {}
        self.by_rrn: dict[str, Exchange] = {}
        self.ended: deque[Exchange] = deque()

    def add(self, exchange: Exchange) -> None:
        request = exchange.request
        self.by_key[exchange.key] = self.by_stan[request.get("11", "")] = self.by_rrn[request.get("37", "")] = exchange

    def end(self, exchange: Exchange, end: str) -> None:
        """What never left is forgotten at once; of the rest the last are remembered, without card data."""
        exchange.sender.in_flight -= 1
        request = exchange.request
        exchange.request = {number: request[number] for number in EVIDENCE_FIELDS if number in request}
        exchange.end, exchange.token, exchange.payload = end, None, b""
        if exchange.sent_at is None:
            self._forget(exchange)
            return
        self.ended.append(exchange)
        if len(self.ended) > ENDED_MAX:
            self._forget(self.ended.popleft())

    def sent_by(self, sender: Sender) -> list[Exchange]:
        """Those that are still in flight."""
        return [exchange for exchange in self.by_key.values() if exchange.end is None and exchange.sender is sender]

    def nearest(self, message: Mapping[str, str], numbers: tuple[str, ...]) -> Exchange | None:
        """The request with this RRN or this STAN, whichever agrees with the message in more of its match key."""
        found = (self.by_rrn.get(message.get("37", "")), self.by_stan.get(message.get("11", "")))
        return min((exchange for exchange in found if exchange is not None), default=None,
                   key=lambda exchange: sum(exchange.request.get(number) != message.get(number) for number in numbers))

    def _forget(self, exchange: Exchange) -> None:
        request = exchange.request
        tables = (self.by_key, exchange.key), (self.by_stan, request.get("11", "")), (self.by_rrn, request.get("37", ""))
        for table, key in tables:
            if table.get(key) is exchange:
                del table[key]
