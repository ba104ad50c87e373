"""Parts of one field: by position, records, TLV, an inner bitmap. Pure, total over hostile values: text in, parts out, or a refusal by name."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from messages.fields import CONTENT, check
from messages.tlv import TlvError, parse

ENTRIES_MAX = 99
PREFIX_MAX = 3
TEXTS = ("ascii", "latin-1", "cp500", "cp037")
INNER_CODES = ("bcd", "binary", *TEXTS)


class SubfieldError(ValueError):
    """The value is not made as the layout says. `part` is like 60.3; the text shows no value."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"sub-field {part}: {reason}")
        self.part, self.reason = part, reason


class Part(NamedTuple):
    name: str
    type: str
    length: int
    prefix: int = 0  # digits of a length of its own; 0: fixed


class Positional(NamedTuple):
    parts: tuple[Part, ...]


class Records(NamedTuple):
    digits: int
    parts: tuple[Part, ...]


class Tlv(NamedTuple):
    tag: int
    length: int
    head: int = 0  # characters before the first tag: part 0


class Ber(NamedTuple):
    pass


class InnerPart(NamedTuple):
    name: str
    code: str  # bcd, binary or a text code
    bytes: int
    prefix: int = 0  # digits of a length of its own, in a text code; 0: fixed


class Bitmapped(NamedTuple):
    bytes: int
    parts: Mapping[int, InnerPart]


class ByMti(NamedTuple):
    layouts: Mapping[str, "Layout"]


class ByLength(NamedTuple):
    layouts: Mapping[int, "Layout"]
    other: "Layout"


Layout = Positional | Records | Tlv | Ber | Bitmapped | ByMti | ByLength


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
        case ("records", int(digits), tuple(parts)) if 0 <= digits <= 2:
            return Records(digits, _parts(parts))
        case ("tlv", int(tag), int(length), *head) if tag > 0 and 1 <= length <= 4 and (not head or tag > 1):
            return Tlv(tag, length, *_sizes(head))
        case ("ber",):
            return Ber()
        case ("bitmapped", int(size), dict(inner)) if size > 0:
            return Bitmapped(size, {bit: _inner_part(bit, size, *part) for bit, part in inner.items()})
        case ("by_mti", dict(layouts)):
            return ByMti({start: layout(inner) for start, inner in layouts.items()})
        case ("by_length", dict(layouts), tuple(other)):
            return ByLength({int(size): layout(inner) for size, inner in layouts.items()}, layout(other))
    raise ValueError(f"{str(literal)[:60]} is no layout: positional, records, tlv, ber, bitmapped, by_mti or by_length, with what belongs to it")


def _sizes(given: Sequence[object]) -> list[int]:
    sizes = [each for each in given if isinstance(each, int) and 0 < each < 1000]
    if len(sizes) != len(given) or len(given) > 1:
        raise ValueError("tlv: a tag's characters, a length's digits, characters before the first tag")
    return sizes


def _inner_part(bit: int, size: int, name: str, code: str, length: int, prefix: int = 0) -> InnerPart:
    if not 1 <= bit <= size * 8 or code not in INNER_CODES or length < 1 or not 0 <= prefix <= PREFIX_MAX or (prefix and code not in TEXTS):
        raise ValueError(f"part {bit}: bits go from 1 to {size * 8}, codes are {', '.join(INNER_CODES)}, and only a text has a length of its own")
    return InnerPart(name, code, length, prefix)


def _parts(literal: tuple[object, ...]) -> tuple[Part, ...]:
    parts = tuple(Part(*part) for part in literal if isinstance(part, tuple))
    if len(parts) != len(literal) or not parts:
        raise ValueError("a part is (name, type, length) or (name, type, most, digits of its length)")
    for part in parts:
        if part.type not in CONTENT or part.length < 1 or not 0 <= part.prefix <= PREFIX_MAX:
            raise ValueError(f"part {part.name}: type {part.type!r} is none of {', '.join(CONTENT)}, or length {part.length!r} is none")
    return parts


def places(number: str, how: Layout, mti: str) -> dict[str, Part]:
    """The parts that have a place of their own in such a message, by path."""
    match how:
        case Positional(parts):
            return {f"{number}.{index}": part for index, part in enumerate(parts, 1)}
        case ByMti(layouts):
            return next((places(number, inner, mti) for start, inner in layouts.items() if mti.startswith(start)), {})
    return {}


def split(number: str, how: Layout, value: str, mti: str) -> list[Found]:
    """The parts of a field's value, in order. Raises SubfieldError."""
    match how:
        case Positional(parts):
            return _positional(number, parts, value)
        case Records(digits, parts):
            return _records(number, digits, parts, value)
        case Tlv(tag, length, head):
            return [*([Found(f"{number}.0", "head", value[:head])] if head else []), *_tlv(number, tag, length, value[head:])]
        case Bitmapped(size, inner):
            return _bitmapped(number, size, inner, value)
        case ByMti(layouts):
            found = next((inner for start, inner in layouts.items() if mti.startswith(start)), None)
            return split(number, found, value, mti) if found is not None else []
        case ByLength(sizes, other):
            return split(number, sizes.get(len(value), other), value, mti)
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
        path, size = f"{number}.{index}", part.length
        if part.prefix:
            at, size = _own_length(path, part.prefix, part.length, value, at)
        text = value[at:at + size]
        if not check(part.type, size, 0)(text):
            raise SubfieldError(path, f"not {size} characters of type {part.type}")
        found.append(Found(path, part.name, text))
        at += size
    if at != len(value):
        raise SubfieldError(number, f"{len(value) - at} characters after the last part")
    return found


def _own_length(path: str, prefix: int, most: int, value: str, at: int) -> tuple[int, int]:
    """(where a part with a length of its own starts, its length)"""
    digits = value[at:at + prefix]
    if len(digits) != prefix or not (digits.isascii() and digits.isdigit()):
        raise SubfieldError(path, "a length is cut or not digits")
    if int(digits) > most:
        raise SubfieldError(path, f"longer than {most}")
    return at + prefix, int(digits)


def _records(number: str, digits: int, parts: tuple[Part, ...], value: str) -> list[Found]:
    size = sum(part.length for part in parts)
    if not digits:
        digits, value = 2, f"{min(-(-len(value) // size), ENTRIES_MAX):02d}{value}"
    count, rest = value[:digits], value[digits:]
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
        length = part.bytes
        if part.prefix:
            at, length = _own_length(path, part.prefix, part.bytes, data.decode(part.code, "replace"), at)
        piece = data[at:at + length]
        if len(piece) != length:
            raise SubfieldError(path, "cut")
        found.append(Found(path, part.name, _inner_text(path, part, piece)))
        at += length
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
            value = "".join(_with_length(part.prefix, parts[path]) for path, part in zip(paths, named, strict=True) if path in parts)
        case Records(digits, named):
            indexes = sorted({int(path.split(".")[1]) for path in parts})
            paths = [f"{number}.{index}.{at}" for index in indexes for at in range(1, len(named) + 1)]
            value = (f"{len(indexes):0{digits}d}" if digits else "") + "".join(parts.get(path, "") for path in paths)
        case Tlv(_, length, head):
            value = (parts.get(f"{number}.0", "") if head else "") + "".join(
                f"{path.partition('.')[2]}{len(text):0{length}d}{text}" for path, text in parts.items() if not head or path != f"{number}.0")
        case Bitmapped(size, inner):
            bits = sorted(int(path.partition(".")[2]) for path in parts)
            value = f"{sum(1 << (size * 8 - bit) for bit in bits):0{size * 2}X}" + "".join(
                text if inner[bit].code in ("bcd", "binary") else _with_length(inner[bit].prefix, text).encode(inner[bit].code).hex().upper()
                for bit in bits for text in (parts[f"{number}.{bit}"],) if bit in inner)
        case ByMti(layouts):
            return next((joined(number, inner, parts, mti) for start, inner in layouts.items() if mti.startswith(start)), "")
        case ByLength(sizes, other):
            value = _of_a_length(number, [*sizes.values(), other], parts, mti)
        case _:
            value = "".join(f"{path.partition('.')[2]}{_ber_length(len(text) // 2)}{text}" for path, text in parts.items())
    if {found.path: found.value for found in split(number, how, value, mti)} != dict(parts):
        raise SubfieldError(number, "parts do not fit the layout")
    return value


def _of_a_length(number: str, layouts: Sequence[Layout], parts: Mapping[str, str], mti: str) -> str:
    """By the first layout that has these parts."""
    for how in layouts:
        with suppress(SubfieldError, KeyError, IndexError, ValueError):
            return joined(number, how, parts, mti)
    return ""


def _with_length(prefix: int, text: str) -> str:
    return f"{len(text):0{prefix}d}{text}" if prefix else text


def _ber_length(size: int) -> str:
    return f"{size:02X}" if size < 0x80 else f"81{size:02X}" if size < 0x100 else f"82{size:04X}"
