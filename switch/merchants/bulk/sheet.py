"""The file of an import: CSV (RFC 4180) in UTF-8, a row for each terminal at an acquirer. Bytes to rows and faults; pure.

What makes the file unreadable, or was made to hurt, raises Refused with its line. What is wrong in one row is a Fault: line, column and rule,
never what stood there.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from switch.errors import Problem
from switch.files import csv_line
from switch.merchants.rules import RULES, check
from switch.settlement.reconciliation.clearing import Refused

# state -> states that may follow; the database holds the same table (r0030).
STEPS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "queued": ("checked", "refused", "writing"), "writing": ("writing", "done"), "checked": (), "refused": (), "done": ()})
NEEDED = ("merchant", "merchant_name", "mcc", "store", "store_name", "terminal", "terminal_name")
COLUMNS = (*NEEDED, "time_zone", "city", "country", "acquirer", "card_acceptor_terminal", "card_acceptor")
NUMBERS = ("acquirer", "card_acceptor_terminal", "card_acceptor")
DEFAULTS: Mapping[str, str] = MappingProxyType({"time_zone": "Asia/Shanghai", "country": "CN"})
RULE_OF = {"merchant_name": "name", "store_name": "name", "terminal_name": "name"}
OF = {"merchant": ("merchant_name", "mcc"),  # its zone is that of the store in its first row
      "store": ("store_name", "city", "country", "time_zone"), "terminal": ("terminal_name",)}
LINE_BYTES, ROWS_MAX, FILE_BYTES = 16_384, 100_000, 32 << 20
REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}", re.ASCII)
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would run


class Fault(NamedTuple):
    line: int
    column: str
    rule: str


class Row(NamedTuple):
    """A sound row. Keys are what the sender calls each: a store's within its merchant, a terminal's too."""

    line: int
    values: Mapping[str, str]

    def key(self, kind: str) -> str:
        own = self.values[kind]
        return own if kind == "merchant" else f"{self.values['merchant']}/{own}"

    def digest(self, kind: str) -> bytes:
        """Of what is said of it; the same again changes nothing."""
        said = [self.values[name] for name in OF[kind]] + ([self.values["store"]] if kind == "terminal" else [])
        return hashlib.sha256("\0".join(said).encode()).digest()


class Reader:
    """Fed with pieces of the file; gives rows and faults as they are complete. Raises Refused."""

    def __init__(self) -> None:
        self.line = self.bytes = 0
        self._rest = b""
        self._columns: list[str] = []
        self._digests: dict[str, bytes] = {}  # texts, not tuples: what the collector walks is felt by payments
        self._numbers: set[str] = set()

    def feed(self, piece: bytes) -> Iterator[Row | Fault]:
        self.bytes += len(piece)
        if self.bytes > FILE_BYTES:
            raise Refused(self.line + 1, f"the file is larger than {FILE_BYTES >> 20} MiB unpacked")
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            yield from self._take(line)
        if len(self._rest) > LINE_BYTES:
            raise Refused(self.line + 1, f"a line has at most {LINE_BYTES} bytes")

    def end(self) -> None:
        if self._rest:  # a number that is cut short would look like a number, and is never changed
            raise Refused(self.line + 1, "the last line has no line break: the file may be cut; end every line with one")
        if self.line < 2:
            raise Refused(max(1, self.line), "the file has no rows")

    def _take(self, raw: bytes) -> Iterator[Row | Fault]:
        self.line += 1
        cells = self._cells(raw.removesuffix(b"\r"))
        if not self._columns:
            self._columns = self._header(cells)
        elif self.line > ROWS_MAX + 1:
            raise Refused(self.line, f"a file has at most {ROWS_MAX} rows")
        elif len(cells) != len(self._columns):
            yield Fault(self.line, "row", f"{len(self._columns)} cells, as the first line has")
        else:
            row = Row(self.line, {name: "" for name in COLUMNS} | dict(zip(self._columns, cells, strict=True)))
            row = Row(self.line, {name: value or DEFAULTS.get(name, "") for name, value in row.values.items()})
            faults = [*faults_of(row)] or [*self._against(row)]
            if faults:
                yield from faults
            else:
                yield row

    def _cells(self, raw: bytes) -> list[str]:
        if len(raw) > LINE_BYTES:
            raise Refused(self.line, f"a line has at most {LINE_BYTES} bytes")
        if b"\0" in raw:
            raise Refused(self.line, "it holds a NUL byte")
        if b"\r" in raw:
            raise Refused(self.line, "it holds a line break of its own")
        try:
            return csv_line.cells(raw.decode())
        except UnicodeDecodeError:
            raise Refused(self.line, "it is not UTF-8") from None
        except csv_line.QuoteError as wrong:
            named = [f", {name}" for name in self._columns[wrong.column - 1:wrong.column]]
            raise Refused(self.line, f"column {wrong.column}{''.join(named)}: {csv_line.RULE}") from None

    def _header(self, cells: list[str]) -> list[str]:
        if len(set(cells)) < len(cells):
            raise Refused(1, "a column is named twice")
        if missing := [name for name in NEEDED if name not in cells]:
            raise Refused(1, f"columns are missing: {', '.join(missing)}")
        if not set(cells) <= set(COLUMNS):
            raise Refused(1, f"there is a column that is none of: {', '.join(COLUMNS)}")
        return cells

    def _against(self, row: Row) -> Iterator[Fault]:
        """The rows before it must say the same of the same merchant, store and terminal, and give a number once. Nothing of a row that is wrong
        is remembered."""
        keys = {f"{kind} {row.key(kind)}": row.digest(kind) for kind in OF}
        differing = [kind for kind, (key, digest) in zip(OF, keys.items(), strict=True) if self._digests.get(key, digest) != digest]
        for kind in differing:
            yield Fault(row.line, kind, "the same reference with the same values as in the rows before")
        values, terminal = row.values, row.key("terminal")
        numbers = {"\0".join(("at", terminal, values["acquirer"])), "\0".join(("number", *(values[name] for name in NUMBERS)))
                   } if values["acquirer"] else {f"alone\0{terminal}"}
        if not numbers.isdisjoint(self._numbers):
            yield Fault(row.line, "acquirer" if values["acquirer"] else "terminal", "a terminal once at an acquirer, with numbers no row before has")
        elif not differing:
            self._digests |= keys
            self._numbers |= numbers


def faults_of(row: Row) -> Iterator[Fault]:
    """What is wrong in a row by itself."""
    for name, value in row.values.items():
        if value.startswith(FORMULA):
            yield Fault(row.line, name, "a text that no spreadsheet would run: not = + - @ or a tab at its beginning")
        elif name in NUMBERS and not row.values["acquirer"]:
            if value:
                yield Fault(row.line, name, "numbers with the acquirer that gave them, or none")
        elif name in OF:
            if not REFERENCE.fullmatch(value):
                yield Fault(row.line, name, "1 to 64 of A-Z a-z 0-9 . _ : -, the first a letter or digit")
        elif name != "acquirer" and (fault := _rule_broken(RULE_OF.get(name, name), value)):
            yield Fault(row.line, name, fault)


def _rule_broken(rule: str, value: str) -> str | None:
    try:
        check(RULES, **{rule: value})
    except Problem:
        return RULES[rule][1]
    return None
