"""A PNG's parts: every chunk with its CRC, the head first, the end last and nothing after it (W3C PNG 3, section 5). Nothing is unpacked. Pure."""

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

MAGIC = b"\x89PNG\r\n\x1a\n"


class NoPng(ValueError):
    """Why the bytes are no PNG that is taken; the argument is for a person."""


class Head(NamedTuple):
    """IHDR: pixels, bits of a sample, colour type, and the methods of compression, filter and interlace."""

    width: int
    height: int
    depth: int
    colour: int
    compression: int
    filter: int
    interlace: int


def parts(content: bytes) -> tuple[Head, list[tuple[bytes, bytes]]]:
    """The head, and the name and bytes of each chunk between it and the end. Raises NoPng."""
    if not content.startswith(MAGIC):
        raise NoPng("Its bytes are no PNG.")
    chunks = list(_chunks(content))
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13 or chunks[-1] != (b"IEND", b""):
        raise NoPng("It does not begin or end as a PNG.")
    return Head(*struct.unpack(">IIBBBBB", chunks[0][1])), chunks[1:-1]


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = len(MAGIC)
    while at < len(content):
        if at + 12 > len(content):
            raise NoPng("It is cut off.")
        (length,), name = struct.unpack_from(">I", content, at), content[at + 4:at + 8]
        end = at + 8 + length
        if end + 4 > len(content):
            raise NoPng("It is cut off.")
        if zlib.crc32(content[at + 4:end]) != struct.unpack_from(">I", content, end)[0]:
            raise NoPng("It was damaged on its way.")
        yield name, content[at + 8:end]
        at = end + 4
