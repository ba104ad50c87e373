"""Functions written for one set of fields: `reader` and `writer` turn a field table and field numbers into Python source and compile it.

The table is that of the reference (pyiso8583's `spec`) with a content type per field. The source is made of field numbers, offsets and lengths of
the table, never of a message. A function answers only what it can prove right: it gives None or raises one of FAULTS for everything else, and
then the reference decides and names the fault (codec.py). What no template here knows is listed by `unknown`; such a set has no function.

Bytes are looked at through views: the whole message as text of each single-byte code it uses, and as hex text for binary and BCD, so that a run
of fixed fields is cut by one call and what is alike is checked by one call.
"""

from binascii import a2b_hex
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

Spec = Mapping[str, Mapping[str, Any]]
Reader = Callable[[bytes], dict[str, str] | None]
Writer = Callable[[Mapping[str, str]], bytes | None]

FAULTS = (KeyError, IndexError, TypeError, ValueError, AttributeError)  # how a function says no where a test of its own would cost time
CODES = {"ascii": "ascii", "latin-1": "latin", "cp500": "cp500", "cp037": "cp037"}  # one byte, one character: offsets are the same in each view
HEX = "hex"
LENGTH_MAX = 9_999
CHECKS = {  # truthy for the joined text of all fields of that type
    "n": "{0}.isdigit() and {0}.isascii()",
    "an": '({0} := {0}.replace(" ", "0")).isalnum() and {0}.isascii()',
    "ans": "{0}.isprintable() and {0}.isascii()",
    "z": '({0} := {0}.replace("=", "0").replace("D", "0")).isdigit() and {0}.isascii()',
    "b": "a2b_hex({0}) is not None",
}
NEVER_EMPTY = {"an": '"0", ', "z": '"0", '}  # isalnum and isdigit are false for no text, but an empty field may be
TYPES = frozenset(CHECKS) | {"x+n"}


class Table(NamedTuple):
    """A field table: pyiso8583's, and the content type of each field ("" for any content)."""

    spec: Spec
    types: Mapping[str, str]


class Part(NamedTuple):
    """A field as the templates see it."""

    number: str
    view: str  # a key of CODES, or HEX
    type: str
    units: int  # how many: exact when `width` is 0, else the maximum
    width: int  # bytes of the length
    code: str  # of the length: "b", "bcd" or a key of CODES
    nibbles: bool
    left: str
    right: str

    def size(self) -> int:
        """Bytes of a fixed field."""
        return (self.units + 1) // 2 if self.nibbles else self.units

    def characters(self) -> int:
        """Characters of a fixed field's text."""
        return self.units * 2 if self.view == HEX and not self.nibbles else self.units

    def padded(self, count: int) -> bool:
        return self.nibbles and count % 2 == 1


def _part(table: Table, number: str) -> Part:
    field, type_ = table.spec[number], table.types.get(number, "")
    view = HEX if field["data_enc"] == "b" else field["data_enc"]
    units: int = field["max_len"] if number != "t" else 2 if view == HEX else 4
    return Part("0" if number == "t" else number, view, "n" if number == "t" else type_, units, field["len_type"], field["len_enc"],
                field.get("len_count") == "nibbles", field.get("left_pad", "")[:1], field.get("right_pad", "")[:1])


def unknown(table: Table) -> dict[str, str]:
    """The fields that no template knows, with the reason: messages with one of them go through the reference."""
    found = {number: _unknown(_part(table, number)) for number in table.spec if number not in ("p", "1")}
    coded = {table.spec[number]["data_enc"] for number in ("p", "1")}
    if len(coded) > 1 or not coded <= {"b", *CODES}:
        found["p"] = "bitmaps in different or unknown codes"
    return {number: reason for number, reason in found.items() if reason}


def _unknown(part: Part) -> str:
    if part.view not in {HEX, *CODES} or (part.width and part.code not in {"b", "bcd", *CODES}):
        return "code of text or length"
    if part.units > LENGTH_MAX or (part.number in ("h", "0") and part.width):
        return "length"
    if part.nibbles and (part.view != HEX or (part.left and part.right)):
        return "nibbles of text, or two pads"
    if not part.width and part.padded(part.units) and not (part.left or part.right):
        return "odd nibbles without a pad"
    if part.type not in {"", *TYPES} or (part.type == "x+n" and (part.width or part.view == HEX)):
        return "content type"
    return ""


def bitmap_text(numbers: Sequence[int]) -> str:
    """The bitmap of ascending field numbers as upper-case hex, with the second one when a number is over 64."""
    bits = sum(1 << (128 - number) for number in numbers)
    return f"{bits | 1 << 127:032X}" if numbers and numbers[-1] > 64 else f"{bits >> 64:016X}"


def bitmap_at(table: Table) -> tuple[int, int]:
    """Where the first bitmap starts and ends, in bytes."""
    start = table.spec["h"]["max_len"] + (2 if table.spec["t"]["data_enc"] == "b" else 4)
    return start, start + (8 if table.spec["p"]["data_enc"] == "b" else 16)


def reader(table: Table, numbers: Sequence[int], bitmaps: int) -> Reader:
    """The function that reads messages with exactly these fields behind one or two bitmaps."""
    function: Reader = _function(*reader_source(table, numbers, bitmaps), "read")
    return function


def writer(table: Table, numbers: Sequence[int]) -> Writer:
    """The function that writes messages with exactly these fields."""
    function: Writer = _function(*writer_source(table, numbers), "write")
    return function


def _function(source: str, constants: dict[str, Any], name: str) -> Any:
    room = {**constants, "a2b_hex": a2b_hex}
    exec(compile(source, "<messages.compiled>", "exec"), room)
    return room[name]


def _parts(table: Table, numbers: Sequence[int]) -> tuple[list[Part], list[Part]]:
    head = [_part(table, number) for number in (("h", "t") if table.spec["h"]["max_len"] else ("t",))]
    return head, [_part(table, str(number)) for number in numbers]


def reader_source(table: Table, numbers: Sequence[int], bitmaps: int) -> tuple[str, dict[str, Any]]:
    head, fields = _parts(table, numbers)
    source = _Reading({part.view for part in (*head, *fields)} | {HEX if p.code in ("b", "bcd") else p.code for p in fields if p.width})
    for part in head:
        source.fixed(part)
    start, end = bitmap_at(table)
    source.offset += (end - start) * bitmaps
    for part in fields:
        if part.width:
            source.variable(part)
        else:
            source.fixed(part)
    return source.finished([*head, *fields])


class _Reading:
    """The lines of one `read`; `base` and `offset` are where the next field starts: a variable's name, or "" for the message's start, and bytes."""

    def __init__(self, views: set[str]) -> None:
        self.lines = ["def read(data):"]
        self.constants: dict[str, Any] = {}
        self.base, self.offset = "", 0
        self.run: list[tuple[str, str, slice]] = []  # fixed fields since `base`: variable, view, where
        for view in sorted(views - {HEX}):
            # bytes above ASCII may belong to another view, so they are refused by the checks of the fields of this one
            code = "latin-1" if view == "ascii" and len(views) > 1 else view
            self.lines.append(f'    {CODES[view]} = data.decode("{code}")')
        if HEX in views:
            self.lines.append("    hex = data.hex().upper()")
        self.mixed = len(views) > 1

    def constant(self, value: Any) -> str:
        name = f"K{len(self.constants)}"
        self.constants[name] = value
        return name

    def fixed(self, part: Part) -> None:
        size, scale = part.size(), 2 if part.view == HEX else 1
        start, stop = self.offset * scale, (self.offset + size) * scale
        if part.padded(part.units):
            pad = slice(start, start + 1) if part.left else slice(stop - 1, stop)
            self.run.append((f"p{part.number}", part.view, pad))
            start, stop = (start + 1, stop) if part.left else (start, stop - 1)
        self.run.append((f"v{part.number}", part.view, slice(start, stop)))
        self.offset += size

    def flush(self) -> None:
        for view in dict.fromkeys(view for _, view, _ in self.run):
            names, slices = zip(*[(name, where) for name, its, where in self.run if its == view], strict=True)
            scale = "2*" if view == HEX else ""
            text = f"{CODES.get(view, view)}[{scale}{self.base}:]" if self.base else CODES.get(view, view)
            self.lines.append(f"    {', '.join(names)} = {self.constant(itemgetter(*slices))}({text})")
        self.run = []

    def variable(self, part: Part) -> None:
        self.flush()
        view = HEX if part.code in ("b", "bcd") else part.code
        at = f"{self.base}+{self.offset}" if self.base else str(self.offset)
        start, size, end = f"a{part.number}", f"n{part.number}", f"e{part.number}"
        scale = "2*" if view == HEX else ""
        self.lines.append(f"    {start} = {at}+{part.width}")
        prefixes = {text: count for count, text in enumerate(_lengths(part)) if text is not None}
        self.lines.append(f"    {size} = {self.constant(prefixes)}[{CODES.get(view, view)}[{scale}({at}):{scale}{start}]]")
        self.lines.append(f"    {end} = {start}+{f'({size}+1)//2' if part.nibbles else size}")
        scale = "2*" if part.view == HEX else ""
        value = f"v{part.number}"
        self.lines.append(f"    {value} = {CODES.get(part.view, part.view)}[{scale}{start}:{scale}{end}]")
        if part.nibbles and (part.left or part.right):
            pad, rest = ("[:1]", "[1:]") if part.left else ("[-1:]", "[:-1]")
            self.lines.append(f"    if {size} & 1:")
            self.lines.append(f"        if {value}{pad} != {self.constant(part.left or part.right)}: return None")
            self.lines.append(f"        {value} = {value}{rest}")
        self.base, self.offset = end, 0

    def finished(self, parts: list[Part]) -> tuple[str, dict[str, Any]]:
        self.flush()
        self.lines.append(f"    if len(data) != {f'{self.base}+' if self.base else ''}{self.offset}: return None")
        for part in parts:
            if not part.width and part.padded(part.units):
                self.lines.append(f"    if p{part.number} != {self.constant(part.left or part.right)}: return None")
        self.lines += _checks(parts)
        untyped = [f"v{part.number}" for part in parts if part.view == "ascii" and not part.type]
        if self.mixed and untyped:
            self.lines.append(f'    if not "".join(({", ".join(untyped)},)).isascii(): return None')
        order = sorted(parts, key=lambda part: part.number != "0")  # "0" first, as in the reference
        upper = {part.number for part in parts if part.type == "b" and part.view != HEX}
        pairs = [f'"{part.number}": v{part.number}{".upper()" if part.number in upper else ""}' for part in order]
        self.lines.append(f"    return {{{', '.join(pairs)}}}")
        return "\n".join(self.lines) + "\n", self.constants


def writer_source(table: Table, numbers: Sequence[int]) -> tuple[str, dict[str, Any]]:
    head, fields = _parts(table, numbers)
    parts = [*head, *fields]
    constants: dict[str, Any] = {}
    names = [part.number for part in parts]
    constants["GET"] = itemgetter(*names) if len(names) > 1 else lambda message: (message["0"],)
    lines = ["def write(message):", f"    {', '.join(f'v{name}' for name in names)}, = GET(message)"]
    fixed = [part for part in parts if not part.width]
    constants["LENGTHS"] = [part.characters() for part in fixed]
    lines.append(f"    if [*map(len, ({', '.join(f'v{part.number}' for part in fixed)},))] != LENGTHS: return None")
    lines += _checks(parts)
    pieces: list[tuple[str, str]] = []
    for part in parts:
        pieces += _pieces(part, constants)
        if part.number == "0":
            code = table.spec["p"]["data_enc"]
            pieces.append((HEX if code == "b" else code, f'"{bitmap_text(numbers)}"'))
    runs: list[tuple[str, list[str]]] = []
    for view, piece in pieces:
        if runs and runs[-1][0] == view:
            runs[-1][1].append(piece)
        else:
            runs.append((view, [piece]))
    texts = [(view, f'"".join(({", ".join(run)},))') for view, run in runs]
    coded = [f"a2b_hex({text})" if view == HEX else f'{text}.encode("{view}")' for view, text in texts]
    lines.append(f"    return {coded[0]}" if len(coded) == 1 else f'    return b"".join(({", ".join(coded)}))')
    return "\n".join(lines) + "\n", constants


def _pieces(part: Part, constants: dict[str, Any]) -> Iterable[tuple[str, str]]:
    value = f"v{part.number}"
    text = f"{value}.upper()" if part.type == "b" and part.view != HEX else value
    pad = f"P{part.number}"
    if part.nibbles:
        constants[pad] = part.left or part.right
    if part.width:
        constants[f"L{part.number}"] = _written_lengths(part)
        yield HEX if part.code in ("b", "bcd") else part.code, f"L{part.number}[len({value})]"
        if part.nibbles:
            odd = f"{pad} + {value}" if part.left else f"{value} + {pad}"
            text = f"({odd} if len({value}) & 1 else {value})"
    elif part.padded(part.units):
        text = f"{pad} + {value}" if part.left else f"{value} + {pad}"
    yield part.view, text


def _lengths(part: Part) -> list[str | None]:
    """The length's text in its view, by count of units; None for a count that cannot be."""
    if part.code == "b":
        texts = [f"{count:0{part.width * 2}X}" for count in range(part.units + 1)]
    else:
        texts = [f"{count:0{part.width * (2 if part.code == 'bcd' else 1)}d}" for count in range(part.units + 1)]
    most = part.width * (2 if part.code in ("b", "bcd") else 1)
    odd = (part.nibbles and not (part.left or part.right)) or (part.type == "b" and (part.nibbles or part.view != HEX))
    return [text if len(text) == most and not (odd and count % 2) else None for count, text in enumerate(texts)]


def _written_lengths(part: Part) -> list[str | None]:
    """The same by count of characters of the value."""
    texts = _lengths(part)
    return texts if part.nibbles or part.view != HEX else [text for count in texts for text in (count, None)][:-1]


def _checks(parts: Sequence[Part]) -> list[str]:
    lines = []
    values: dict[str, list[str]] = {}
    for part in parts:
        if part.type == "x+n":
            lines.append(f'    if v{part.number}[0] not in "CD": return None')
            values.setdefault("n", []).append(f"v{part.number}[1:]")
        elif part.type:
            values.setdefault(part.type, []).append(f"v{part.number}")
    for at, (type_, names) in enumerate(values.items()):
        joined = f"t{at}"
        lines.append(f'    {joined} = "".join(({NEVER_EMPTY.get(type_, "")}{", ".join(names)},))')
        lines.append(f"    if not ({CHECKS[type_].format(joined)}): return None")
    return lines
