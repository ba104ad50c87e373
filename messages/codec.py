"""Bytes to fields and back: compiled functions for what is well-formed, else pyiso8583 with the strictness it lacks.

A message is a dict from field number to text: "0" is the MTI, "2" to "128" the data elements, binary ones as upper-case hex.
"""

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple, NoReturn

import iso8583

from messages.bitmaps import Compiled
from messages.compiled import Spec, Table
from messages.dialect import Dialect
from messages.fields import BITMAP, MTI, Check, check
from messages.grammar import TEXT_CODES, Field
from messages.headers import HeaderError, joined, reject_code, size
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
    """Bytes that are no message of the dialect. `position`, in bytes of the frame: where the field starts; where its data start, when they are cut;
    the bitmap with a bit that no field has; what is left over.

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

    def at(self, position: int) -> "DecodeError":
        """The same with its place counted from the beginning of the frame."""
        moved = DecodeError(self.field, position, self.reason, {})
        moved.decoded = self.decoded
        return moved


class Rejected(DecodeError):
    """The host sent a message of ours back, unprocessed, under a reject header; `code` is its reason, `message` what it sent back."""

    def __init__(self, code: str, message: Mapping[str, str]) -> None:
        super().__init__("h", 0, f"rejected with code {code}", {})
        self.code, self.message = code, message


def encode(dialect: Dialect, message: Mapping[str, str]) -> bytes:
    """The bytes of a message, without framing. Nothing is padded: fixed fields have their exact length. Raises EncodeError.

    Hex text may come in any case and leaves in upper case. The argument is not changed (pyiso8583 would). "h" is the header in hex, where
    the dialect has one; without it, its default is sent.
    """
    if dialect.header is None and not dialect.fixed_bitmap:
        return compiled(dialect).encode(message) or reference_encode(dialect, message)
    rest = message
    if dialect.header is not None and "h" in message:
        rest = {number: value for number, value in message.items() if number != "h"}
    body = compiled(dialect).encode(rest) or reference_encode(dialect, rest)
    if dialect.fixed_bitmap:
        body = _fixed(dialect, body)
    try:
        return joined(dialect.header, message.get("h"), body) if dialect.header is not None else body
    except HeaderError as error:
        raise EncodeError("h", str(error)) from None


def _fixed(dialect: Dialect, body: bytes) -> bytes:
    """Both bitmaps, bit 1 clear."""
    start, end = _bitmap_at(dialect)
    width, text = end - start, dialect.coding.bitmap == "text"
    bits = int(body[start:end].decode(dialect.coding.text) if text else body[start:end].hex(), 16)
    both = bits >> (width * (4 if text else 8) - 1)
    second = b"" if both else f"{0:016d}".encode(dialect.coding.text) if text else bytes(8)
    first = f"{bits & (1 << 63) - 1:016X}"
    return body[:start] + (first.encode(dialect.coding.text) if text else bytes.fromhex(first)) + second + body[end:]


def _standard(dialect: Dialect, body: bytes) -> bytes:
    """The inverse of `_fixed`; what is no bitmap is left for the decoder to refuse."""
    start, end = _bitmap_at(dialect)
    text, first, second = dialect.coding.bitmap == "text", body[start:end], body[end:2 * end - start]
    try:
        bits = int(first.decode(dialect.coding.text) if text else first.hex(), 16)
    except ValueError:
        return body
    more = -1
    with suppress(ValueError):
        more = int(second.decode(dialect.coding.text) if text else second.hex(), 16)
    if bits >> 63 or len(second) != end - start or more < 0:
        raise DecodeError("1", start, "bit 1 is set, or the second bitmap is cut or none, in a dialect of two fixed bitmaps", {})
    if not more:
        return body[:end] + body[2 * end - start:]
    marked = f"{bits | 1 << 63:016X}"
    return body[:start] + (marked.encode(dialect.coding.text) if text else bytes.fromhex(marked)) + body[end:]


def _bitmap_at(dialect: Dialect) -> tuple[int, int]:
    start = 2 if dialect.coding.mti == "bcd" else 4
    return start, start + (8 if dialect.coding.bitmap == "binary" else 16)


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
    for number in plan.separated:
        if number in document:
            document[number] = document[number].replace("=", "D")
    for number in plan.signed:
        if number in document:
            document[number] = document[number][:1].encode(dialect.coding.text).hex() + document[number][1:]
    try:
        return bytes(iso8583.encode(document, plan.spec)[0])
    except iso8583.EncodeError as error:
        fault = EncodeError(_ours(error.field), error.msg)
    raise fault  # out here, so that the whole message does not hang on it


def decode(dialect: Dialect, data: bytes) -> dict[str, str]:
    """The fields of a message, "0" first, then ascending. Raises DecodeError, and nothing else, for any bytes that are not exactly one.

    Refused: content against the field's type, lengths that are not digits, unknown bits, a third bitmap, bitmaps not in upper-case
    hex, bytes left over. Accepted: hex text in lower case (folded to upper), empty variable fields, a second bitmap without bits.
    Where the dialect has a header it is "h", in hex. A reject header raises Rejected.
    """
    if dialect.header is None and not dialect.fixed_bitmap:
        return compiled(dialect).decode(data) or reference_decode(dialect, data)
    start, header = 0, dialect.header
    if header is not None:
        try:
            start = size(header, data)
        except HeaderError as error:
            fault: DecodeError = DecodeError("h", 0, str(error), {})
        else:
            fault = _reject(dialect, data[start:], code) if (code := reject_code(header, data)) is not None else _NO_FAULT
        if fault is not _NO_FAULT:
            raise fault
    body = data[start:]
    try:
        body = _standard(dialect, body) if dialect.fixed_bitmap else body
        message = compiled(dialect).decode(body) or reference_decode(dialect, body)
    except DecodeError as error:
        left_out = len(data) - start - len(body)  # an empty second bitmap
        position = error.position + start + (left_out if error.position >= _bitmap_at(dialect)[1] else 0)
        raise error.at(position) from None
    if header is not None:
        message["h"] = data[:start].hex().upper()
    return message


_NO_FAULT = DecodeError("", 0, "", {})


def _reject(dialect: Dialect, rest: bytes, code: str) -> DecodeError:
    """What a reject header says of the message behind it."""
    assert dialect.header is not None
    try:
        original = size(dialect.header, rest) if dialect.header.kind == "vip" else 0
        return Rejected(code, compiled(dialect).decode(rest[original:]) or reference_decode(dialect, rest[original:]))
    except (HeaderError, DecodeError):
        return Rejected(code, {})


def reference_decode(dialect: Dialect, data: bytes) -> dict[str, str]:
    """As `decode`, through pyiso8583."""
    plan = _plan(dialect)
    _refuse_bits(dialect, data)
    document, parts = _parse(plan.spec, data)
    for number in plan.signed:
        if number in document:
            document[number] = bytes.fromhex(document[number][:2]).decode(dialect.coding.text, "replace") + document[number][2:]
    checks, prefixed = plan.decode_checks, plan.prefixed
    for number, value in document.items():
        if not checks[number](value):
            _refuse(document, parts, number, _content_reason(dialect, number))
        if number in prefixed and not parts[number]["len"].decode(prefixed[number]).isdecimal():
            _refuse(document, parts, number, "length is not digits only")
    del document["p"]
    document.pop("1", None)
    message = {"0": document.pop("t"), **document}
    for number in plan.hexadecimal:
        if number in message:
            message[number] = message[number].upper()
    return message


def _refuse_bits(dialect: Dialect, data: bytes) -> None:
    """Bits whose field the dialect does not have: nothing behind them can be read, so the place is their bitmap's. What is no bitmap is left
    to the reference."""
    start, end = _bitmap_at(dialect)
    for at, before in ((start, 0), (end, 64)):
        piece = data[at:at + end - start]
        text = piece.decode(dialect.coding.text, "replace") if dialect.coding.bitmap == "text" else piece.hex().upper()
        if not BITMAP(text):
            return
        numbers = [before + bit for bit in range(1, 65) if int(text, 16) >> 64 - bit & 1]
        for number in numbers:
            if number == 65:
                raise DecodeError("1", at, "bit 65 announces a third bitmap, which no dialect here has", {})
            if number > 1 and str(number) not in dialect.fields:
                raise DecodeError(str(number), at, "its bit is set, and it is not a field of this dialect", {})
        if 1 not in numbers:
            return


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
    prefixed: Mapping[str, str]  # fields whose length is text -> its code
    hexadecimal: tuple[str, ...]
    separated: tuple[str, ...]  # tracks in BCD, where '=' is D
    signed: tuple[str, ...]  # a sign in text, then BCD


@cache
def compiled(dialect: Dialect) -> Compiled:
    """The compiled functions of a dialect, made as they are needed."""
    types = {field.number: "" if field.type == "ansb" else field.type for field in dialect.fields.values()}  # any character: nothing to check
    return Compiled(Table(_plan(dialect).spec, types), _named(dialect))


def _named(dialect: Dialect) -> list[frozenset[str]]:
    """The sets of fields that the message table names: requests, the answers that must be, and network messages."""
    matched, network = frozenset(dialect.match["*"]) | {*dialect.agree, "39"}, frozenset(dialect.network_rule.composed)
    matched = frozenset(number.partition(".")[0] for number in matched)
    answers = [matched, matched | {"38"}, network, network | {"39"}]
    return [*answers, *(frozenset((*dialect.request_fields, *rule.fixed, *rule.required)) for rule in dialect.messages.values())]


@cache
def _plan(dialect: Dialect) -> _Plan:
    fields = dialect.fields.values()
    coding = dialect.coding
    content = {field.number: check(field.type, field.length, field.prefix) for field in fields}
    bitmap = _text(16, coding.text) if coding.bitmap == "text" else _binary(8)
    return _Plan(
        spec={
            **{field.number: _form(field) for field in fields},
            "h": _binary(0), "t": _text(4, coding.text) if coding.mti == "text" else _binary(2), "p": bitmap, "1": bitmap,
        },
        encode_checks={**content, "0": MTI},
        # bit 65 makes "1" twice as long, with the third bitmap that no dialect here has: refused by its length
        decode_checks={**content, "t": MTI, "p": BITMAP, "1": BITMAP},
        prefixed={field.number: field.length_code for field in fields if field.prefix and field.length_code in TEXT_CODES},
        hexadecimal=tuple(field.number for field in fields if field.type == "b"),
        separated=tuple(field.number for field in fields if field.type == "z" and field.code == "bcd"),
        signed=tuple(field.number for field in fields if field.type == "x+n" and field.code == "bcd"),
    )


def _form(field: Field) -> dict[str, Any]:
    """A field as pyiso8583 wants it."""
    side, digit = field.pad.split()
    lengths = {"len_enc": {"binary": "b"}.get(field.length_code, field.length_code), "len_type": field.width(), "max_len": field.units(), "desc": ""}
    if field.code == "bcd" and field.type == "x+n":
        return {"data_enc": "b", **lengths, "max_len": 1 + field.length // 2}
    if field.code == "bcd":
        return {"data_enc": "b", "len_count": "nibbles", f"{side}_pad": digit, **lengths}
    return {"data_enc": "b" if field.code == "binary" else field.code, **lengths}


def _text(length: int, code: str) -> dict[str, Any]:
    return {"data_enc": code, "len_enc": "ascii", "len_type": 0, "max_len": length, "desc": ""}


def _binary(length: int) -> dict[str, Any]:
    return {"data_enc": "b", "len_enc": "ascii", "len_type": 0, "max_len": length, "desc": ""}


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
