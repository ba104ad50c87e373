"""How one message is cut out of a TCP stream. Pure: bytes in, whole payloads out; the limit is the framing's own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Kind(NamedTuple):
    """How a frame starts: `size` bytes, of which `read` makes the length of the payload, or None when they are no length."""

    says: str
    size: int
    most: int
    read: Callable[[bytes], int | None]
    write: Callable[[int], bytes]
    keep_alive: bool = False  # a length of zero is one, and is passed over


def _digits(text: bytes) -> int | None:
    return int(text) if text.isdigit() else None


def _bcd(data: bytes) -> int | None:
    return _digits(data.hex().encode())


def _vml(data: bytes) -> int | None:
    # the high half of byte 4 is the kind of message: 2 is session control, which is no payment and carries none here
    return int.from_bytes(data[:2], "big") if data[2:] == b"\0\0" or data[3] >> 4 == 2 else None


def _hex(text: bytes) -> int | None:
    return int(text, 16) if text.isalnum() and not text.upper().strip(b"0123456789ABCDEF") else None


def _gicc(data: bytes) -> int | None:
    return int.from_bytes(data[2:], "big") if data[:2] == b"\0\0" else None


def _own(data: bytes) -> int | None:
    length = int.from_bytes(data, "big")
    return length - 2 if length >= 2 else None


KINDS: Mapping[str, Kind] = {
    "binary2": Kind("2 bytes big-endian that count the payload (header and message).", 2, 65_535,
                    lambda data: int.from_bytes(data, "big"), lambda length: length.to_bytes(2, "big")),
    "binary2_own": Kind("The same, and they count themselves.", 2, 65_533, _own, lambda length: (length + 2).to_bytes(2, "big")),
    "binary4": Kind("4 bytes big-endian that count the payload.", 4, 65_535,
                    lambda data: int.from_bytes(data, "big"), lambda length: length.to_bytes(4, "big")),
    "binary3": Kind("3 bytes big-endian that count the payload; 000000 keeps the line alive.", 3, 65_535,
                    lambda data: int.from_bytes(data, "big"), lambda length: length.to_bytes(3, "big"), True),
    "hex4": Kind("4 hexadecimal digits.", 4, 65_535, _hex, lambda length: b"%04X" % length),
    "gicc": Kind("0000, then 2 bytes big-endian; a length of zero keeps the line alive.", 4, 65_535, _gicc,
                 lambda length: b"\0\0" + length.to_bytes(2, "big"), True),
    "ascii4": Kind("4 decimal digits; 0000 keeps the line alive.", 4, 9_999, _digits, lambda length: b"%04d" % length, True),
    "bcd2": Kind("2 bytes of BCD.", 2, 9_999, _bcd, lambda length: bytes.fromhex(f"{length:04d}")),
    "vml": Kind("2 bytes big-endian, then 0000; a length of zero keeps the line alive.", 4, 65_535, _vml,
                lambda length: length.to_bytes(2, "big") + b"\0\0", True),
}
LENGTH_MAX = 65_535
ECHOED = "polls echoed"  # an empty frame is a poll, which goes back as it came
POLLS_MAX = 64  # that are echoed of one piece of bytes


@dataclass(frozen=True, slots=True)
class Framing:
    """`kind` is a key of KINDS; `max_length` in bytes of the payload (docs/wire.md, docs/dialects.md)."""

    kind: str
    max_length: int
    polls: str = ""  # ECHOED, or what the kind does

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"framing kind must be one of {sorted(KINDS)}")
        if not 1 <= self.max_length <= KINDS[self.kind].most:
            raise ValueError(f"framing max_length must be 1 to {KINDS[self.kind].most}")
        if self.polls not in ("", ECHOED):
            raise ValueError(f"framing polls must be {ECHOED!r} or left out")


class FramingError(ValueError):
    """The stream cannot be cut any further: the line must be closed, never searched for the next frame.

    `frames` holds the whole payloads that came before the fault in the same piece of bytes: they are good answers.
    """

    def __init__(self, reason: str, frames: tuple[bytes, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.frames = frames


class Deframer:
    """Collects bytes of one connection and gives back whole payloads. Holds at most one unfinished frame."""

    __slots__ = ("_buffer", "_fault", "_kind", "_max_length", "_polled", "_polls", "_usual")

    def __init__(self, framing: Framing) -> None:
        self._max_length = framing.max_length
        self._kind, self._usual = KINDS[framing.kind], framing.kind == "binary2"
        self._buffer = bytearray()
        self._fault = ""
        self._polled, self._polls = framing.polls == ECHOED, bytearray()

    def take_polls(self) -> bytes:
        """What is to be echoed of the bytes fed so far."""
        polls = bytes(self._polls)
        self._polls.clear()
        return polls

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame (its length bytes included): not 0 at end of file means that an answer was cut."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Whole payloads, in order. Raises FramingError for a length of zero (where it is no keep-alive and no poll), above the maximum, or that
        is none, and on every call after that.
        """
        if self._fault:
            raise FramingError(self._fault)
        buffer, (_, size, _, read, _, keep_alive) = self._buffer, self._kind
        buffer += data
        frames: list[bytes] = []
        start, end = 0, len(buffer)
        while end - start >= size:
            length = buffer[start] << 8 | buffer[start + 1] if self._usual else read(bytes(buffer[start:start + size]))
            if not length:
                # 0000 also where a length counts itself (jPOS, AmexChannel)
                if self._polled and (length == 0 or not any(buffer[start:start + size])):
                    if len(self._polls) < size * POLLS_MAX:
                        self._polls += buffer[start:start + size]
                    start += size
                    continue
                if length is None or not keep_alive:
                    self._fault = f"frame length is {'not of its form' if length is None else 'zero'}"
            elif length > self._max_length:
                self._fault = f"frame length {length} is over max_length {self._max_length}"
            if self._fault or length is None:
                buffer.clear()
                raise FramingError(self._fault, tuple(frames))
            stop = start + size + length
            if stop > end:
                break
            if length:
                frames.append(bytes(buffer[start + size : stop]))
            start = stop
        del buffer[:start]
        return frames


def frame(framing: Framing, payload: bytes) -> bytes:
    """The payload behind its length. Raises FramingError when it is empty or over max_length."""
    length = len(payload)
    if not length:
        raise FramingError("frame length is zero")
    if length > framing.max_length:
        raise FramingError(f"frame length {length} is over max_length {framing.max_length}")
    return KINDS[framing.kind].write(length) + payload
