"""Parts of one field: by position, records, TLV, an inner bitmap. Pure, total over hostile values: text in, parts out, or a refusal by name."""

from collections.abc import Mapping
from typing import NamedTuple

from messages.fields import check
from messages.tlv import TlvError, parse

ENTRIES_MAX = 99


class SubfieldError(ValueError):
    """The value is not made as the layout says. `part` is like 60.3; the text shows no value."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"sub-field {part}: {reason}")
        self.part, self.reason = part, reason


class Part(NamedTuple):
    name: str
    type: str
    length: int


class Positional(NamedTuple):
    parts: tuple[Part, ...]


class Records(NamedTuple):
    digits: int
    parts: tuple[Part, ...]


class Tlv(NamedTuple):
    tag: int
    length: int


class Ber(NamedTuple):
    pass


class InnerPart(NamedTuple):
    name: str
    code: str  # bcd, binary or a text code
    bytes: int


class Bitmapped(NamedTuple):
    bytes: int
    parts: Mapping[int, InnerPart]


class ByMti(NamedTuple):
    layouts: Mapping[str, "Layout"]


Layout = Positional | Records | Tlv | Ber | Bitmapped | ByMti


class Found(NamedTuple):
    """One part: its path (60.1, 59.A3, 48.2.1), its name, its value."""

    path: str
    name: str
    value: str


def layout(literal: tuple[object, ...]) -> Layout:
    """A layout from its literal. Raises TypeError, ValueError or KeyError."""
    match literal:
        case ("positional", tuple(parts)):
            return Positional(_parts(parts))
        case ("records", int(digits), tuple(parts)) if 1 <= digits <= 2:
            return Records(digits, _parts(parts))
        case ("tlv", int(tag), int(length)) if tag > 0 and 1 <= length <= 4:
            return Tlv(tag, length)
        case ("ber",):
            return Ber()
        case ("bitmapped", int(size), dict(inner)) if size > 0:
            return Bitmapped(size, {bit: InnerPart(*part) for bit, part in inner.items()})
        case ("by_mti", dict(layouts)):
            return ByMti({start: layout(inner) for start, inner in layouts.items()})
    raise ValueError("not a layout")


def _parts(literal: tuple[object, ...]) -> tuple[Part, ...]:
    parts = tuple(Part(*part) for part in literal if isinstance(part, tuple))
    if len(parts) != len(literal) or not parts:
        raise ValueError("a part is (name, type, length)")
    for part in parts:
        check(part.type, part.length, 0)
    return parts


def split(number: str, how: Layout, value: str, mti: str) -> list[Found]:
    """The parts of a field's value, in order. Raises SubfieldError."""
    match how:
        case Positional(parts):
            return _positional(number, parts, value)
        case Records(digits, parts):
            return _records(number, digits, parts, value)
        case Tlv(tag, length):
            return _tlv(number, tag, length, value)
        case Bitmapped(size, inner):
            return _bitmapped(number, size, inner, value)
        case ByMti(layouts):
            found = next((inner for start, inner in layouts.items() if mti.startswith(start)), None)
            return split(number, found, value, mti) if found is not None else []
    try:
        return [Found(f"{number}.{tag}", "", data) for tag, data in parse(value)]
    except TlvError as error:
        raise SubfieldError(number, str(error)) from None


def _positional(number: str, parts: tuple[Part, ...], value: str) -> list[Found]:
    found: list[Found] = []
    at = 0
    for index, part in enumerate(parts, 1):
        if at == len(value):
            return found
        text, path = value[at:at + part.length], f"{number}.{index}"
        if not check(part.type, part.length, 0)(text):
            raise SubfieldError(path, f"not {part.length} characters of type {part.type}")
        found.append(Found(path, part.name, text))
        at += part.length
    if at != len(value):
        raise SubfieldError(number, f"{len(value) - at} characters after the last part")
    return found


def _records(number: str, digits: int, parts: tuple[Part, ...], value: str) -> list[Found]:
    count, size, rest = value[:digits], sum(part.length for part in parts), value[digits:]
    if len(count) != digits or not (count.isascii() and count.isdigit()):
        raise SubfieldError(number, "no count of records")
    if len(rest) != int(count) * size:
        raise SubfieldError(number, f"not {int(count)} records of {size} characters")
    found: list[Found] = []
    for index in range(int(count)):
        found += _positional(f"{number}.{index + 1}", parts, rest[index * size:(index + 1) * size])
    return found


def _tlv(number: str, tag: int, length: int, value: str) -> list[Found]:
    found: list[Found] = []
    at = 0
    while at < len(value):
        name, digits = value[at:at + tag], value[at + tag:at + tag + length]
        start = at + tag + length
        if len(digits) != length or not (digits.isascii() and digits.isdigit()):
            raise SubfieldError(number, "a length is cut or not digits")
        at = start + int(digits)
        if at > len(value):
            raise SubfieldError(number, "a value runs past the end")
        if len(found) == ENTRIES_MAX:
            raise SubfieldError(number, f"more than {ENTRIES_MAX} values")
        found.append(Found(f"{number}.{name if name.isalnum() else '?'}", "", value[start:at]))
    return found


def _bitmapped(number: str, size: int, inner: Mapping[int, InnerPart], value: str) -> list[Found]:
    try:
        data = bytes.fromhex(value)
    except ValueError:
        raise SubfieldError(number, "not hexadecimal") from None
    if len(data) < size:
        raise SubfieldError(number, "inner bitmap is cut")
    bits, at, found = int.from_bytes(data[:size], "big"), size, []
    for bit in (bit for bit in range(1, size * 8 + 1) if bits >> (size * 8 - bit) & 1):
        path, part = f"{number}.{bit}", inner.get(bit)
        if part is None:
            raise SubfieldError(path, "not a part of this field")
        piece = data[at:at + part.bytes]
        if len(piece) != part.bytes:
            raise SubfieldError(path, "cut")
        found.append(Found(path, part.name, _inner_text(path, part, piece)))
        at += part.bytes
    if at != len(data):
        raise SubfieldError(number, f"{len(data) - at} bytes after the last part")
    return found


def _inner_text(path: str, part: InnerPart, piece: bytes) -> str:
    text = piece.hex().upper() if part.code in ("bcd", "binary") else piece.decode(part.code, "replace")
    if part.code == "bcd" and not text.isdigit():
        raise SubfieldError(path, "not digits")
    return text


def joined(number: str, how: Layout, parts: Mapping[str, str], mti: str) -> str:
    """The value of a field from its parts by path, the inverse of `split`. Raises SubfieldError."""
    match how:
        case Positional(named):
            paths = [f"{number}.{index}" for index in range(1, len(named) + 1)]
            value = "".join(parts[path] for path in paths if path in parts)
        case Records(digits, named):
            indexes = sorted({int(path.split(".")[1]) for path in parts})
            paths = [f"{number}.{index}.{at}" for index in indexes for at in range(1, len(named) + 1)]
            value = f"{len(indexes):0{digits}d}" + "".join(parts.get(path, "") for path in paths)
        case Tlv(_, length):
            value = "".join(f"{path.partition('.')[2]}{len(text):0{length}d}{text}" for path, text in parts.items())
        case Bitmapped(size, inner):
            bits = sorted(int(path.partition(".")[2]) for path in parts)
            value = f"{sum(1 << (size * 8 - bit) for bit in bits):0{size * 2}X}" + "".join(
                text if inner[bit].code in ("bcd", "binary") else text.encode(inner[bit].code).hex().upper()
                for bit in bits for text in (parts[f"{number}.{bit}"],) if bit in inner)
        case ByMti(layouts):
            return next((joined(number, inner, parts, mti) for start, inner in layouts.items() if mti.startswith(start)), "")
        case _:
            value = "".join(f"{path.partition('.')[2]}{_ber_length(len(text) // 2)}{text}" for path, text in parts.items())
    if {found.path: found.value for found in split(number, how, value, mti)} != dict(parts):
        raise SubfieldError(number, "parts do not fit the layout")
    return value


def _ber_length(size: int) -> str:
    return f"{size:02X}" if size < 0x80 else f"81{size:02X}" if size < 0x100 else f"82{size:04X}"
