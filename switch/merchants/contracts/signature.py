"""A hand's signature as an image: what its bytes are, judged to the last of them. Pure.

PNG by ISO/IEC 15948: the signature, chunks with their CRC, IHDR first, IEND last. No text, no EXIF, nothing after the end: what is sealed is
pixels and nothing else.
"""

import zlib
from collections.abc import Iterator
from typing import NamedTuple

BYTES_MAX = 100_000
WIDTH_MAX, HEIGHT_MAX = 2000, 1000
WIDTH_MIN, HEIGHT_MIN = 40, 20
MAGIC = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
DEPTHS = {0: (1, 2, 4, 8), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}  # at most 8 MB of pixels
ALLOWED = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"sRGB", b"pHYs", b"cHRM", b"sBIT", b"bKGD"})


class Head(NamedTuple):
    """IHDR: pixels, bits of a sample, colour type."""

    width: int
    height: int
    depth: int
    colour: int

    @property
    def line(self) -> int:
        """Bytes of a row, without its filter."""
        return (self.width * CHANNELS[self.colour] * self.depth + 7) // 8


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Raises ValueError: not whole."""
    at = len(MAGIC)
    while at < len(content):
        length = int.from_bytes(content[at:at + 4])
        kind, data, check = content[at + 4:at + 8], content[at + 8:at + 8 + length], content[at + 8 + length:at + 12 + length]
        if len(check) != 4 or zlib.crc32(kind + data) != int.from_bytes(check):
            raise ValueError("a part of it is cut off or damaged")
        yield kind, data
        at += 12 + length


def _head(data: bytes) -> Head:
    width, height, depth, colour = int.from_bytes(data[:4]), int.from_bytes(data[4:8]), data[8], data[9]
    if len(data) != 13 or depth not in DEPTHS.get(colour, ()) or data[10:12] != b"\0\0" or data[12] > 1:
        raise ValueError("its header is none")
    return Head(width, height, depth, colour)


def fault(content: bytes) -> str | None:
    """Why it is no signature, or None."""
    if len(content) > BYTES_MAX:
        return f"It is larger than {BYTES_MAX // 1000} kB."
    if not content.startswith(MAGIC + b"\0\0\0\rIHDR"):
        return "Its bytes are no PNG."
    try:
        chunks = list(_chunks(content))
        head = _head(chunks[0][1])
    except (ValueError, IndexError):
        return "It is no whole PNG: a part of it is cut off or damaged."
    kinds = [kind for kind, _ in chunks]
    if kinds.count(b"IHDR") != 1 or kinds.count(b"IEND") != 1 or kinds[-1] != b"IEND" or b"IDAT" not in kinds:
        return "It is no whole PNG: its parts are not in order."
    if not set(kinds) <= ALLOWED:
        return "It holds more than pixels (text, EXIF or animation); send the plain image."
    if not (WIDTH_MIN <= head.width <= WIDTH_MAX and HEIGHT_MIN <= head.height <= HEIGHT_MAX):
        return f"It must be {WIDTH_MIN} to {WIDTH_MAX} pixels wide and {HEIGHT_MIN} to {HEIGHT_MAX} high."
    if chunks[0][1][12] != 0:
        return "Send it without interlacing."
    return _pixels(head, b"".join(data for kind, data in chunks if kind == b"IDAT"))


def _pixels(head: Head, packed: bytes) -> str | None:
    whole, inflate = (head.line + 1) * head.height, zlib.decompressobj()
    try:
        rows = inflate.decompress(packed, whole + 1)
    except zlib.error:
        return "It is no whole PNG: its pixels are damaged."
    if len(rows) != whole or inflate.unconsumed_tail or inflate.unused_data:
        return "It is no whole PNG: it has other pixels than its header says."
    different = {rows[at:at + head.line + 1] for at in range(0, whole, head.line + 1)}
    return "Nothing is drawn on it." if len(different) <= 2 else None  # an empty sheet has one line over and over, and may have another first
