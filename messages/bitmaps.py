"""Which sets of fields have compiled functions: those that a dialect's message table names, and a few that were used lately."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from messages.compiled import FAULTS, Reader, Table, Writer, bitmap_at, reader, unknown, writer
from messages.fields import BITMAP

SIDE_MAX = 32  # functions per dialect and direction: 64 specialised bitmaps in all
NAMED_MAX = 16  # of them, those that the message table names; they are never given up
SIGHTINGS = 4  # a set that is not named is compiled when it is met so often: a host that invents bitmaps is served by the reference


class Functions:
    """The functions of one direction, by what is seen first of a message; never more than SIDE_MAX."""

    def __init__(self, make: Callable[[Any], tuple[Any, bool]]) -> None:
        self.named: dict[Any, Any] = {}
        self.recent: dict[Any, Any] = {}  # the one used last is the last
        self.seen: dict[Any, int] = {}
        self._make = make

    def find(self, key: Any) -> Any:
        """The function for a key that `named` does not have, or None: the reference decides."""
        function = self.recent.pop(key, None)
        if function is None:
            function = self._met(key)
        elif function:
            self.recent[key] = function
        return function

    def _met(self, key: Any) -> Any:
        met = self.seen.pop(key, 0) + 1
        function, is_named = self._make(key) if met >= SIGHTINGS or not met - 1 else (None, False)
        if function is not None and is_named and len(self.named) < NAMED_MAX:
            self.named[key] = function()
            return self.named[key]
        if function is not None and met >= SIGHTINGS:
            if len(self.recent) >= SIDE_MAX - NAMED_MAX:
                del self.recent[next(iter(self.recent))]
            self.recent[key] = compiled = function()
            return compiled
        if len(self.seen) >= SIDE_MAX:
            del self.seen[next(iter(self.seen))]
        self.seen[key] = met
        return None


class Compiled:
    """Both ways for one field table. `encode` and `decode` give None for what the reference must decide."""

    def __init__(self, table: Table, named: Iterable[frozenset[str]]) -> None:
        self.table, self.named = table, frozenset(named)
        self.unknown = unknown(table)
        self.writers, self.readers = Functions(self._writer_of), Functions(self._reader_for)
        start, end = bitmap_at(table)
        self._first, self._both, self._hex = slice(start, end), slice(start, 2 * end - start), table.spec["p"]["data_enc"] == "b"

    def encode(self, message: Mapping[str, str]) -> bytes | None:
        try:
            names = tuple(message)
            function = self.writers.named.get(names) or self.writers.find(names)
            written: bytes | None = function(message) if function is not None else None
            return written
        except FAULTS:
            return None

    def decode(self, data: bytes) -> dict[str, str] | None:
        try:
            key = data[self._first]
            function = self.readers.named.get(key)
            if function is None:
                if (key[0] if self._hex else int(key[:1].decode(self.table.spec["p"]["data_enc"]), 16) << 4) & 0x80:
                    key = data[self._both]
                function = self.readers.named.get(key) or self.readers.find(key)
            read: dict[str, str] | None = function(data) if function is not None else None
            return read
        except FAULTS:
            return None

    def _known(self, names: Iterable[str]) -> bool:
        spec = self.table.spec
        return not self.unknown.keys() & {"h", "t", "p", "1"} and all(
            name in spec and name not in self.unknown and name not in ("t", "p", "1") for name in names)

    def _writer_of(self, names: tuple[str, ...]) -> tuple[Callable[[], Writer] | None, bool]:
        rest = frozenset(names) - {"0", "h"}
        if "0" not in names or ("h" in names) != bool(self.table.spec["h"]["max_len"]) or not self._known(rest):
            return None, False
        numbers = sorted(map(int, rest))
        return lambda: writer(self.table, numbers), rest in self.named

    def _reader_for(self, key: bytes) -> tuple[Callable[[], Reader] | None, bool]:
        text = key.hex().upper() if self._hex else key.decode(self.table.spec["p"]["data_enc"])
        if len(text) not in (16, 32) or not BITMAP(text[:16]) or (len(text) == 32) != (text[0] >= "8"):
            return None, False
        if len(text) == 32 and (not BITMAP(text[16:]) or text[16] >= "8"):
            return None, False
        bits = int(text.ljust(32, "0"), 16)
        numbers = [number for number in range(2, 129) if bits >> (128 - number) & 1]
        names = frozenset(map(str, numbers))
        if not self._known(names):
            return None, False
        return lambda: reader(self.table, numbers, len(text) // 16), names in self.named
