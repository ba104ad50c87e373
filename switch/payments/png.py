"""Whether bytes are a whole PNG of a signature: every chunk, its CRC, and as many pixels as it says (W3C PNG 3, sections 5 and 10). Pure."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

BYTES_MAX, WIDTH_MAX, HEIGHT_MAX, SIDE_MIN = 64 << 10, 1024, 512, 16
MAGIC = b"\x89PNG\r\n\x1a\n"
# Colour type -> samples of a pixel; no palettes, since one may point outside of itself.
SAMPLES: Mapping[int, int] = MappingProxyType({0: 1, 2: 3, 4: 2, 6: 4})
DEPTHS: Mapping[int, frozenset[int]] = MappingProxyType({0: frozenset({1, 2, 4, 8}), 2: frozenset({8}), 4: frozenset({8}), 6: frozenset({8})})
# Of the other chunks only what says how big and how bright: no texts, no places, no animation.
PLAIN = frozenset({b"pHYs", b"gAMA", b"sRGB", b"cHRM", b"sBIT", b"bKGD", b"tRNS"})


class Size(NamedTuple):
    width: int
    height: int


class NoPng(ValueError):
    """Why the bytes are no signature; the argument is for a person."""


def size_of(content: bytes) -> Size:
    """Raises NoPng."""
    if not content.startswith(MAGIC):
        raise NoPng("Its bytes are no PNG.")
    if len(content) > BYTES_MAX:
        raise NoPng(f"It is larger than {BYTES_MAX >> 10} kB.")
    chunks = list(_chunks(content))
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13 or chunks[-1] != (b"IEND", b""):
        raise NoPng("It does not begin or end as a PNG.")
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
    if depth not in DEPTHS.get(colour, ()) or rest != [0, 0, 0]:
        raise NoPng("It must be grey or in colours of 8 bits, without palette and not interlaced.")
    if not (SIDE_MIN <= width <= WIDTH_MAX and SIDE_MIN <= height <= HEIGHT_MAX):
        raise NoPng(f"It must have {SIDE_MIN} x {SIDE_MIN} to {WIDTH_MAX} x {HEIGHT_MAX} pixels.")
    names = [name for name, _ in chunks[1:-1]]
    data = [at for at, name in enumerate(names) if name == b"IDAT"]
    if not set(names) <= PLAIN | {b"IDAT"} or len(set(names) - {b"IDAT"}) != sum(name != b"IDAT" for name in names):
        raise NoPng("It has parts that no signature needs, or one of them twice.")
    if not data or data != list(range(data[0], data[-1] + 1)):
        raise NoPng("Its pixels are not in one piece.")
    line = 1 + (width * SAMPLES[colour] * depth + 7) // 8
    pixels = _inflated(b"".join(part for name, part in chunks if name == b"IDAT"), line * height)
    if any(pixels[at] > 4 for at in range(0, len(pixels), line)):
        raise NoPng("One of its lines has an unknown filter.")
    if not any(any(pixels[at + 1:at + line]) and pixels[at + 1:at + line] != pixels[1:line] for at in range(0, len(pixels), line)):
        raise NoPng("Nothing is drawn on it.")
    return Size(width, height)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(MAGIC)
    while at < len(content):
        if at + 12 > len(content):
            raise NoPng("It is cut off.")
        (length,), name = struct.unpack_from(">I", content, at), content[at + 4:at + 8]
        end = at + 8 + length
        if length > BYTES_MAX or end + 4 > len(content):
            raise NoPng("It is cut off.")
        if zlib.crc32(content[at + 4:end]) != struct.unpack_from(">I", content, end)[0]:
            raise NoPng("It was damaged on its way.")
        yield name, content[at + 8:end]
        at = end + 4


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
