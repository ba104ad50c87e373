"""Payouts and the bank's answers as plain CSV, for banks without ISO 20022. Pure.

Out: `H,PAYOUTS,1,<message id>,<account>,<currency>,<execution date>,<made at>`, a line `P` for each payout, `T,<count>,<total>`.
In:  `H,ANSWER,1,<account>,<currency>,<date>,<name of the answer>`, a line `A` for each payment, `T,<count>,<total>`.
"""

import csv
import io
import re
from collections.abc import Iterator
from datetime import date

from switch.files import csv_line
from switch.money import CURRENCIES, decimal
from switch.settlement.payouts.answered import ENTRIES_MAX, FACTS, Answer, Said
from switch.settlement.payouts.pain001 import Order
from switch.settlement.reconciliation.clearing import FORMULA, Refused

STARTS = b"H,ANSWER,1,"
LINE_MAX = 1000
DECIMAL = re.compile(r"(0|[1-9][0-9]{0,14})(?:\.([0-9]{1,5}))?", re.ASCII)
COLUMNS = {"H": 7, "A": 9, "T": 3}


def written(order: Order) -> bytes:
    """The file: UTF-8, lines end with LF. No cell begins like a formula: holders and numbers are checked when they are agreed."""
    out = io.StringIO(newline="")
    rows = csv.writer(out, lineterminator="\n")
    currency = order.currency
    rows.writerow(["H", "PAYOUTS", 1, order.message_id, order.payer.number, currency, order.execution_date.isoformat(),
                   order.made_at.isoformat(timespec="seconds")])
    for number, each in enumerate(order.credits, 1):
        rows.writerow(["P", number, each.end_to_end_id, each.to.holder, each.to.number, each.to.bank_code or "", each.to.bic or "", each.to.country,
                       decimal(each.amount, currency), currency, each.text])
    rows.writerow(["T", len(order.credits), decimal(order.total, currency)])
    return out.getvalue().encode()


def read(data: bytes) -> Answer:
    """Raises Refused: line and reason, never what stood there."""
    lines = list(_lines(data))
    header = _cells(1, lines[0], "H") if lines else []
    if header[:3] != ["H", "ANSWER", "1"]:
        raise Refused(1, "the first line must be H,ANSWER,1,<account>,<currency>,<date>,<name>")
    account, currency, day, name = header[3], header[4], _date(1, header[5]), header[6]
    if currency not in CURRENCIES:
        raise Refused(1, "an ISO 4217 code of three letters")
    if not 1 <= len(name) <= 35:
        raise Refused(1, "the name of an answer has 1 to 35 characters")
    if len(lines) < 2:
        raise Refused(len(lines), "the file is cut: it has no last line T")
    if len(lines) - 2 > ENTRIES_MAX:
        raise Refused(ENTRIES_MAX + 2, f"at most {ENTRIES_MAX} payments")
    said = [_said(number, line, currency) for number, line in enumerate(lines[1:-1], 2)]
    _check(len(lines), lines[-1], said, currency)
    _once(said)
    return Answer("csv", account, currency, name, 1, day, False, said)


def _lines(data: bytes) -> Iterator[str]:
    for number, raw in enumerate(data.removesuffix(b"\n").split(b"\n"), 1):
        try:
            line = raw.removesuffix(b"\r").decode()
        except UnicodeDecodeError:
            raise Refused(number, "the file must be UTF-8") from None
        if len(line) > LINE_MAX:
            raise Refused(number, f"a line has at most {LINE_MAX} characters")
        if not line.isprintable():
            raise Refused(number, "a line holds printable characters only")
        yield line


def _cells(number: int, line: str, mark: str) -> list[str]:
    try:
        cells = csv_line.cells(line)
    except csv_line.QuoteError as wrong:
        raise Refused(number, f"column {wrong.column}: {csv_line.RULE}") from None
    if cells[:1] != [mark]:
        expected = "T, or the file is cut" if mark == "T" else mark
        raise Refused(number, f"this line must begin with {expected}")
    if len(cells) != COLUMNS[mark]:
        raise Refused(number, f"a line {mark} has {COLUMNS[mark]} columns")
    if any(cell.startswith(FORMULA) for cell in cells):
        raise Refused(number, "a text must not begin like a formula")
    return cells


def _said(number: int, line: str, currency: str) -> Said:
    cells = _cells(number, line, "A")
    if cells[1] != str(number - 1):
        raise Refused(number, "the payments must be numbered 1, 2, 3...")
    if cells[3] not in FACTS:
        raise Refused(number, f"one of {', '.join(FACTS)}")
    if cells[5] != currency:
        raise Refused(number, "the currency of a payment must be the header's")
    if not cells[2] or not cells[7]:
        raise Refused(number, "an end-to-end id and a bank reference are needed")
    if cells[3] != "confirmed" and not cells[8]:
        raise Refused(number, "the reason is missing")
    return Said(number, cells[3], cells[2], cells[3] == "returned", minor(number, cells[4], currency), currency, _date(number, cells[6]),
                cells[7][:140], cells[8][:200])


def _check(number: int, line: str, said: list[Said], currency: str) -> None:
    cells = _cells(number, line, "T")
    if cells[1] != str(len(said)):
        raise Refused(number, "the count of the last line is not that of the payments")
    if minor(number, cells[2], currency, zero=True) != sum(each.amount for each in said):
        raise Refused(number, "the total of the last line is not the sum of the payments")


def _once(said: list[Said]) -> None:
    seen: set[tuple[str | None, str]] = set()
    for each in said:
        if (each.fact, each.end_to_end_id) in seen:
            raise Refused(each.line, "this payment stands in the file twice")
        seen.add((each.fact, each.end_to_end_id))


def minor(line: int, text: str, currency: str, zero: bool = False) -> int:
    """The minor units of an amount; decimals beyond those of its currency must be zeros."""
    found, exponent = DECIMAL.fullmatch(text), CURRENCIES[currency][1]
    fraction = (found[2] or "").rstrip("0") if found else ""
    if found is None or len(fraction) > exponent:
        raise Refused(line, f"an amount such as {decimal(1050, currency)}, without a sign")
    amount = int(found[1] + fraction.ljust(exponent, "0"))
    if not amount and not zero:
        raise Refused(line, "an amount that is not zero")
    return amount


def _date(line: int, text: str) -> date:
    try:
        if len(text) == 10 and text.isascii():
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise Refused(line, "a date YYYY-MM-DD")
