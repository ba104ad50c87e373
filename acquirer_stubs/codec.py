"""The host's own field table, codec and framing for the ASCII dialect of 1987.

Wire: 2-byte big-endian length of what follows; MTI 4 digits; each bitmap 16 upper-case hex characters; LL and LLL decimal digits;
binary elements and DE55 as hex characters, whose LLL counts characters. A message is a dict {DE: value}, with the MTI under 0.
"""
import re

Message = dict[int, str]

FRAME_BYTES_MAX = 4096
PLANS_MAX = 1024

# ISO 8583:1987 annex: n digits, an/ans/x/z printable text, h hex characters; ".." and "..." are LLVAR and LLLVAR with their maximum.
FIELDS: dict[int, str] = {
    2: "n..19", 3: "n6", 4: "n12", 5: "n12", 6: "n12", 7: "n10", 8: "n8", 9: "n8", 10: "n8", 11: "n6", 12: "n6", 13: "n4", 14: "n4",
    15: "n4", 16: "n4", 17: "n4", 18: "n4", 19: "n3", 20: "n3", 21: "n3", 22: "n3", 23: "n3", 24: "n3", 25: "n2", 26: "n2", 27: "n1",
    28: "x9", 29: "x9", 30: "x9", 31: "x9", 32: "n..11", 33: "n..11", 34: "ans..28", 35: "z..37", 36: "z...104", 37: "an12", 38: "an6",
    39: "an2", 40: "an3", 41: "ans8", 42: "ans15", 43: "ans40", 44: "ans..25", 45: "ans..76", 46: "ans...999", 47: "ans...999",
    48: "ans...999", 49: "an3", 50: "an3", 51: "an3", 52: "h16", 53: "n16", 54: "an...120", 55: "h...999", 56: "ans...999",
    57: "ans...999", 58: "ans...999", 59: "ans...999", 60: "ans...999", 61: "ans...999", 62: "ans...999", 63: "ans...999", 64: "h16",
    66: "n1", 67: "n2", 68: "n3", 69: "n3", 70: "n3", 71: "n4", 72: "n4", 73: "n6", 74: "n10", 75: "n10", 76: "n10", 77: "n10",
    78: "n10", 79: "n10", 80: "n10", 81: "n10", 82: "n12", 83: "n12", 84: "n12", 85: "n12", 86: "n16", 87: "n16", 88: "n16", 89: "n16",
    90: "n42", 91: "an1", 92: "an2", 93: "an5", 94: "an7", 95: "an42", 96: "h16", 97: "x17", 98: "ans25", 99: "n..11", 100: "n..11",
    101: "ans..17", 102: "ans..28", 103: "ans..28", 104: "ans...100", **{de: "ans...999" for de in range(105, 128)}, 128: "h16",
}


class Undecodable(ValueError):
    """The bytes of one frame are not a message of this dialect; the text names the place, never the content."""


class Unencodable(ValueError):
    """An answer of ours does not fit the field table."""


class BadLength(ValueError):
    """A frame header announces nothing or too much: where the next frame starts is unknown from here on."""


Step = tuple[int, str, int, int]  # DE, content class, digits of the length prefix (0 = fixed), length or maximum


def _step(de: int, form: str) -> Step:
    found = re.fullmatch(r"(ans|an|n|x|z|h)(\.{0,3})(\d+)", form)
    assert found is not None, form
    return de, found[1], len(found[2]), int(found[3])


STEPS: dict[int, Step] = {de: _step(de, form) for de, form in FIELDS.items()}

# A stretch of the message: a run of neighbouring fixed digits read at once (cuts of the single elements), or one other element.
Stretch = tuple[int, tuple[tuple[int, int, int], ...], Step | None]

_is_hex = re.compile("(?:[0-9A-Fa-f]{2})*").fullmatch
_decode_plans: dict[str, tuple[Stretch, ...]] = {}
_encode_plans: dict[tuple[int, ...], tuple[str, tuple[Step, ...]]] = {}


def frame(body: bytes) -> bytes:
    """The body with its 2-byte length in front."""
    return len(body).to_bytes(2, "big") + body


def split(buffer: bytes) -> tuple[list[bytes], bytes]:
    """Complete frame bodies at the start of the buffer, and the rest that waits for more bytes.

    Raises BadLength for a length of 0 or above FRAME_BYTES_MAX; the exception's second argument holds the complete bodies before it.
    """
    bodies: list[bytes] = []
    at, size = 0, len(buffer)
    while size - at >= 2:
        length = buffer[at] << 8 | buffer[at + 1]
        if not 0 < length <= FRAME_BYTES_MAX:
            raise BadLength(f"frame length {length}", bodies)
        end = at + 2 + length
        if end > size:
            break
        bodies.append(buffer[at + 2:end])
        at = end
    return bodies, buffer[at:]


def _stretches(steps: list[Step]) -> tuple[Stretch, ...]:
    found: list[Stretch] = []
    cuts: list[tuple[int, int, int]] = []
    for step in steps:
        de, content, prefix, size = step
        if content == "n" and not prefix:
            start = cuts[-1][2] if cuts else 0
            cuts.append((de, start, start + size))
            continue
        if cuts:
            found.append((cuts[-1][2], tuple(cuts), None))
            cuts = []
        found.append((0, (), step))
    if cuts:
        found.append((cuts[-1][2], tuple(cuts), None))
    return tuple(found)


def _decode_plan(bitmap: str) -> tuple[Stretch, ...]:
    if re.fullmatch("[0-9A-F]+", bitmap) is None:
        raise Undecodable("bitmap: not upper-case hex")
    bits = int(bitmap, 16)
    width = len(bitmap) * 4
    present = [de for de in range(2, width + 1) if bits >> (width - de) & 1]
    unknown = [de for de in present if de not in STEPS]
    if unknown:
        raise Undecodable(f"DE{unknown[0]}: not in the table")
    plan = _stretches([STEPS[de] for de in present])
    if len(_decode_plans) < PLANS_MAX:
        _decode_plans[bitmap] = plan
    return plan


def _element(step: Step, text: str, at: int) -> tuple[str, int]:
    """The element's value and where the next one starts."""
    de, content, prefix, size = step
    if prefix:
        digits = text[at:at + prefix]
        if len(digits) != prefix or not digits.isdigit() or int(digits) > size:
            raise Undecodable(f"DE{de}: length")
        at += prefix
        size = int(digits)
    value = text[at:at + size]
    if len(value) != size:
        raise Undecodable(f"DE{de}: cut off")
    if content == "n" and size and not value.isdigit():
        raise Undecodable(f"DE{de}: not digits")
    if content == "h" and _is_hex(value) is None:
        raise Undecodable(f"DE{de}: not hex")
    return value, at + size


def decode(body: bytes) -> Message:
    """One message as {DE: value} in ascending order, the MTI under 0. Raises Undecodable."""
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError as error:
        raise Undecodable(f"byte {error.start}: not ASCII") from None
    mti = text[:4]
    if len(text) < 20 or not mti.isdigit() or not text.isprintable():
        raise Undecodable("MTI or length of the message")
    at = 36 if text[4] in "89ABCDEF" else 20
    bitmap = text[4:at]
    if len(bitmap) != at - 4:
        raise Undecodable("bitmap: cut off")
    message: Message = {0: mti}
    for length, cuts, step in _decode_plans.get(bitmap) or _decode_plan(bitmap):
        if step is None:
            run = text[at:at + length]
            if len(run) != length or not run.isdigit():
                raise Undecodable(f"DE{cuts[0][0]} to DE{cuts[-1][0]}: cut off or not digits")
            for de, start, end in cuts:
                message[de] = run[start:end]
            at += length
            continue
        message[step[0]], at = _element(step, text, at)
    if at != len(text):
        raise Undecodable(f"{len(text) - at} bytes after the last element")
    return message


def _encode_plan(elements: tuple[int, ...]) -> tuple[str, tuple[Step, ...]]:
    present = elements[1:]
    if elements[0] != 0 or list(present) != sorted(set(present)) or not set(present) <= STEPS.keys():
        raise Unencodable(f"elements {elements}: not the MTI and then known elements in ascending order")
    width = 128 if present and present[-1] > 64 else 64
    bits = sum(1 << (width - de) for de in present) | (1 << 127 if width == 128 else 0)
    plan = f"{bits:0{width // 4}X}", tuple(STEPS[de] for de in present)
    if len(_encode_plans) < PLANS_MAX:
        _encode_plans[elements] = plan
    return plan


def encode(message: Message) -> bytes:
    """The message's bytes without framing; the MTI stands under 0, first, then elements in ascending order. Raises Unencodable."""
    elements = tuple(message)
    bitmap, steps = _encode_plans.get(elements) or _encode_plan(elements)
    parts = [message[0], bitmap]
    for de, _content, prefix, size in steps:
        value = message[de]
        length = len(value)
        if prefix:
            if length > size:
                raise Unencodable(f"DE{de}: {length} characters, at most {size}")
            parts.append(f"{length:0{prefix}d}")
        elif length != size:
            raise Unencodable(f"DE{de}: {length} characters instead of {size}")
        parts.append(value)
    return "".join(parts).encode("ascii")
