"""Bytes to fields and back: compiled functions for what is well-formed, else pyiso8583 with the strictness it lacks.

A message is a dict from field number to text: "0" is the MTI, "2" to "128" the data elements, binary ones as upper-case hex.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, NoReturn

import iso8583

from messages.bitmaps import Compiled
from messages.compiled import Spec, Table
from messages.dialect import Dialect
from messages.fields import BITMAP, MTI, Check, check
from messages.masking import by_length

# Fields of an undecodable message that are shown. The rest is not, even masked: after a wrong length the digits of a card
# number slide into the fields behind it.
SHOWN_WHEN_BROKEN = frozenset({"0", "11", "39", "70"})


class EncodeError(ValueError):
    """Our own message breaks the dialect. The text names field and reason, never a value."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"field {field}: {reason}")
        self.field = field
        self.reason = reason


class DecodeError(ValueError):
    """Bytes that are no message of the dialect. `position` is the offset of the field's start, in bytes.

    `decoded` is what was read before the fault, safe to print: MTI, 11, 39 and 70 as they are, the rest by length.
    """

    def __init__(self, field: str, position: int, reason: str, decoded: Mapping[str, str]) -> None:
        super().__init__(f"field {field} at byte {position}: {reason}")
        self.field = field
        self.position = position
        self.reason = reason
        self.decoded = {
            number: value if number in SHOWN_WHEN_BROKEN and len(value) <= 6 else by_length(value) for number, value in decoded.items()
        }


def encode(dialect: Dialect, message: Mapping[str, str]) -> bytes:
    """The bytes of a message, without framing. Nothing is padded: fixed fields have their exact length. Raises EncodeError.

    Hex text may come in any case and leaves in upper case. The argument is not changed (pyiso8583 would).
    """
    return compiled(dialect).encode(message) or reference_encode(dialect, message)


def reference_encode(dialect: Dialect, message: Mapping[str, str]) -> bytes:
    """As `encode`, through pyiso8583."""
    plan = _plan(dialect)
    checks = plan.encode_checks
    number = "0"
    try:
        for number, value in message.items():
            if not checks[number](value):
                raise EncodeError(number, _content_reason(dialect, number))
        document = dict(message)
        document["t"] = document.pop("0")
    except KeyError:
        _refuse_field(message, number)
    except TypeError:
        raise EncodeError(str(number), "value is not text") from None
    for number in plan.hexadecimal:
        if number in document:
            document[number] = document[number].upper()
    return bytes(iso8583.encode(document, plan.spec)[0])


def decode(dialect: Dialect, data: bytes) -> dict[str, str]:
    """The fields of a message, "0" first, then ascending. Raises DecodeError, and nothing else, for any bytes that are not exactly one.

    Refused: content against the field's type, lengths that are not digits, unknown bits, a third bitmap, bitmaps not in upper-case
    hex, bytes left over. Accepted: hex text in lower case (folded to upper), empty variable fields, a second bitmap without bits.
    """
    return compiled(dialect).decode(data) or reference_decode(dialect, data)


def reference_decode(dialect: Dialect, data: bytes) -> dict[str, str]:
    """As `decode`, through pyiso8583."""
    plan = _plan(dialect)
    document, parts = _parse(plan.spec, data)
    checks, prefixed = plan.decode_checks, plan.prefixed
    for number, value in document.items():
        if not checks[number](value):
            _refuse(document, parts, number, _content_reason(dialect, number))
        if number in prefixed and not parts[number]["len"].isdigit():
            _refuse(document, parts, number, "length is not digits only")
    del document["p"]
    document.pop("1", None)
    message = {"0": document.pop("t"), **document}
    for number in plan.hexadecimal:
        if number in message:
            message[number] = message[number].upper()
    return message


def decode_with_spec(spec: Spec, data: bytes) -> dict[str, str]:
    """The fields of a message read by a pyiso8583 field table ("h" is the header, if it has one). Structure is checked as by decode,
    content is not, since such a table knows no types. For conformance vectors of hosts whose dialect is not ours. Raises DecodeError.
    """
    document, parts = _parse(spec, data)
    for number, part in parts.items():
        coding = spec[number]["len_enc"]
        if part["len"] and coding not in ("b", "bcd") and not part["len"].decode(coding).isdecimal():
            _refuse(document, parts, number, "length is not digits only")
    return {"0": document["t"], **{number: value for number, value in document.items() if number not in ("t", "p", "1")}}


class _Plan(NamedTuple):
    """A dialect prepared for pyiso8583, with the compiled check of each key of its documents ("t" MTI, "p" and "1" bitmaps)."""

    spec: Spec
    encode_checks: Mapping[str, Check]
    decode_checks: Mapping[str, Check]
    prefixed: frozenset[str]
    hexadecimal: tuple[str, ...]


@cache
def compiled(dialect: Dialect) -> Compiled:
    """The compiled functions of a dialect, made as they are needed."""
    return Compiled(Table(_plan(dialect).spec, {field.number: field.type for field in dialect.fields.values()}), _named(dialect))


def _named(dialect: Dialect) -> list[frozenset[str]]:
    """The sets of fields that the message table names: requests, the answers that must be, and network messages."""
    matched, network = frozenset(dialect.match["*"]) | {*dialect.agree, "39"}, frozenset(dialect.match.get("8", ())) | {"70"}
    answers = [matched, matched | {"38"}, network, network | {"39"}]
    return [*answers, *(frozenset((*dialect.request_fields, *rule.fixed, *rule.required)) for rule in dialect.messages.values())]


@cache
def _plan(dialect: Dialect) -> _Plan:
    fields = dialect.fields.values()
    content = {field.number: check(field.type, field.length, field.prefix) for field in fields}
    spec = {field.number: _text(field.length, field.prefix) for field in fields}
    return _Plan(
        spec={**spec, "h": _text(0, 0), "t": _text(4, 0), "p": _text(16, 0), "1": _text(16, 0)},
        encode_checks={**content, "0": MTI},
        # bit 65 makes "1" twice as long, with the third bitmap that 1987 does not have: refused by its length
        decode_checks={**content, "t": MTI, "p": BITMAP, "1": BITMAP},
        prefixed=frozenset(field.number for field in fields if field.prefix),
        hexadecimal=tuple(field.number for field in fields if field.type == "b"),
    )


def _text(length: int, prefix: int) -> dict[str, Any]:
    return {"data_enc": "ascii", "len_enc": "ascii", "len_type": prefix, "max_len": length, "desc": ""}


def _parse(spec: Spec, data: bytes) -> tuple[dict[str, str], dict[str, dict[str, bytes]]]:
    fault: DecodeError
    try:
        return iso8583.decode(data, spec)
    except iso8583.DecodeError as error:
        fault = DecodeError(_ours(error.field), error.pos, error.msg, _renamed(error.doc_dec))
    except KeyError as error:  # a bit whose field the table does not have
        fault = DecodeError(str(error.args[0]), 0, "not a field of this dialect", {})
    # Raised out here so that pyiso8583's error, which holds the whole message in clear, does not hang on ours as its context.
    raise fault


def _refuse(document: dict[str, str], parts: dict[str, dict[str, bytes]], number: str, reason: str) -> NoReturn:
    position = 0
    decoded = {}
    for before, part in parts.items():
        if before == number:
            break
        position += len(part["len"]) + len(part["data"])
        decoded[before] = document[before]
    raise DecodeError(_ours(number), position, reason, _renamed(decoded))


def _refuse_field(message: Mapping[str, str], number: str) -> NoReturn:
    raise EncodeError("0", "missing") if "0" not in message else EncodeError(str(number), "not a field of this dialect")


def _ours(number: str) -> str:
    """pyiso8583's key as a field number: the bitmaps are where fields 0 (the MTI) and 1 are."""
    return {"t": "0", "p": "1"}.get(number, number)


def _renamed(document: Mapping[str, str]) -> dict[str, str]:
    return {_ours(number): value for number, value in document.items() if number not in ("p", "1")}


def _content_reason(dialect: Dialect, number: str) -> str:
    field = dialect.fields.get(number)
    if field is None:
        return "not four digits" if number in ("0", "t") else "not a bitmap of 16 upper-case hex characters for fields 1 to 128"
    return f"not {'at most' if field.prefix else 'exactly'} {field.length} characters of type {field.type}"
