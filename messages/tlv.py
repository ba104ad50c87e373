"""BER-TLV of DE55 (EMV book 3, annex B): strict reading within limits, and keeping only what may be stored."""

import re

ELEMENTS_MAX = 64  # per DE55, nested ones included
DEPTH_MAX = 4
TAG_BYTES_MAX = 4

# What DE55 may leave behind: an allowlist, because unknown tags carry whatever an issuer or a kernel put there.
# Cardholder data is never in it: 5A 57 56 5F20 5F24 9F1F 9F20 9F6B and their like.
EMV_STORED = frozenset(
    (
        *("4F", "50", "71", "72", "82", "84", "86", "8A", "91", "95", "9A", "9B", "9C"),
        *("5F2A", "5F34", "9F02", "9F03", "9F06", "9F07", "9F08", "9F09", "9F0D", "9F0E", "9F0F", "9F10"),
        *("9F18", "9F1A", "9F1E", "9F21", "9F26", "9F27", "9F33", "9F34", "9F35", "9F36", "9F37", "9F41"),
        *("9F53", "9F5B", "9F63", "9F66", "9F6E", "DF31"),
    )
)


class TlvError(ValueError):
    """The text is no BER-TLV that we accept; the reason never shows data."""


def parse(hex_text: str) -> list[tuple[str, str]]:
    """The elements at the top, in order, as (tag, value) in upper-case hex; constructed values are read too, to the same rules.

    Zero bytes between elements are fill. Raises TlvError for hex that is none, anything truncated, indefinite lengths, lengths of more
    than two bytes, and above the limits.
    """
    return [(tag.hex().upper(), value.hex().upper()) for tag, value in _elements(_bytes(hex_text))]


# Forms of DE55 that have come twice: tags and lengths of one kernel are the same sale after sale, so an expression that names them reads the
# next one ten times faster than the walk. By length of the text, tags and `once`; made at most LAYOUTS_MAX times in a process.
LAYOUTS_MAX, SEEN_MAX = 256, 1024
_layouts: dict[tuple[int, frozenset[str], bool], tuple[re.Pattern[str], ...]] = {}
_seen: set[tuple[frozenset[str], bool, str]] = set()


def keep(hex_text: str, tags: frozenset[str], once: bool = False) -> str:
    """The same data with only these tags left, inside constructed elements too, as upper-case hex. `once`: no tag may stand at the top twice, since
    two readers of such data could each take another one. Raises TlvError."""
    text = hex_text.upper()
    for layout in _layouts.get((len(text), tags, once), ()):
        if (found := layout.fullmatch(text)) is not None and hex_text.isascii():  # ligatures have capitals of two letters
            return "".join(found.groups())
    data = _bytes(hex_text)
    elements = _plain(data)
    if elements is not None:
        names = [text[2 * start:2 * value - 2] for start, value, _ in elements]
        if not once or len(set(names)) == len(names):
            _learn(text, tags, once, elements, names)
            return "".join(text[2 * start:2 * end] for (start, _, end), name in zip(elements, names, strict=True) if name in tags)
    top = [tag for tag, _ in _elements(data)] if once else []
    if len(set(top)) < len(top):
        raise TlvError("a tag is there twice")
    return _kept(data, tags).hex().upper()


def _plain(data: bytes) -> list[tuple[int, int, int]] | None:
    """The usual case in one pass: primitive elements with tags of one or two bytes and lengths below 128, as the places of tag, value and end.
    None: not that case."""
    at, end, elements = 0, len(data), []
    while at < end:
        start, first = at, data[at]
        if first & 0x20 or not first:
            return None
        at += 1 if first & 0x1F != 0x1F else 2
        if at >= end or (data[at - 1] & 0x80 and at - start == 2) or data[at] >= 0x80:
            return None
        value, at = at + 1, at + 1 + data[at]
        elements.append((start, value, at))
    return elements if at == end and len(elements) <= ELEMENTS_MAX else None


def _learn(text: str, tags: frozenset[str], once: bool, elements: list[tuple[int, int, int]], names: list[str]) -> None:
    form = "".join(("({}[0-9A-F]{{{}}})" if name in tags else "{}[0-9A-F]{{{}}}").format(text[2 * start:2 * value], 2 * (end - value))
                   for (start, value, end), name in zip(elements, names, strict=True))
    if (tags, once, form) not in _seen:  # forms that nobody sends again cost no more than a place here
        if len(_seen) >= SEEN_MAX:
            _seen.clear()
        _seen.add((tags, once, form))
    elif sum(map(len, _layouts.values())) < LAYOUTS_MAX:
        key = len(text), tags, once
        _layouts[key] = (*_layouts.get(key, ()), re.compile(form))


def _bytes(hex_text: str) -> bytes:
    # bytes.fromhex skips white space, so the characters are counted first.
    try:
        data = bytes.fromhex(hex_text)
    except ValueError:
        data = b""
    if len(data) * 2 != len(hex_text):
        raise TlvError("not hexadecimal text")
    return data


def _elements(data: bytes) -> list[tuple[bytes, bytes]]:
    """The elements of this level, after a walk through all levels with one common count."""
    top = _level(data)
    count = len(top)
    waiting = [(value, 1) for tag, value in top if tag[0] & 0x20]
    while waiting:
        value, depth = waiting.pop()
        if depth >= DEPTH_MAX:
            raise TlvError(f"more than {DEPTH_MAX} levels")
        inner = _level(value)
        count += len(inner)
        if count > ELEMENTS_MAX:
            raise TlvError(f"more than {ELEMENTS_MAX} elements")
        waiting += [(value, depth + 1) for tag, value in inner if tag[0] & 0x20]
    return top


def _level(data: bytes) -> list[tuple[bytes, bytes]]:
    elements: list[tuple[bytes, bytes]] = []
    at, end = 0, len(data)
    while at < end:
        if not data[at]:
            at += 1
            continue
        after_tag = _tag_end(data, at)
        start, length = _length(data, after_tag)
        if start + length > end:
            raise TlvError("value runs past the end")
        elements.append((data[at:after_tag], data[start : start + length]))
        if len(elements) > ELEMENTS_MAX:
            raise TlvError(f"more than {ELEMENTS_MAX} elements")
        at = start + length
    return elements


def _tag_end(data: bytes, at: int) -> int:
    after = at + 1
    if data[at] & 0x1F == 0x1F:
        while after < len(data) and data[after] & 0x80:
            after += 1
        after += 1
    if after > len(data):
        raise TlvError("tag is cut")
    if after - at > TAG_BYTES_MAX:
        raise TlvError(f"tag of more than {TAG_BYTES_MAX} bytes")
    return after


def _length(data: bytes, at: int) -> tuple[int, int]:
    """(where the value starts, its length)"""
    if at >= len(data):
        raise TlvError("length is missing")
    first = data[at]
    if first < 0x80:
        return at + 1, first
    if first not in (0x81, 0x82):
        raise TlvError("indefinite length" if first == 0x80 else "length of more than two bytes")
    start = at + 1 + (first & 0x7F)
    if start > len(data):
        raise TlvError("length is cut")
    return start, int.from_bytes(data[at + 1 : start], "big")


def _kept(data: bytes, tags: frozenset[str]) -> bytes:
    result = b""
    for tag, value in _elements(data):
        if tag.hex().upper() in tags:
            inner = _kept(value, tags) if tag[0] & 0x20 else value
            result += tag + _length_bytes(len(inner)) + inner
    return result


def _length_bytes(length: int) -> bytes:
    if length < 0x80:
        return bytes([length])
    return b"\x81" + bytes([length]) if length < 0x100 else b"\x82" + length.to_bytes(2, "big")
