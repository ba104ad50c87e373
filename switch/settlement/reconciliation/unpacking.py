"""Bytes as they came to the bytes of a file: plain, or one gzip member whose expansion is bounded. Pure."""

import zlib
from collections.abc import Iterator

from switch.settlement.reconciliation.clearing import Refused

UNPACKED_PER_BYTE_MAX = 100
UNPACKED_FREE = 1 << 20  # a small file may be as repetitive as it likes
PIECE_BYTES = 1 << 14  # a file never holds its reader for longer than a piece takes


class Unpacker:
    """Bytes as they came to bytes of the file: plain, or one gzip member of a bounded expansion. Raises Refused."""

    def __init__(self) -> None:
        self._begun = self._packed = False
        self._first = b""
        self._taken = self._given = 0
        self._gzip = zlib.decompressobj(31)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Pieces of at most PIECE_BYTES."""
        if not self._begun:
            self._first += data
            if len(self._first) < 4:
                return
            data, self._first = self._first, b""
            self._begin(data)
        if self._packed:
            yield from self._unpack(data)
        else:
            yield from _pieces(data)

    def end(self) -> Iterator[bytes]:
        """What was too short to tell; a packed file must be whole."""
        if not self._begun:
            self._begun = True
            yield self._first
        elif self._packed and not self._gzip.eof:
            raise Refused(0, "the gzip file is cut")

    def _begin(self, data: bytes) -> None:
        self._begun, self._packed = True, data[:2] == b"\x1f\x8b"
        if data[:4] in (b"PK\x03\x04", b"PK\x05\x06") or data[:3] in (b"BZh", b"\xfd7z", b"7z\xbc", b"\xef\xbb\xbf"):
            raise Refused(0, "only plain files without a byte order mark, and gzip, are taken")

    def _unpack(self, data: bytes) -> Iterator[bytes]:
        self._taken += len(data)
        while data:
            if self._gzip.eof:
                raise Refused(0, "something follows the end of the gzip file")
            try:
                piece = self._gzip.decompress(data, PIECE_BYTES)
            except zlib.error:
                raise Refused(0, "the gzip file is damaged") from None
            data = self._gzip.unconsumed_tail or self._gzip.unused_data
            self._given += len(piece)
            if self._given > UNPACKED_FREE + self._taken * UNPACKED_PER_BYTE_MAX:
                raise Refused(0, f"the file expands to more than {UNPACKED_PER_BYTE_MAX} times its size")
            yield piece


def _pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), PIECE_BYTES):
        yield data[at:at + PIECE_BYTES]
