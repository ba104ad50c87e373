"""Merchant-presented QR codes (EMVCo QR Code Specification for Payment Systems, Merchant-Presented Mode 1.1). Pure: values to text and back.

A payload is data objects of two digits of tag, two digits of length (characters) and value; the last one is a CRC over everything before its own
value. Templates (26 to 51 for accounts, 62 for additional data, 64 for another language) hold data objects themselves.
"""

from binascii import crc_hqx
from collections.abc import Mapping
from typing import NamedTuple

PAYLOAD_MAX = 512
VALUE_MAX = 99
STATIC, DYNAMIC = "11", "12"
FORMAT, METHOD, MCC, CURRENCY, AMOUNT, COUNTRY = "00", "01", "52", "53", "54", "58"
NAME, CITY, ADDITIONAL, CRC, LANGUAGE = "59", "60", "62", "63", "64"
ACCOUNTS = tuple(f"{tag:02d}" for tag in range(26, 52))  # templates; 02 to 25 belong to schemes by name
TEMPLATES = frozenset({*ACCOUNTS, ADDITIONAL, LANGUAGE, *(f"{tag:02d}" for tag in range(80, 100))})
REQUIRED = (FORMAT, MCC, CURRENCY, COUNTRY, NAME, CITY, CRC)
BILL, STORE, REFERENCE, TERMINAL = "01", "03", "05", "07"  # within ADDITIONAL
NAME_MAX, CITY_MAX, ADDITIONAL_MAX, AMOUNT_DIGITS_MAX = 25, 15, 25, 13

Objects = Mapping[str, "str | Mapping[str, str]"]


class QrError(ValueError):
    """Not a payload, or a value that one cannot hold; the text names the tag."""


class Merchant(NamedTuple):
    name: str
    city: str
    country: str  # ISO 3166-1 alpha-2
    mcc: str  # ISO 18245
    language: str = "ZH"  # of name and city where they are not ASCII (ISO 639)


class Account(NamedTuple):
    """Where the money goes: a globally unique identifier (tag 26-51, sub-tag 00) and the numbers that its owner gave, by sub-tag."""

    guid: str
    numbers: Mapping[str, str]


def payload(merchant: Merchant, account: Account, currency: str, amount: str | None = None, additional: Mapping[str, str] = {}) -> str:
    """The text of a code. `currency`: ISO 4217 number; `amount` in the form of the code, such as 12.50: with one it is dynamic, for one sale.

    Raises QrError.
    """
    objects: dict[str, str | Mapping[str, str]] = {
        FORMAT: "01", METHOD: STATIC if amount is None else DYNAMIC, "26": {"00": account.guid, **account.numbers}, MCC: merchant.mcc,
        CURRENCY: currency, **({AMOUNT: amount} if amount is not None else {}), COUNTRY: merchant.country, NAME: _cut(merchant.name, NAME_MAX),
        CITY: _cut(merchant.city, CITY_MAX), **({ADDITIONAL: additional} if additional else {}),
    }
    if not (merchant.name + merchant.city).isascii():
        objects[LANGUAGE] = {"00": merchant.language, "01": merchant.name[:NAME_MAX], **({"02": merchant.city[:CITY_MAX]} if merchant.city else {})}
    if amount is not None and not _amount(amount):
        raise QrError("54: not an amount")
    for tag, value in additional.items():
        if not 1 <= len(value) <= ADDITIONAL_MAX:
            raise QrError(f"62.{tag}: 1 to {ADDITIONAL_MAX} characters")
    text = "".join(_object(tag, value) for tag, value in objects.items()) + f"{CRC}04"
    if len(text) + 4 > PAYLOAD_MAX:
        raise QrError(f"more than {PAYLOAD_MAX} characters")
    return text + crc(text)


def _cut(text: str, longest: int) -> str:
    kept = "".join(character for character in text if " " <= character <= "~")[:longest].strip()
    return kept or "-"


def _object(tag: str, value: str | Mapping[str, str], inner: bool = False) -> str:
    """`inner`: of the template for another language, the only one that is not ASCII."""
    text = value if isinstance(value, str) else "".join(_object(part, held, tag == LANGUAGE) for part, held in value.items())
    if not (len(tag) == 2 and tag.isascii() and tag.isdigit()):
        raise QrError("a tag is two digits")
    if not 1 <= len(text) <= VALUE_MAX or not text.isprintable() or not (text.isascii() or tag == LANGUAGE or inner):
        raise QrError(f"{tag}: 1 to {VALUE_MAX} printable ASCII characters")
    return f"{tag}{len(text):02d}{text}"


def _amount(text: str) -> bool:
    """Digits with at most one decimal point, at most 13 characters, more than nothing."""
    whole, point, rest = text.partition(".")
    digits = whole + rest
    return len(text) <= AMOUNT_DIGITS_MAX and digits.isascii() and digits.isdigit() and bool(whole) and (not point or bool(rest)) and int(digits) > 0


def crc(text: str) -> str:
    """CRC-16/CCITT-FALSE (ISO/IEC 13239, polynomial 1021, initial FFFF) over the text with the tag and length of the CRC itself, in hex."""
    return f"{crc_hqx(text.encode(), 0xFFFF):04X}"


def parse(text: str) -> dict[str, str | dict[str, str]]:
    """The data objects of a payload, those of templates apart. Raises QrError: malformed, a tag twice, incomplete, or a wrong CRC."""
    if not 12 <= len(text) <= PAYLOAD_MAX:
        raise QrError(f"12 to {PAYLOAD_MAX} characters")
    found = _objects(text, "")
    if next(iter(found)) != FORMAT or found[FORMAT] != "01":
        raise QrError("00: does not begin the payload, or is not 01")
    for tag in REQUIRED:
        if tag not in found:
            raise QrError(f"{tag}: missing")
    if list(found)[-1] != CRC or not text[-8:].startswith(f"{CRC}04"):
        raise QrError("63: not at the end")
    if crc(text[:-4]) != text[-4:].upper():
        raise QrError("63: wrong")
    if AMOUNT in found and not _amount(found[AMOUNT]):
        raise QrError("54: not an amount")
    return {tag: _objects(value, f"{tag}.") if tag in TEMPLATES else value for tag, value in found.items()}


def _objects(text: str, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        tag, length = text[at:at + 2], text[at + 2:at + 4]
        if not (len(tag) == len(length) == 2 and (tag + length).isascii() and (tag + length).isdigit() and int(length)):
            raise QrError(f"{where or 'at '}{at}: not a data object")
        value = text[at + 4:at + 4 + int(length)]
        if len(value) != int(length):
            raise QrError(f"{where}{tag}: cut off")
        if tag in found:
            raise QrError(f"{where}{tag}: there twice")
        found[tag] = value
        at += 4 + int(length)
    return found
