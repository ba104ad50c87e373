"""A dialect's file as its literal: read from its text, never run. With the line of what a fault is about; and a folder of them."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from messages.grammar import LIKE

FILE_MAX = 1_000_000  # characters of a file
NUMBER_MAX = 10**18  # more than any key takes; Python does not print a number of thousands of digits
HALF = re.compile("[\ud800-\udfff]").search  # of a surrogate pair: no character, so it cannot even be printed
SHOWN_MAX = 40
ONE = "it must hold one literal, as DIALECT = {...}, and nothing else beside a docstring"
ONLY = "only texts, numbers, True, False, None, tuples, lists and dicts may be there"
# What hands write where a value belongs: the kind of node, what it is called, what to write instead.
INSTEAD: tuple[tuple[tuple[type[ast.expr], ...], str, str], ...] = (
    ((ast.Call, ast.Await), "a call", "write what it gives"),
    ((ast.Name, ast.Attribute, ast.Subscript), "a name", "write its value; a text stands in quotes"),
    ((ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp), "a comprehension", "write its entries one by one"),
    ((ast.JoinedStr,), "an f-string", "write a plain text; the switch itself fills templates such as {stan}"),
    ((ast.Set,), "a set", "write a tuple, (...)"),
    ((ast.Dict,), "a dict with a key that is none", "write each entry as key: value, the key a text or a number"),
    ((ast.Constant,), "a value that no key takes", "write a text, or a smaller number"),
)
OTHERWISE = "an expression", "write what comes of it"
FAULT_ENDS = re.compile(r" is not accepted;|\bnone of |; known:| \(")  # what follows is of what would be right, or of other messages
FAULT_WORDS = re.compile(r"[^\s'\",;:(){}\[\]]+").findall
# How faults call an entry of a key, where it is not by the key's own name.
KEY_OF: Mapping[str, str] = {"reversal code": "reversal_codes", "reroute code": "reroute_codes", "outage code": "outage_codes",
                             "field": "fields", "message": "messages", "code": "codes"}
# Where a field's text comes from that the message itself does not name.
MADE_IN: Mapping[str, tuple[str, ...]] = {"messages": ("composed", "with_pin", "fields"), "network": ("network_rule",), "network_rule": ("fields",)}


class LiteralError(ValueError):
    """A file that holds no literal; the text names file, line and what to write instead."""


class Place(NamedTuple):
    """A part of a literal, and the line by which it is found."""

    line: int
    node: ast.expr


class Literal(NamedTuple):
    """A file's value, and how it is written there."""

    value: Any
    node: ast.expr

    def placed(self, fault: str) -> str:
        """The fault with the line that it is about: as deep as its words name keys, entries and values of the file."""
        return f"line {self._place(fault).line}: {fault}"

    def _place(self, fault: str) -> Place:
        whole, words = Place(self.node.lineno, self.node), FAULT_WORDS(FAULT_ENDS.split(fault)[0])
        named = min(2 if " ".join(words[:2]) in KEY_OF else 1, len(words))
        key = KEY_OF.get(" ".join(words[:named]), " ".join(words[:named]))
        place = self._key(fault.partition(":")[0]) or self._key(key) or (self._key("like") if key in LIKE else None)
        for before, word in zip(words[named - 1:], words[named:], strict=False):
            found = _within(place.node, word) if place is not None else None
            if found is None and before == "field" and key in MADE_IN:
                return self._made(key, word, place) or place or whole
            place = found or place
        return place or whole

    def _key(self, key: str) -> Place | None:
        return next((_place(name, value) for name, value in _entries(self.node) if _text(name) == key), None)

    def _made(self, key: str, number: str, said: Place | None) -> Place | None:
        """Where the text, or the width, of a field stands that is wrong in the message `said`."""
        if said is not None and isinstance(said.node, ast.Constant) and key != "network":
            return said
        found = [_within(made.node, number) for home in MADE_IN[key] if (made := self._key(home)) is not None]
        return next((each for each in found if each is not None and "{code}" not in _text(each.node)), None)


def _place(key: ast.expr | None, value: ast.expr) -> Place:
    return Place(value.lineno if key is None or isinstance(value, ast.Constant) else key.lineno, value)


def _entries(node: ast.expr) -> Iterator[tuple[ast.expr | None, ast.expr]]:
    if isinstance(node, ast.Dict):
        yield from zip(node.keys, node.values, strict=True)
    elif isinstance(node, ast.Tuple | ast.List):
        yield from ((each, each) for each in node.elts)


def _text(node: ast.expr | None) -> str:
    return str(node.value) if isinstance(node, ast.Constant) else ""


def _within(node: ast.expr, word: str) -> Place | None:
    """The outermost entry, or value of a tuple, that a word names; an entry before a value."""
    level = [node]
    while level:
        entries = [entry for each in level for entry in _entries(each)]
        found = [(key, value) for key, value in entries if isinstance(key, ast.Constant) and str(key.value) == word]
        if found:
            return _place(*next((entry for entry in found if entry[0] is not entry[1]), found[0]))
        level = [value for _, value in entries]
    return None


def read(path: Path) -> Literal:
    """The literal of a file: alone, or as DIALECT. Raises LiteralError."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(FILE_MAX + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise LiteralError(f"{path}: {error.strerror if isinstance(error, OSError) else 'not UTF-8 text'}") from None
    if len(text) > FILE_MAX:
        raise LiteralError(f"{path}: more than {FILE_MAX} characters")
    try:
        return parsed(text)
    except LiteralError as error:
        raise LiteralError(f"{path}: {error}") from None


def parsed(text: str) -> Literal:
    """The literal of a file's text. Raises LiteralError, without the file's name."""
    if (at := text.find("\0")) >= 0:
        raise LiteralError(f"line {text.count(chr(10), 0, at) + 1}: a NUL character: this is no text")
    try:
        node = _only(ast.parse(text))
        _hold(node)
        return Literal(ast.literal_eval(node), node)
    except _Refused as refused:
        raise LiteralError(f"line {refused.node.lineno}: {_shown(text, refused.node)} {refused}") from None
    except SyntaxError as error:
        fault = "a number of too many digits" if "integer string conversion" in error.msg else error.msg
        raise LiteralError(f"line {error.lineno}: {fault}") from None
    except (MemoryError, RecursionError):
        raise LiteralError(f"values within values, deeper than any key has them; {ONLY}") from None


class _Refused(Exception):
    """What may not be there, by its node."""

    def __init__(self, node: ast.stmt | ast.expr, why: str) -> None:
        super().__init__(why)
        self.node = node


def _shown(text: str, node: ast.stmt | ast.expr) -> str:
    first, *more = (ast.get_source_segment(text, node) or "").splitlines() or [""]
    return first if not more and len(first) <= SHOWN_MAX else f"{first[:SHOWN_MAX]}..."


def _only(tree: ast.Module) -> ast.expr:
    """The one value of a file. Raises _Refused, SyntaxError (there is none)."""
    body = [each for each in tree.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))]  # docstrings
    called = [each for each in body if isinstance(each, ast.Assign) and [ast.unparse(to) for to in each.targets] == ["DIALECT"]]
    one = next((each for each in called or body if isinstance(each, ast.Assign if called else ast.Expr)), None)
    for each in body:
        if each is not one:
            raise _Refused(each, f"must be {'taken out' if one or not isinstance(each, ast.Assign) else 'called DIALECT'}; {ONE}")
    if not isinstance(one, ast.Assign | ast.Expr):
        raise SyntaxError(ONE, ("", 1, None, None))
    return one.value


def _hold(literal: ast.expr) -> None:
    """That there is nothing to run, and nothing that hides another. Raises _Refused, for what comes first in the file."""
    nodes = [node for node in ast.walk(literal) if isinstance(node, ast.expr)]
    wrong = [node for node in nodes if not _plain(node)]
    if wrong:
        first = min(wrong, key=lambda node: (node.lineno, node.col_offset))
        called, instead = next(((called, instead) for kinds, called, instead in INSTEAD if isinstance(first, kinds)), OTHERWISE)
        raise _Refused(first, f"is not a literal but {called}: {instead}; {ONLY}")
    for node in nodes:
        seen = set[object]()
        for key in node.keys if isinstance(node, ast.Dict) else ():
            if isinstance(key, ast.Constant) and key.value in seen:
                raise _Refused(key, "is there twice in one dict: the second hides the first, so take one out")
            seen.update([key.value] if isinstance(key, ast.Constant) else [])


def _plain(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value):
            if isinstance(value, str):
                return not HALF(value)
            return value is None or isinstance(value, float) or (isinstance(value, int) and value <= NUMBER_MAX)
        case ast.Dict(keys):
            return all(isinstance(key, ast.Constant) for key in keys)
        case ast.UnaryOp(ast.USub(), ast.Constant(value)):
            return type(value) in (int, float)
    return isinstance(node, ast.Tuple | ast.List)


class Folder(Mapping[str, Any]):
    """The literals of a folder by the names of their files, each read when it is first asked for. Raises LiteralError then."""

    def __init__(self, path: Path) -> None:
        self._paths = {each.stem: each for each in sorted(path.glob("*.py")) if not each.stem.startswith("_")}
        self._read: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._read:
            self._read[name] = read(self._paths[name]).value
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._paths

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)
