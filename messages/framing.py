"""How one message is cut out of a TCP stream. Pure: bytes in, whole payloads out; the limit is the framing's own."""

from dataclasses import dataclass

KINDS = frozenset({"binary2"})
LENGTH_MAX = 65_535  # what the two length bytes of binary2 can say


@dataclass(frozen=True, slots=True)
class Framing:
    """`binary2`: two big-endian bytes that count the payload and not themselves (docs/wire.md). `max_length` in bytes."""

    kind: str
    max_length: int

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"framing kind must be one of {sorted(KINDS)}")
        if not 1 <= self.max_length <= LENGTH_MAX:
            raise ValueError(f"framing max_length must be 1 to {LENGTH_MAX}")


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

    __slots__ = ("_buffer", "_fault", "_max_length")

    def __init__(self, framing: Framing) -> None:
        self._max_length = framing.max_length
        self._buffer = bytearray()
        self._fault = ""

    @property
    def pending(self) -> int:
        """Bytes of an unfinished frame (its length bytes included): not 0 at end of file means that an answer was cut."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Whole payloads, in order. Raises FramingError for a length of zero or above the maximum, and on every call after that."""
        if self._fault:
            raise FramingError(self._fault)
        buffer = self._buffer
        buffer += data
        frames: list[bytes] = []
        start, end = 0, len(buffer)
        while end - start >= 2:
            length = buffer[start] << 8 | buffer[start + 1]
            if not length:
                self._fault = "frame length is zero"
            elif length > self._max_length:
                self._fault = f"frame length {length} is over max_length {self._max_length}"
            if self._fault:
                buffer.clear()
                raise FramingError(self._fault, tuple(frames))
            stop = start + 2 + length
            if stop > end:
                break
            frames.append(bytes(buffer[start + 2 : stop]))
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
    return length.to_bytes(2, "big") + payload
