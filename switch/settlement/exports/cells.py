"""Cells of exports: what a person's table program shows is what we mean, and nothing in it runs. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from types import MappingProxyType
from typing import Any, Literal
from unicodedata import category
from zoneinfo import ZoneInfo

from switch.money import CURRENCIES

BOM = "\ufeff"
# What makes a table program take a text for a formula, the wide forms that some read alike among them; after anything that shows nothing.
FORMULA = frozenset("=+-@|%\u2212\uff1d\uff0b\uff0d\uff20\ufe62\ufe63\ufe66\ufe6b\uff5c\uff05")
UNSEEN = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})  # categories of Unicode: controls, formats, spaces
LEADING = ("\t", "\r", "\n")


def decimal(amount: int, currency: str) -> str:
    """The amount in units of its currency, as exact text: `-1050, "CNY"` -> `-10.50`. No float is made of it."""
    exponent = CURRENCIES[currency][1]
    digits = str(abs(amount)).rjust(exponent + 1, "0")
    whole = digits[: len(digits) - exponent]
    return f"{'-' if amount < 0 else ''}{whole}{f'.{digits[len(whole):]}' if exponent else ''}"


def harmless(text: str) -> str:
    """A text that begins like a formula gets an apostrophe in front, which table programs take for "this is text"."""
    first = next((each for each in text if category(each) not in UNSEEN), "")
    return f"'{text}" if text.startswith(LEADING) or first in FORMULA else text


def quoted(cell: str) -> str:
    """One cell of a CSV line (RFC 4180)."""
    return '"' + cell.replace('"', '""') + '"' if re.search(r'[",\r\n\t\']|^\s|\s$', cell) else cell


def line(cells: Iterable[str]) -> str:
    return ",".join(map(quoted, cells)) + "\r\n"


def local(at: datetime, zone: ZoneInfo) -> str:
    """The wall clock of a zone with its offset, so that the hour that comes twice is told apart."""
    return at.astimezone(zone).isoformat(timespec="seconds")


@dataclass(frozen=True, slots=True)
class Column:
    """`amount`: minor units, followed by the same as decimal text. Times are told in the zone that the header names."""

    name: str
    kind: Literal["text", "number", "amount", "time", "date"] = "text"


Values = Mapping[str, Any]


def header(columns: Sequence[Column], zone: ZoneInfo) -> list[str]:
    found: list[str] = []
    for column in columns:
        match column.kind:
            case "amount":
                found += [column.name, f"{column.name}_decimal"]
            case "time":
                found.append(f"{column.name} ({zone.key})")
            case _:
                found.append(column.name)
    return found


def cells(columns: Sequence[Column], values: Values, zone: ZoneInfo) -> list[str]:
    """A row as texts. Only texts of others are made harmless: a negative amount begins with a minus and is a number."""
    found: list[str] = []
    for column in columns:
        value = values[column.name]
        match column.kind:
            case "amount":
                found += ["", ""] if value is None else [str(int(value)), decimal(int(value), values["currency"])]
            case "number":
                found.append("" if value is None else str(int(value)))
            case "time":
                found.append("" if value is None else local(value, zone))
            case "date":
                found.append("" if value is None else date.isoformat(value))
            case _:
                found.append("" if value is None else harmless(str(value)))
    return found


def plain(columns: Sequence[Column], values: Values, zone: ZoneInfo) -> dict[str, Any]:
    """A row for JSON: nothing is made harmless, since nothing runs there."""
    found: dict[str, Any] = {}
    for column in columns:
        value = values[column.name]
        if column.kind == "amount":
            found[column.name] = None if value is None else int(value)
            found[f"{column.name}_decimal"] = None if value is None else decimal(int(value), values["currency"])
        elif column.kind == "time":
            found[column.name] = None if value is None else local(value, zone)
        else:
            found[column.name] = value.isoformat() if isinstance(value, date) else value
    return found


MEDIA: Mapping[str, str] = MappingProxyType({
    "csv": "text/csv; charset=utf-8; header=present", "json": "application/json",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "pdf": "application/pdf", "html": "text/html; charset=utf-8",
})
