"""The straight way for messages that are plain text and well-formed: one regular expression per run of fixed fields.

It answers only what it can prove right and gives None for everything else; then the reference way through pyiso8583 decides and says
what is wrong (codec.py). A differential test holds both to the same bytes.
"""

import re
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

from messages.dialect import Dialect, Field
from messages.fields import BITMAP, CONTENT, MTI, check

PLANS_MAX = 256  # bitmaps and field sets that are remembered per dialect; a host that invents more costs time, not memory
SEPARATOR = "\0"  # in no field's content


class Run(NamedTuple):
    """Neighbouring fixed fields: read by `read` at a position, written by `write` over the values joined with SEPARATOR."""

    numbers: tuple[str, ...]
    width: int
    read: Callable[..., re.Match[str] | None]
    write: Callable[[str], re.Match[str] | None]
    values: Callable[[Mapping[str, str]], tuple[str, ...]]


class Single(NamedTuple):
    """A field with a length prefix, or one that is on its own (binary, or a fixed one between two of variable length)."""

    number: str
    prefix: int
    length: int
    check: Callable[[str], Any]
    upper: bool


class Plan(NamedTuple):
    bitmap: str
    parts: tuple[Run | Single, ...]


class Straight:
    """Both ways for one dialect."""

    def __init__(self, dialect: Dialect) -> None:
        self.fields = dialect.fields
        self.readers: dict[str, Plan | None] = {}
        self.writers: dict[tuple[str, ...], Plan | None] = {}

    def encode(self, message: Mapping[str, str]) -> bytes | None:
        """The message's bytes, or None: the reference decides."""
        names = tuple(message)
        plan = self.writers.get(names)
        if plan is None:
            plan = self._remember(self.writers, names, self._plan_of(names))
            if plan is None:
                return None
        try:
            mti = message["0"]
            if not MTI(mti):
                return None
            out = [mti, plan.bitmap]
            for part in plan.parts:
                if isinstance(part, Run):
                    joined = SEPARATOR.join(part.values(message))
                    if not part.write(joined):
                        return None
                    out.append(joined)
                else:
                    value = message[part.number]
                    if not part.check(value):
                        return None
                    out.append(f"{len(value):0{part.prefix}d}{value}" if part.prefix else value)
                    if part.upper:
                        out[-1] = out[-1].upper()
        except TypeError:
            return None
        return "".join(out).replace(SEPARATOR, "").encode("ascii")

    def decode(self, data: bytes) -> dict[str, str] | None:
        """The message's fields, or None: the reference decides."""
        try:
            text = data.decode("ascii")
        except (UnicodeDecodeError, AttributeError):
            return None
        at = 36 if text[4:5] >= "8" else 20
        key = text[4:at]
        plan = self.readers.get(key)
        if plan is None:
            plan = self._remember(self.readers, key, self._plan_for(key))
            if plan is None:
                return None
        message = {"0": text[:4]}
        if not MTI(text[:4]):
            return None
        for part in plan.parts:
            if isinstance(part, Run):
                found = part.read(text, at)
                if found is None:
                    return None
                message.update(zip(part.numbers, found.groups(), strict=True))
                at += part.width
                continue
            length = part.length
            if part.prefix:
                prefix = text[at:at + part.prefix]
                if not prefix.isdigit() or len(prefix) != part.prefix or int(prefix) > length:
                    return None
                at, length = at + part.prefix, int(prefix)
            value = text[at:at + length]
            if len(value) != length or not part.check(value):
                return None
            at += length
            message[part.number] = value.upper() if part.upper else value
        return message if at == len(text) else None

    def _remember(self, plans: dict[Any, Plan | None], key: Any, plan: Plan | None) -> Plan | None:
        if plan is not None:
            if len(plans) >= PLANS_MAX:
                plans.clear()
            plans[key] = plan
        return plan

    def _plan_of(self, names: tuple[str, ...]) -> Plan | None:
        if "0" not in names or any(name not in self.fields for name in names if name != "0"):
            return None
        numbers = sorted(int(name) for name in names if name != "0")
        bits = sum(1 << (128 - number) for number in numbers)
        if not numbers:
            return Plan("0" * 16, ())
        bitmap = f"{bits | 1 << 127:032X}" if numbers[-1] > 64 else f"{bits >> 64:016X}"
        return Plan(bitmap, self._parts(numbers))

    def _plan_for(self, bitmap: str) -> Plan | None:
        if not BITMAP(bitmap[:16]) or (len(bitmap) > 16 and not (BITMAP(bitmap[16:]) and bitmap[16] < "8")) or len(bitmap) not in (16, 32):
            return None
        bits = int(bitmap.ljust(32, "0"), 16)
        numbers = [number for number in range(2, 129) if bits >> (128 - number) & 1]
        if any(str(number) not in self.fields for number in numbers):
            return None
        return Plan(bitmap, self._parts(numbers))

    def _parts(self, numbers: list[int]) -> tuple[Run | Single, ...]:
        parts: list[Run | Single] = []
        run: list[Field] = []
        for field in [self.fields[str(number)] for number in numbers] + [None]:
            if field is not None and not field.prefix and field.type != "b":
                run.append(field)
                continue
            if len(run) > 1:
                parts.append(_run(run))
            elif run:
                parts.append(_single(run[0]))
            run = []
            if field is not None:
                parts.append(_single(field))
        return tuple(parts)


def _run(fields: list[Field]) -> Run:
    numbers = tuple(field.number for field in fields)
    patterns = [_fixed(field) for field in fields]
    return Run(numbers, sum(field.length for field in fields), re.compile("".join(f"({pattern})" for pattern in patterns)).match,
               re.compile(SEPARATOR.join(patterns)).fullmatch, itemgetter(*numbers))


def _fixed(field: Field) -> str:
    count = field.length - 1 if field.type == "x+n" else field.length
    return CONTENT[field.type].replace("{n}", f"{{{count}}}")


def _single(field: Field) -> Single:
    return Single(field.number, field.prefix, field.length, check(field.type, field.length, field.prefix), field.type == "b")
