"""What two workers of one machine say to each other about a line that one of them holds: values to bytes and back, without I/O and clock.

A frame is four bytes of length and a JSON object. Instants are CLOCK_MONOTONIC seconds, which all processes of a machine share: a frame
that lies in a socket while a process stands still grows old, as a remaining time would not. Card data is in it: it is never logged.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from switch.links import Bounced, Reply, Silence

FRAME_MAX = 65_536  # bytes
CLOCKS_APART_S = 60.0  # between two processes of one machine: a frame may have waited


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame: which line is meant, and what the asker's clock says."""

    acquirer_id: str
    now: float


@dataclass(frozen=True, slots=True)
class Status:
    """The holder's line, at the start and whenever it changes."""

    usable: bool
    state: str
    sells: bool


@dataclass(frozen=True, slots=True)
class Ask:
    """A request for the holder's line; `number` is the asker's own."""

    number: int
    message: Mapping[str, str] = field(repr=False)
    send_not_after: float
    deadline: float


@dataclass(frozen=True, slots=True)
class Told:
    """What came of it."""

    number: int
    result: Reply | Bounced | Silence


Frame = Hello | Status | Ask | Told


class HandoverError(ValueError):
    """The peer does not speak this protocol; the message holds nothing of what it said."""


def same_clock(said: float, now: float) -> bool:
    """Whether the peer's instants mean what ours mean."""
    return 0.0 <= now - said <= CLOCKS_APART_S


def encode(frame: Frame) -> bytes:
    """Raises HandoverError: longer than FRAME_MAX."""
    match frame:
        case Hello(acquirer_id, now):
            body: dict[str, Any] = {"hello": acquirer_id, "now": now}
        case Status(usable, state, sells):
            body = {"usable": usable, "state": state, "sells": sells}
        case Ask(number, message, send_not_after, deadline):
            body = {"ask": number, "message": dict(message), "send_not_after": send_not_after, "deadline": deadline}
        case Told(number, Reply(answer, sent_at, answered_at)):
            body = {"told": number, "reply": answer, "sent_at": sent_at.isoformat(), "answered_at": answered_at.isoformat()}
        case Told(number, Silence(reason, sent_at)):
            body = {"told": number, "silence": reason, "sent_at": sent_at.isoformat()}
        case Told(number, Bounced(reason)):
            body = {"told": number, "bounced": reason}
    content = json.dumps(body, separators=(",", ":")).encode()
    if len(content) > FRAME_MAX:
        raise HandoverError("a frame is too long")
    return len(content).to_bytes(4, "big") + content


def _decode(content: bytes) -> Frame:
    try:
        body = json.loads(content)
        match body:
            case {"hello": str(acquirer_id), "now": float(now)}:
                return Hello(str(UUID(acquirer_id)), now)
            case {"usable": bool(usable), "state": str(state)}:
                return Status(usable, state, bool(body.get("sells", usable)))  # a holder of the release before says nothing of it
            case {"ask": int(number), "message": dict(message), "send_not_after": float(send_not_after), "deadline": float(deadline)}:
                return Ask(number, _texts(message), send_not_after, deadline)
            case {"told": int(number), "reply": dict(answer), "sent_at": str(sent_at), "answered_at": str(answered_at)}:
                return Told(number, Reply(_texts(answer), _instant(sent_at), _instant(answered_at)))
            case {"told": int(number), "silence": str(reason), "sent_at": str(sent_at)}:
                return Told(number, Silence(reason, _instant(sent_at)))
            case {"told": int(number), "bounced": str(reason)}:
                return Told(number, Bounced(reason))
    except (ValueError, RecursionError):  # JSON, UTF-8 and times
        pass
    raise HandoverError("a frame cannot be read")


def _texts(message: dict[str, Any]) -> dict[str, str]:
    if not all(isinstance(value, str) for value in message.values()):
        raise ValueError
    return message


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    if instant.tzinfo is None:
        raise ValueError
    return instant


class Reader:
    """Bytes in, frames out. After a HandoverError it is of no further use."""

    def __init__(self) -> None:
        self.rest = b""

    def feed(self, data: bytes) -> list[Frame]:
        """Raises HandoverError."""
        frames, content = [], self.rest + data
        while len(content) >= 4:
            length = int.from_bytes(content[:4], "big")
            if length > FRAME_MAX:
                raise HandoverError("a frame is too long")
            if len(content) < 4 + length:
                break
            frames.append(_decode(content[4:4 + length]))
            content = content[4 + length:]
        self.rest = content
        return frames
