"""The stranger's encoder: pieces of wire with the value that they must give. Nothing of `messages` is imported here or in the tables."""

from collections.abc import Callable, Mapping
from typing import NamedTuple


class Piece(NamedTuple):
    """One field: its bytes, its length included, and what it says."""

    wire: bytes
    value: str


Pieces = Mapping[int, Piece]


class Said(NamedTuple):
    """A message that is right. `parts` are sub-fields by path."""

    name: str
    wire: bytes
    fields: Mapping[str, str]
    parts: Mapping[str, str] = {}


class Broken(NamedTuple):
    """A message that is none: where the refusal must point to, in bytes from its beginning, and a word of its reason."""

    name: str
    wire: bytes
    field: str
    position: int
    says: str


def binary_bitmap(bits: int, more: bool) -> bytes:
    return bits.to_bytes(16, "big")[:16 if more else 8]


def text_bitmap(bits: int, more: bool) -> bytes:
    return f"{bits:032X}"[:32 if more else 16].encode()


class Host(NamedTuple):
    """How a host puts a message together. `header` makes what stands before the MTI, given the bytes behind it."""

    mti: Callable[[str], bytes]
    bitmap: Callable[[int, bool], bytes]
    header: Callable[[bytes], bytes] = lambda body: b""

    def message(self, mti: str, pieces: Pieces, bits: int = 0, tail: bytes = b"") -> bytes:
        """`bits`: of a bitmap that says something else than the pieces (bit 1 is the highest of 128)."""
        more = max(pieces) > 64
        told = bits or sum(1 << 128 - number for number in pieces) | more << 127
        body = self.mti(mti) + self.bitmap(told, more) + b"".join(pieces[number].wire for number in sorted(pieces)) + tail
        return self.header(body) + body

    def at(self, number: int, pieces: Pieces) -> int:
        """Where a field starts."""
        before = {each: piece for each, piece in pieces.items() if each < number}
        more = 64 if max(pieces) > 64 else 0
        start = len(self.mti("0000")) + len(self.bitmap(0, bool(more)))
        return len(self.header(b"")) + start + sum(len(piece.wire) for piece in before.values())

    def said(self, name: str, mti: str, pieces: Pieces, parts: Mapping[str, str] | None = None) -> Said:
        fields = {"0": mti, **{str(number): pieces[number].value for number in sorted(pieces)}}
        return Said(name, self.message(mti, pieces), fields, parts or {})

    def broken(self, name: str, mti: str, pieces: Pieces, number: int, says: str) -> Broken:
        """The piece of that number is wrong."""
        return Broken(name, self.message(mti, pieces), str(number), self.at(number, pieces), says)


def bcd(digits: str, pad: str = "left 0") -> bytes:
    """Two digits a byte; an odd number gets a pad."""
    side, fill = pad.split()
    if len(digits) % 2:
        digits = fill + digits if side == "left" else digits + fill
    return bytes.fromhex(digits)


def bits_of(*numbers: int) -> int:
    return sum(1 << 128 - number for number in numbers)
