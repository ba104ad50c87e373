"""Notices of acquirers about disputes, as a file: read whole, or refused whole with line and reason. Pure: bytes in, notices out.

    disputes,1,ACQUIRER,NUMBER                                              whose file it is, and which of theirs
    kind,reference,transaction,rrn,amount,currency,reason_code,noticed_on   the head, as it stands here
    chargeback,CB-1,,632700000017,10000,CNY,4853,2026-11-23                 a sale is named by its txn_ id or by an RRN
    won,CB-1,,,10000,CNY,4853,2026-12-20                                    an outcome names no sale
    total,2,20000                                                           how many notices, and the sum of their amounts in minor units
"""

import csv
import re
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple
from uuid import UUID

from switch.ids import read
from switch.money import AMOUNT_MAX
from switch.security.pan import luhn_valid
from switch.settlement.disputes.life import NOTICES, OUTCOMES

BYTES_MAX = 4 << 20
LINES_MAX = 1_000  # their sales are locked in one commit
LINE_MAX = 400
HEAD = ["kind", "reference", "transaction", "rrn", "amount", "currency", "reason_code", "noticed_on"]
REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./-]{0,39}", re.ASCII)
REASON_CODE = re.compile(r"[A-Za-z0-9.]{1,12}", re.ASCII)
RRN = re.compile(r"[0-9A-Za-z]{12}", re.ASCII)
CURRENCY = re.compile(r"[A-Z]{3}", re.ASCII)
NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
CARD = re.compile(r"(?:2[2-7]|3[457]|4|5|6|81)[0-9]{11,18}", re.ASCII)
DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


class Refused(Exception):
    """A file that is refused whole. `line` counts from 1; the reason never holds what the line said."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(line, reason)
        self.line, self.reason = line, reason


class Notice(NamedTuple):
    """What an acquirer says about a sale. `kind`: retrieval, chargeback, or an outcome; an opening names its sale by id or RRN."""

    kind: str
    reference: str
    transaction_id: UUID | None
    rrn: str | None
    amount: int
    currency: str
    reason_code: str
    noticed_on: date
    line: int = 0


class NoticeFile(NamedTuple):
    number: str
    notices: tuple[Notice, ...]
    total: int


def parse(raw: bytes, acquirers: Iterable[str]) -> NoticeFile:
    """`acquirers`: the names that the file's acquirer goes by. Raises Refused."""
    lines = _lines(raw)
    if len(lines) < 3:
        raise Refused(len(lines), "it ends too early: a file has its first line, the head and a total")
    first, head, *rows = lines
    if first[:2] != ["disputes", "1"] or len(first) != 4 or not NUMBER.fullmatch(first[3]):
        raise Refused(1, "the first line must be disputes,1,ACQUIRER,NUMBER")
    if first[2] not in acquirers:
        raise Refused(1, "it is another acquirer's file")
    if head != HEAD:
        raise Refused(2, f"the head must be {','.join(HEAD)}")
    *rows, last = rows
    notices = tuple(_notice(row, number) for number, row in enumerate(rows, 3))
    total = sum(notice.amount for notice in notices)
    if last[:1] != ["total"]:
        raise Refused(len(lines), "the last line must be the total: the file is cut short")
    if last != ["total", str(len(notices)), str(total)]:
        raise Refused(len(lines), "the total does not agree with the lines")
    seen: dict[tuple[str, str], int] = {}
    for notice in notices:
        before = seen.setdefault((notice.kind, notice.reference), notice.line)
        if before != notice.line:
            raise Refused(notice.line, f"line {before} says the same about this reference")
    return NoticeFile(first[3], notices, total)


def _lines(raw: bytes) -> list[list[str]]:
    if len(raw) > BYTES_MAX:
        raise Refused(1, f"it is larger than {BYTES_MAX >> 20} MB")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Refused(raw.count(b"\n", 0, error.start) + 1, "it is not UTF-8") from None
    found = text.removesuffix("\n").split("\n")
    if len(found) > LINES_MAX:
        raise Refused(LINES_MAX + 1, f"it has more than {LINES_MAX} lines")
    for number, line in enumerate(found, 1):
        if len(line) > LINE_MAX or not line.removesuffix("\r").isascii() or not line.removesuffix("\r").isprintable() or not line:
            raise Refused(number, f"a line is 1 to {LINE_MAX} printable ASCII characters")
        if '"' in line:
            raise Refused(number, "no value is quoted")
    return list(csv.reader([line.removesuffix("\r") for line in found]))


def _notice(row: list[str], line: int) -> Notice:
    if len(row) != len(HEAD):
        raise Refused(line, f"it must have {len(HEAD)} values")
    kind, reference, transaction, rrn, amount, currency, reason_code, noticed_on = row
    transaction_id, day = read("transaction", transaction) if transaction else None, _day(noticed_on)
    opening = kind in NOTICES
    faults = (
        (not opening and kind not in OUTCOMES, f"kind must be one of {', '.join([*NOTICES, *OUTCOMES])}"),
        (not is_reference(reference), "reference must be 1 to 40 letters, digits and _ . / -, and no card number"),
        (bool(transaction) and transaction_id is None, "transaction must be a txn_ id"),
        (bool(rrn) and not RRN.fullmatch(rrn), "rrn must be 12 characters"),
        (opening and bool(transaction) == bool(rrn), "name the sale by transaction or by rrn, one of them"),
        (not opening and bool(transaction or rrn), "an outcome names no sale"),
        (not NUMBER.fullmatch(amount) or not 1 <= int(amount) <= AMOUNT_MAX, "amount must be a whole number of minor units, at least 1"),
        (not CURRENCY.fullmatch(currency), "currency must be three capital letters"),
        (not REASON_CODE.fullmatch(reason_code), "reason_code must be 1 to 12 letters, digits and dots"),
        (day is None, "noticed_on must be a day, as YYYY-MM-DD"),
    )
    for wrong, reason in faults:
        if wrong:
            raise Refused(line, reason)
    assert day is not None
    return Notice(kind, reference, transaction_id, rrn or None, int(amount), currency, reason_code, day, line)


def is_reference(text: str) -> bool:
    """It is stored and shown in clear. A case number of many digits is no card number only because its check digit happens to fit."""
    digits = re.sub("[^0-9]", "", text)
    return bool(REFERENCE.fullmatch(text)) and not (CARD.fullmatch(digits) and luhn_valid(digits))


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if DAY.fullmatch(text) else None
    except ValueError:
        return None
