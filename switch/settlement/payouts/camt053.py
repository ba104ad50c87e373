"""Reading a bank's statement, ISO 20022 camt.053 of any version: bytes in as they come, one checked answer out. Pure.

Read element by element and not as one tree: a refusal names its line, memory does not follow the length of the file, and a document type, which is
where bombs and outside entities are declared, ends it at once.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any
from xml.parsers import expat

from switch.money import CURRENCIES
from switch.settlement.payouts.answered import ENTRIES_MAX, Answer, Said
from switch.settlement.payouts.bank_csv import minor
from switch.settlement.reconciliation.clearing import Refused

NAMESPACE = re.compile(r"urn:iso:std:iso:20022:tech:xsd:camt\.053\.001\.[0-9]{2}")
DEPTH_MAX, TEXT_MAX, BYTES_MAX = 40, 2000, 256 << 20
DETAILS_MAX = 10_000  # payments in one booking
VALUES_MAX, BALANCES_MAX = 500, 100  # of one entry or statement
TAG_MAX = 1 << 18  # bytes that the parser keeps before it can say what they are
BOOKED = "BOOK"
# Where a value stands below its Stmt, Ntry or TxDtls; versions differ in some.
ACCOUNT = ("Acct/Id/IBAN", "Acct/Id/Othr/Id")
REASON = ("RtrInf/Rsn/Cd", "RtrInf/Rsn/Prtry", "RtrInf/AddtlInf")
TX_AMOUNT = ("Amt", "AmtDtls/TxAmt/Amt")
STATUS = ("Sts/Cd", "Sts")
DAY = ("BookgDt/Dt", "BookgDt/DtTm")
COLLECTED = frozenset({"Stmt", "Ntry", "TxDtls", "Bal"})
Values = dict[str, str]


class Reader:
    """`feed` bytes, then `end`. Raises Refused."""

    def __init__(self) -> None:
        self._parser = parser = expat.ParserCreate("UTF-8", namespace_separator="|")
        parser.buffer_text = True
        parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = self._start, self._close, self._characters
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = self._declared
        parser.XmlDeclHandler = self._declaration
        parser.ExternalEntityRefHandler = self._outside
        self._path: list[str] = []
        self._open: list[tuple[str, int, int, Values]] = []  # what is collected: name, depth, line, values
        self._text: list[str] = []
        self._length = self._size = 0
        self._details: list[tuple[int, Values]] = []
        self._balances: list[Values] = []
        self._statement: Values | None = None
        self._said: list[Said] = []
        self._entries: list[tuple[bool, int]] = []  # credit, amount
        self._lines: dict[str, int] = {}

    def feed(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > BYTES_MAX:
            raise Refused(self._line, "the file is too long")
        if b"\0" in data:  # the parser would take UTF-16, whatever it is told
            raise Refused(self._line, "this is not XML in UTF-8, or it is cut")
        self._parse(data, False)
        if self._size - max(0, self._parser.CurrentByteIndex) > TAG_MAX + len(data):
            raise Refused(self._line, "a tag or comment is too long")

    def end(self) -> Answer:
        self._parse(b"", True)
        if self._statement is None:
            raise Refused(self._line, "there is no statement in the file")
        return _checked(self._statement, self._balances, self._entries, self._said, self._line)

    @property
    def _line(self) -> int:
        return self._parser.CurrentLineNumber

    def _parse(self, data: bytes, last: bool) -> None:
        try:
            self._parser.Parse(data, last)
        except expat.ExpatError as error:
            raise Refused(error.lineno, "this is not XML in UTF-8, or it is cut") from None

    def _declaration(self, _version: str, encoding: str | None, _standalone: int) -> None:
        if encoding is not None and encoding.upper() not in ("UTF-8", "UTF8", "US-ASCII"):
            raise Refused(self._line, "the file must be UTF-8")

    def _declared(self, *_: Any) -> None:
        raise Refused(self._line, "document types and entities are not taken")

    def _outside(self, *_: Any) -> int:
        raise Refused(self._line, "document types and entities are not taken")

    def _start(self, name: str, attributes: Mapping[str, str]) -> None:
        space, _, local = name.rpartition("|")
        if not self._path and (local != "Document" or not NAMESPACE.fullmatch(space)):
            raise Refused(self._line, "the file is no camt.053 statement")
        if len(self._path) == DEPTH_MAX:
            raise Refused(self._line, "elements are nested too deeply")
        if self._path == ["Document"] and local != "BkToCstmrStmt":
            raise Refused(self._line, "the file is no camt.053 statement")
        if local in COLLECTED:
            self._begin(local)
        self._path.append(local)
        self._text, self._length = [], 0
        if "Ccy" in attributes and self._open:
            self._put("@Ccy", attributes["Ccy"])

    def _begin(self, local: str) -> None:
        if local == "Stmt" and self._statement is not None:
            raise Refused(self._line, "one statement in a file")
        if local == "Ntry":
            self._details = []
            if len(self._entries) == ENTRIES_MAX:
                raise Refused(self._line, f"a statement has at most {ENTRIES_MAX} entries")
        if local == "Bal" and len(self._balances) == BALANCES_MAX:
            raise Refused(self._line, f"a statement has at most {BALANCES_MAX} balances")
        if local == "TxDtls" and len(self._details) == DETAILS_MAX:
            raise Refused(self._line, f"a booking has at most {DETAILS_MAX} payments")
        self._open.append((local, len(self._path) + 1, self._line, {}))

    def _put(self, suffix: str, value: str) -> None:
        _, depth, _, values = self._open[-1]
        values.setdefault("/".join(self._path[depth:]) + suffix, value)
        if len(values) > VALUES_MAX:
            raise Refused(self._line, f"an entry or statement has at most {VALUES_MAX} values of its own")

    def _characters(self, data: str) -> None:
        self._length += len(data)
        if self._length > TEXT_MAX:
            raise Refused(self._line, f"a value has at most {TEXT_MAX} characters")
        self._text.append(data)

    def _close(self, _name: str) -> None:
        text = "".join(self._text).strip()
        if text and self._open:
            self._put("", text)
        local = self._path.pop()
        self._text, self._length = [], 0
        if self._open and self._open[-1][:2] == (local, len(self._path) + 1):
            _, _, line, values = self._open.pop()
            self._collected(local, line, values)

    def _collected(self, local: str, line: int, values: Values) -> None:
        if local == "Stmt":
            self._statement = values
        elif local == "Bal":
            self._balances.append(values | {"line": str(line)})
        elif local == "TxDtls":
            self._details.append((line, values))
        elif (status := _first(values, STATUS)) == BOOKED:
            credit, amount, said = entry(line, values, self._details, len(self._entries) + 1)
            self._entries.append((credit, amount))
            self._said += said
        elif status not in ("PDNG", "INFO", "FUTR"):
            raise Refused(line, "an entry needs a status: BOOK, PDNG, INFO or FUTR")


def entry(line: int, values: Values, details: list[tuple[int, Values]], number: int) -> tuple[bool, int, list[Said]]:
    """A booking: whether money came, how much, and the payments in it."""
    currency, amount = _amount(line, values, ("Amt",))
    credit = _credit(line, values)
    day = _day(line, _first(values, DAY))
    reversal = values.get("RvslInd", "") in ("true", "1")
    reference = values.get("AcctSvcrRef") or values.get("NtryRef") or f"entry {number}"
    parts = details or [(line, {})]
    said, total = [], 0
    for place, (at, part) in enumerate(parts, 1):
        part_currency, part_amount = (currency, amount) if len(parts) == 1 and not _first(part, TX_AMOUNT) else _amount(at, part, TX_AMOUNT)
        if len(parts) == 1 and part_currency != currency:  # what the payment was before it was exchanged
            part_currency, part_amount = currency, amount
        if part_currency != currency:
            raise Refused(at, "the payments of a booking have its currency")
        total += part_amount
        came = _credit(at, part) if "CdtDbtInd" in part else credit
        if came != credit:
            raise Refused(at, "the payments of a booking have its direction")
        own = part.get("Refs/EndToEndId", "")
        reason = " ".join(part[name] for name in REASON if name in part)[:200]
        text = reason or part.get("RmtInf/Ustrd", "") or values.get("AddtlNtryInf", "")
        fact = None if own in ("", "NOTPROVIDED") else "returned" if came else None if reversal else "confirmed"
        said.append(Said(at, fact, own[:35] if fact else "", came, part_amount, currency, day,
                         (part.get("Refs/AcctSvcrRef") or (reference if len(parts) == 1 else f"{reference}/{place}"))[:140], text[:200]))
    if total != amount:
        raise Refused(line, "the payments of the booking are not its amount")
    return credit, amount, said


def _checked(values: Values, balances: list[Values], entries: list[tuple[bool, int]], said: list[Said], last: int) -> Answer:
    account, name = _first(values, ACCOUNT), values.get("Id", "")
    if not account or not 1 <= len(name) <= 35:
        raise Refused(last, "the statement has no account or no id")
    opening = [each for each in balances if each.get("Tp/CdOrPrtry/Cd") in ("OPBD", "PRCD")]
    closing = [each for each in balances if each.get("Tp/CdOrPrtry/Cd") == "CLBD"]
    if not closing:
        raise Refused(last, "the statement has no closing balance (CLBD)")
    currency = closing[0].get("Amt@Ccy", "")
    if currency not in CURRENCIES or values.get("Acct/Ccy", currency) != currency or any(each.currency != currency for each in said):
        raise Refused(last, "a statement has one currency")
    moved = sum(amount if credit else -amount for credit, amount in entries)
    if opening and _signed(opening[0]) + moved != _signed(closing[-1]):
        raise Refused(int(closing[-1]["line"]), "the closing balance is not the opening balance and the entries")
    _totals(values, entries, currency, last)
    seen: set[tuple[str, str, bool]] = set()
    for each in said:
        key = (each.bank_reference, each.end_to_end_id, each.credit)
        if key in seen:
            raise Refused(each.line, "this payment stands in the file twice")
        seen.add(key)
    number = values.get("ElctrncSeqNb") or values.get("LglSeqNb") or "1"
    if not (number.isascii() and number.isdigit() and len(number) < 16):
        raise Refused(last, "the number of a statement is a whole number")
    day = _day(int(closing[-1]["line"]), _first(closing[-1], ("Dt/Dt", "Dt/DtTm")))
    return Answer("camt053", account, currency, name, int(number), day, True, said)


def _totals(values: Values, entries: list[tuple[bool, int]], currency: str, last: int) -> None:
    """What the statement says of itself must be so, as far as it says it."""
    for where, kept in (("TtlNtries", entries), ("TtlCdtNtries", [each for each in entries if each[0]]),
                        ("TtlDbtNtries", [each for each in entries if not each[0]])):
        count, total = values.get(f"TxsSummry/{where}/NbOfNtries"), values.get(f"TxsSummry/{where}/Sum")
        if count is not None and count != str(len(kept)):
            raise Refused(last, "the count of the summary is not that of the entries")
        if total is not None and minor(last, total, currency, zero=True) != sum(amount for _, amount in kept):
            raise Refused(last, "the total of the summary is not that of the entries")


def _first(values: Values, names: tuple[str, ...]) -> str:
    return next((values[name] for name in names if name in values), "")


def _amount(line: int, values: Values, names: tuple[str, ...]) -> tuple[str, int]:
    currency = _first(values, tuple(f"{name}@Ccy" for name in names))
    if currency not in CURRENCIES:
        raise Refused(line, "an amount needs a currency of ISO 4217")
    return currency, minor(line, _first(values, names), currency)


def _signed(balance: Values) -> int:
    line, currency = int(balance["line"]), balance.get("Amt@Ccy", "")
    if currency not in CURRENCIES:
        raise Refused(line, "a balance needs a currency of ISO 4217")
    amount = minor(line, balance.get("Amt", ""), currency, zero=True)
    return amount if _credit(line, balance) else -amount


def _credit(line: int, values: Values) -> bool:
    if values.get("CdtDbtInd") not in ("CRDT", "DBIT"):
        raise Refused(line, "CdtDbtInd must be CRDT or DBIT")
    return values["CdtDbtInd"] == "CRDT"


def _day(line: int, text: str) -> date:
    try:
        return date.fromisoformat(text[:10])
    except ValueError:
        raise Refused(line, "a booking day such as 2026-11-23") from None
