"""Signatures for tests: PNG made by hand, so that each fault is one byte away."""

import struct
import zlib


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def head(width: int, height: int, depth: int = 8, colour: int = 0, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


MAGIC, END = b"\x89PNG\r\n\x1a\n", chunk(b"IEND", b"")


def signature(width: int = 200, height: int = 80, *, seed: int = 1, blank: bool = False) -> bytes:
    """Grey, 8 bits: a line across a white sheet, another for each seed."""
    rows = []
    for y in range(height):
        row = bytearray(b"\xff" * width)
        if not blank:
            row[(y * seed * 3) % width] = 0
        rows.append(b"\0" + bytes(row))
    return MAGIC + head(width, height) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + END
