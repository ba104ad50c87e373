"""Whether bytes are a whole PNG of a hand's signature: as many pixels as it says, and something drawn (W3C PNG 3, sections 5 and 10). Pure."""

import zlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from switch.files.png import NoPng, parts

# Colour type -> samples of a pixel; no palettes, since one may point outside of itself.
SAMPLES: Mapping[int, int] = MappingProxyType({0: 1, 2: 3, 4: 2, 6: 4})
DEPTHS: Mapping[int, frozenset[int]] = MappingProxyType({0: frozenset({1, 2, 4, 8}), 2: frozenset({8}), 4: frozenset({8}), 6: frozenset({8})})
# Of the other chunks only what says how big and how bright: no texts, no places, no animation.
PLAIN = frozenset({b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"sBIT", b"bKGD", b"tRNS"})


class Sheet(NamedTuple):
    """How large a signature may be: bytes of the file, pixels of the sides."""

    bytes_max: int
    width_min: int
    height_min: int
    width_max: int
    height_max: int

    def __str__(self) -> str:
        return f"at most {self.bytes_max >> 10} kB, {self.width_min} x {self.height_min} to {self.width_max} x {self.height_max} pixels"


class Size(NamedTuple):
    width: int
    height: int


def size_of(content: bytes, sheet: Sheet) -> Size:
    """Raises NoPng."""
    if len(content) > sheet.bytes_max:
        raise NoPng(f"It is larger than {sheet.bytes_max >> 10} kB.")
    head, chunks = parts(content)
    if head.depth not in DEPTHS.get(head.colour, ()) or head[4:] != (0, 0, 0):
        raise NoPng("It must be grey or in colours of 8 bits, without palette and not interlaced.")
    if not (sheet.width_min <= head.width <= sheet.width_max and sheet.height_min <= head.height <= sheet.height_max):
        raise NoPng(f"It must have {sheet.width_min} x {sheet.height_min} to {sheet.width_max} x {sheet.height_max} pixels.")
    names = [name for name, _ in chunks]
    data = [at for at, name in enumerate(names) if name == b"IDAT"]
    if not set(names) <= PLAIN | {b"IDAT"} or len(set(names) - {b"IDAT"}) != sum(name != b"IDAT" for name in names):
        raise NoPng("It has parts that no signature needs, or one of them twice.")
    if not data or data != list(range(data[0], data[-1] + 1)):
        raise NoPng("Its pixels are not in one piece.")
    line = 1 + (head.width * SAMPLES[head.colour] * head.depth + 7) // 8
    pixels = _inflated(b"".join(part for name, part in chunks if name == b"IDAT"), line * head.height)
    if any(pixels[at] > 4 for at in range(0, len(pixels), line)):
        raise NoPng("One of its lines has an unknown filter.")
    if not any(any(pixels[at + 1:at + line]) and pixels[at + 1:at + line] != pixels[1:line] for at in range(0, len(pixels), line)):
        raise NoPng("Nothing is drawn on it.")
    return Size(head.width, head.height)


def _inflated(data: bytes, wanted: int) -> bytes:
    """Never more than `wanted` bytes, whatever they claim."""
    stream = zlib.decompressobj()
    try:
        pixels = stream.decompress(data, wanted + 1)
    except zlib.error:
        raise NoPng("Its pixels cannot be read.") from None
    if len(pixels) != wanted or not stream.eof or stream.unused_data:
        raise NoPng("It has more or fewer pixels than it says.")
    return pixels
