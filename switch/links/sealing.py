"""The MACs of one line: put on what leaves, held against what comes, and when they make the line sign on anew. Pure: keys are somebody else's."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from messages.codec import encode
from messages.dialect import Dialect
from messages.mac import NONE, carried, covered, heard, place, placed

HELD_MAX = 256
KEY_NEWS_S = 1.5  # another line of this acquirer may have signed on a moment ago: so long its keys may take to get here


class LineKeys(Protocol):
    """An acquirer's keys, as its line needs them."""

    def required(self) -> bool:
        """Whether this acquirer has keys at all: then what has a place for a MAC has one."""

    def ready(self) -> bool:
        """Whether a MAC can be made now."""

    def mac(self, data: bytes) -> bytes: ...
    def right(self, data: bytes, mac: bytes) -> bool:
        """Under the key of now, or one that it has just replaced; `mac` has as many bytes as the dialect says of one."""

    def signed_in(self, content: str) -> str | None:
        """Takes the working keys of a sign-on's answer (hex, "" when there are none). Why not, or None."""


class Sealing:
    """Without keys, or in a dialect without MACs, messages pass as they are."""

    def __init__(self, dialect: Dialect, keys: LineKeys | None) -> None:
        self.dialect, self.keys = dialect, keys
        self._held: list[tuple[float, dict[str, str], bytes]] = []
        self._running: tuple[str, int] = ("", 0)  # a code that makes the line sign on, and how many came one after the other
        self._signed_on_at: datetime | None = None
        self._awaits = False  # the host answered a sign-on without keys: it sends them unasked

    def required(self) -> bool:
        return self.dialect.mac is not None and self.keys is not None and self.keys.required()

    def ready(self) -> bool:
        return self.keys is None or self.dialect.mac is None or self.keys.ready()

    def keyless(self) -> bool:
        """Whether a sign-on must bring keys that are not there: the master key may have come after the last one."""
        return self.dialect.key_exchange is not None and not self._awaits and not self.ready()

    def write(self, message: Mapping[str, str]) -> bytes:
        """Raises EncodeError."""
        rule = carried(self.dialect, message["0"]) if self.required() else None
        if rule is None or self.keys is None:
            return encode(self.dialect, message)
        payload = encode(self.dialect, {**message, place(rule, message): NONE})
        return placed(self.dialect, payload, self.keys.mac(covered(self.dialect, payload)))

    def wrong(self, message: Mapping[str, str], payload: bytes) -> bool:
        """Whether a message that must have a MAC has none, or not the right one."""
        rule = carried(self.dialect, message["0"]) if self.required() else None
        if rule is None or self.keys is None:
            return False
        mac = heard(rule, message)
        return mac is None or not self.keys.right(covered(self.dialect, payload), mac)

    def place(self, message: Mapping[str, str]) -> str:
        """The field of its MAC, in a dialect that has them."""
        assert self.dialect.mac is not None
        return place(self.dialect.mac, message)

    def hold(self, message: dict[str, str], payload: bytes, now: float) -> bool:
        """Keeps what could not be believed until news of keys may have come. False: there is no room."""
        if len(self._held) >= HELD_MAX:
            return False
        self._held.append((now + KEY_NEWS_S, message, payload))
        return True

    def settled(self, now: float) -> list[tuple[dict[str, str], bytes]]:
        """What was held and can be believed by now, or has been held long enough."""
        found = [each for each in self._held if each[0] <= now or not self.wrong(each[1], each[2])] if self._held else []
        for each in found:
            self._held.remove(each)
        return [(message, payload) for _, message, payload in found]

    def signed_on(self, message: Mapping[str, str], utc: datetime) -> str | None:
        """The answer to a sign-on, with the working keys that it brings. Why they are not taken, or None. Where a host may send keys unasked it
        may bring none: those before stay, and a line without any carries nothing until they come."""
        self._running, self._signed_on_at = ("", 0), utc
        exchange = self.dialect.key_exchange
        if exchange is None or self.keys is None or not self.keys.required():
            return None
        self._awaits = exchange.field not in message and "key_change" in self.dialect.network
        return None if self._awaits else self.keys.signed_in(message.get(exchange.field, ""))

    def faulty(self, sent_at: datetime | None) -> bool:
        """An answer with a wrong MAC: whether the line must sign on anew."""
        assert self.dialect.mac is not None
        return self.heard(self.dialect.mac.error, sent_at)

    def heard(self, code: str, sent_at: datetime | None) -> bool:
        """The DE39 of an answer to a request that left at `sent_at`: whether the line must sign on anew. What left before the last sign-on says
        nothing of its keys."""
        exchange = self.dialect.key_exchange
        if exchange is None or not self.required() or (sent_at is not None and self._signed_on_at is not None and sent_at < self._signed_on_at):
            return False
        limit = exchange.sign_on_after.get(code)
        known, count = self._running
        self._running = (code, count + 1 if known == code else 1) if limit is not None else ("", 0)
        return limit is not None and self._running[1] >= limit
