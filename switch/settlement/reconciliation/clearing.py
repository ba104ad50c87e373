"""Reading a file of an acquirer or a bank: bytes in as they come, checked lines out; a file with one fault is refused whole.

Pure: no file, no socket, no clock. `formats` says what the files look like. A refusal names line and reason, and never holds what stood there.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, timedelta
from typing import Any, NamedTuple

from messages.masking import mask_pan
from switch.files import csv_line
from switch.money import ALPHA_OF, AMOUNT_MAX, CURRENCIES
from switch.security.pan import luhn_valid
from switch.settlement.reconciliation.formats import FORMATS

LINE_BYTES_MAX = 1000
YEARS = range(2000, 2100)  # the first and the last day that Python knows are no days in PostgreSQL, but infinities
LINES_MAX = 5_000_000
BYTES_MAX = 2 << 30  # unpacked
TOTAL_MAX = 10**15  # sums stay within what a database's bigint and a reader of JSON hold exactly

# What a spreadsheet would run when somebody opens an export of it.
FORMULA = ("=", "+", "-", "@")
CARD = re.compile(r"(?<![0-9])(?:[0-9]{13,19}|[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,7})(?![0-9])")


class Refused(Exception):
    """The whole file is refused. `line`: where, from 1; 0 is the file itself."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line, self.reason = line, reason


class _Fault(Exception):
    """A field is not what its kind says; the argument is the rule."""


class Header(NamedTuple):
    """Whose file it is, of which day, and its number on that day (of a statement: the account, its date, its number)."""

    format: str
    document: str
    institution: str
    business_date: date
    number: int


class Line(NamedTuple):
    """One transaction as the acquirer clears it. `kind`: sale or refund; `amount` and `fee`: minor units, not negative."""

    line_no: int
    rrn: str
    stan: str
    terminal: str
    acceptor: str
    approval_code: str
    kind: str
    amount: int
    currency: str
    fee: int
    business_date: date
    reference: str


class Entry(NamedTuple):
    """One entry of a bank statement. `amount`: minor units, money that came is positive."""

    line_no: int
    booked_on: date
    business_date: date
    amount: int
    currency: str
    bank_reference: str
    text: str


class Totals(NamedTuple):
    lines: int
    total: int
    fees: int
    dates: frozenset[date]


def _digits(text: str, rule: str) -> str:
    if not (text.isascii() and text.isdigit()):
        raise _Fault(rule)
    return text


def _number(text: str) -> int:
    if len(text) > 15:
        raise _Fault("a whole number of at most 15 digits")
    return int(_digits(text.strip(" "), "a whole number"))


def _signed(text: str) -> int:
    sign = text[:1]
    return -_number(text[1:]) if sign == "-" else _number(text[1:] if sign == "+" else text)


def _code(text: str) -> str:
    """A number or name that the sender gives to something."""
    text = text.strip(" ")
    if len(text) > 140:
        raise _Fault("at most 140 characters")
    if text.startswith(FORMULA):
        raise _Fault("a text must not begin like a formula")
    return text


def _masked(found: re.Match[str]) -> str:
    digits = re.sub("[ -]", "", found[0])
    return mask_pan(digits) if luhn_valid(digits) else found[0]


def safe(text: str) -> str:
    """A text of others as it may be stored: what might be a card number is masked."""
    return CARD.sub(_masked, text)


def _text(text: str) -> str:
    """What might be a card number is stored masked. One number in ten looks like one, so the file is not refused for it."""
    text = _code(text)
    return safe(text) if len(text) > 12 else text


def _sized(length: int) -> Callable[[str], str]:
    rule = f"{length} digits, or nothing"

    def read(text: str) -> str:
        text = text.strip(" ")
        if text and len(text) != length:
            raise _Fault(rule)
        return _digits(text, rule) if text else ""

    return read


def _date(text: str) -> date:
    try:
        if len(text) == 10 and text.isascii() and (day := date.fromisoformat(text)).year in YEARS:
            return day
    except ValueError:
        pass
    raise _Fault("a date YYYY-MM-DD of this century")


def _compact(text: str) -> date:
    try:
        if len(text) == 8 and text.isascii() and text.isdigit() and int(text[:4]) in YEARS:
            return date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        pass
    raise _Fault("a date YYYYMMDD of this century")


def _one_of(named: Mapping[str, str], rule: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in named:
            raise _Fault(rule)
        return named[text]

    return read


DECIMAL = re.compile(r"([0-9]{1,12})(?:\.([0-9]{1,4}))?", re.ASCII)


def _decimal(text: str) -> tuple[str, str]:
    """Whole and fraction; minor units once the line's currency is known."""
    found = DECIMAL.fullmatch(text)
    if found is None:
        raise _Fault("an amount such as 10.50, without a sign")
    return found[1], found[2] or ""


KINDS: Mapping[str, Callable[[str], Any]] = {
    "text": _text, "code": _code,
    "number": _number, "signed": _signed, "minor": _number, "rrn": _sized(12), "stan": _sized(6), "date": _date, "compact": _compact,
    "decimal": _decimal,
    "kind": _one_of({"S": "sale", "R": "refund"}, "S (sale) or R (refund)"),
    "sign": _one_of({"+": "sale", "-": "refund"}, "+ (sale) or - (refund)"),
    "booking": _one_of({"C": "credit", "D": "debit"}, "C (credit) or D (debit)"),
    "alpha": _one_of({alpha: alpha for alpha in CURRENCIES}, "an ISO 4217 code of three letters"),
    "numeric": _one_of(ALPHA_OF, "an ISO 4217 code of three digits"),
}


def _minor(amount: int | tuple[str, str], currency: str) -> int:
    if not isinstance(amount, int):
        whole, fraction = amount
        exponent = CURRENCIES[currency][1]
        if len(fraction) != exponent:
            raise _Fault(f"an amount with {exponent} digits after the point")
        amount = int(whole + fraction)
    if amount > AMOUNT_MAX:
        raise _Fault("an amount of at most 12 digits")
    return amount


class Layout:
    """One format, ready to read with."""

    def __init__(self, name: str) -> None:
        form: Any = FORMATS[name]
        self.name, self.document, self.charset, self.days = name, form["document"], form["charset"], form["days"]
        self.separator, self.width = form.get("separator"), form.get("width")
        self.parts = {part: (form[part][0], tuple((name, KINDS[kind], *place) for name, kind, *place in form[part][1]))
                      for part in ("header", "line", "trailer")}

    def part(self, text: str) -> str:
        """Which record a text is."""
        mark = text.partition(self.separator)[0] if self.separator else text[:2]
        for part, (known, _) in self.parts.items():
            if mark == known:
                return part
        raise _Fault("a record of a known mark")

    def read(self, part: str, text: str) -> dict[str, Any]:
        fields = self.parts[part][1]
        if self.separator:
            try:
                cells = csv_line.cells(text)
            except csv_line.QuoteError as wrong:
                raise _Fault(f"column {wrong.column}: {csv_line.RULE}") from None
            if len(cells) != len(fields) + 1:
                raise _Fault(f"{len(fields) + 1} fields")
            cells = cells[1:]
        else:
            if len(text) != self.width:
                raise _Fault(f"a record of {self.width} characters")
            cells = [text[place[0]:place[0] + place[1]] for _, _, *place in fields]
        values = {}
        for (name, kind, *_), cell in zip(fields, cells, strict=True):
            try:
                values[name] = kind(cell)
            except _Fault as fault:
                raise _Fault(f"{name} must be: {fault}") from None
        return values


class Reader:
    """One file. `feed` bytes as they come and take the lines; `end` gives the totals. Both raise Refused, and nothing is taken after that.

    `institution`: who sends it, by the names it may go under; None for any. `document`: clearing or statement.
    """

    def __init__(self, document: str, institution: Iterable[str] | None) -> None:
        self.document, self.institutions = document, None if institution is None else frozenset(institution)
        self.header: Header | None = None
        self.line = 0  # records so far
        self._layout: Layout | None = None
        self._rest = b""
        self._size = self._count = self._total = self._fees = 0
        self._dates: set[date] = set()
        self._trailer = False

    def feed(self, data: bytes) -> list[Line | Entry]:
        """The lines that are whole now."""
        self._size += len(data)
        if self._size > BYTES_MAX:
            raise Refused(0, f"the file is larger than {BYTES_MAX} bytes")
        *whole, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise Refused(self.line + 1, f"the line is longer than {LINE_BYTES_MAX} bytes")
        return list(self._lines(whole))

    def end(self) -> tuple[Header, Totals]:
        if self._rest:
            raise Refused(self.line + 1, "the file is cut: its last line has no end")
        if self.header is None:
            raise Refused(0, "the file is empty")
        if not self._trailer:
            raise Refused(self.line + 1, "the file is cut: it has no trailer")
        return self.header, Totals(self._count, self._total, self._fees, frozenset(self._dates))

    def _lines(self, whole: list[bytes]) -> Iterator[Line | Entry]:
        for raw in whole:
            self.line += 1
            try:
                taken = self._take(raw)
            except _Fault as fault:
                raise Refused(self.line, str(fault)) from None
            if taken is not None:
                yield taken

    def _take(self, raw: bytes) -> Line | Entry | None:
        if len(raw) > LINE_BYTES_MAX:
            raise _Fault(f"the line is longer than {LINE_BYTES_MAX} bytes")
        if self._layout is None:
            self._layout = self._sniffed(raw)
        layout = self._layout
        try:
            text = raw.removesuffix(b"\r").decode(layout.charset)
        except UnicodeDecodeError:
            raise _Fault(f"the line is not {layout.charset}") from None
        if not text.isprintable():
            raise _Fault("the line holds a character that cannot be printed")
        if self._trailer:
            raise _Fault("something follows the trailer")
        part = layout.part(text)
        if (part == "header") != (self.line == 1):
            raise _Fault("the header is the first line and no other")
        values = layout.read(part, text)
        if part == "line":
            return self._item(values)
        if part == "header":
            self._begin(layout, values)
        else:
            self._close(values)
        return None

    def _sniffed(self, raw: bytes) -> Layout:
        for name, form in FORMATS.items():
            if raw.startswith(str(form["starts"]).encode()):
                if form["document"] != self.document:
                    raise _Fault(f"this is a {form['document']} file, a {self.document} file is expected")
                return Layout(name)
        raise _Fault(f"the first line is the header of no {self.document} format that is known here")

    def _begin(self, layout: Layout, values: dict[str, Any]) -> None:
        if self.institutions is not None and values["institution"] not in self.institutions:
            raise _Fault("the file is of another acquirer" if self.document == "clearing" else "the statement is of another account")
        if not 1 <= values["number"] <= 9999:
            raise _Fault("number must be: 1 to 9999")
        self.header = Header(layout.name, layout.document, values["institution"], values["business_date"], values["number"])

    def _item(self, values: dict[str, Any]) -> Line | Entry:
        assert self.header is not None and self._layout is not None
        self._count += 1
        if self._count > LINES_MAX:
            raise _Fault(f"the file has more than {LINES_MAX} lines")
        if values["line_no"] != self._count:
            raise _Fault("the lines are not numbered 1, 2, 3 and so on: one is lost, doubled or moved")
        day, (before, after) = values["business_date"], self._layout.days
        if day not in self._dates:
            if not timedelta(-before) <= day - self.header.business_date <= timedelta(after):
                raise _Fault(f"business_date must be: from {before} days before the file's date to {after} after")
            self._dates.add(day)
        values["amount"] = amount = _minor(values["amount"], values["currency"])
        kind = values["kind"]
        if not amount:
            raise _Fault("amount must be: more than zero")
        self._total += amount if kind in ("sale", "credit") else -amount
        if self.document == "statement":
            del values["kind"]
            values["amount"] = amount if kind == "credit" else -amount
            return Entry(**values)
        values["fee"] = fee = _minor(values["fee"], values["currency"])
        self._fees += fee
        if not values["rrn"] and not (values["stan"] and values["terminal"]):
            raise _Fault("a line needs an RRN, or a STAN with its terminal")
        return Line(**values)

    def _close(self, values: dict[str, Any]) -> None:
        self._trailer = True
        for name, ours in (("count", self._count), ("total", self._total), ("fees", self._fees)):
            if name in values and values[name] != ours:
                raise _Fault(f"the trailer's {name} is not that of the lines")
        if abs(self._total) > TOTAL_MAX:
            raise _Fault(f"the total is more than {TOTAL_MAX}")
