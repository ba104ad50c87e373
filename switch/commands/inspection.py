"""The commands that look at dialects and messages without a running switch: `dialect check | show | grammar`, `message decode | encode | explain`."""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from messages import grammar, literals, trial
from messages.codec import DecodeError, EncodeError, Rejected, decode, encode
from messages.dialect import LITERALS, Dialect, DialectError, build, load, misnamed
from messages.framing import Deframer, FramingError, frame
from messages.headers import explained
from messages.literals import Literal, LiteralError
from messages.masking import by_length, mask
from messages.sheet import sheet
from messages.subfields import Found, SubfieldError, joined, split
from switch.errors import StartError
from switch.settings import Settings

INPUT_MAX = 200_000  # characters of hex or JSON
NAMED = f"one of {', '.join(LITERALS)}, or a dialect's file"


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    kinds = verbs.add_parser("dialect", help="dialects: show one, check a file, or print the grammar").add_subparsers(dest="kind", required=True)
    checked = kinds.add_parser("check", help="read a dialect's literal without running it, and say what is wrong")
    checked.add_argument("file", type=Path)
    shown = kinds.add_parser("show", help="a dialect as its host must speak it: frame, fields, messages, answers, codes")
    shown.add_argument("dialect", metavar="NAME|FILE", help=NAMED)
    kinds.add_parser("grammar", help="docs/dialects.md, from the types")
    kinds = verbs.add_parser("message", help="messages in hex on standard input").add_subparsers(dest="kind", required=True)
    for kind, text in (("decode", "hex to JSON, masked"), ("encode", "JSON to hex; sub-fields such as 60.1 may be given"),
                       ("explain", "hex to a list of fields with their names and parts, masked")):
        parser = kinds.add_parser(kind, help=text)
        parser.add_argument("--dialect", required=True, metavar="NAME|FILE", help=NAMED)
        parser.add_argument("--framed", action="store_true", help="the length of the dialect's framing stands before it")
        if kind != "encode":
            parser.add_argument("--clear", action="store_true", help="show card data too: for test cards only")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: what was given cannot be read."""
    if options.verb == "dialect" and options.kind == "show":
        return _lines(sheet(_dialect(options.dialect)), say)
    if options.verb == "dialect":
        return _check(options.file, say) if options.kind == "check" else _lines(iter(grammar.page().rstrip("\n").split("\n")), say)
    dialect = _dialect(options.dialect)
    text = sys.stdin.read(INPUT_MAX + 1)
    if len(text) > INPUT_MAX:
        raise StartError(f"standard input has more than {INPUT_MAX} characters")
    if options.kind == "encode":
        return _lines(iter([_encoded(dialect, text, options.framed)]), say)
    message = _decoded(dialect, text, options.framed)
    shown = message if options.clear else mask(dialect, message)
    if options.kind == "decode":
        return _lines(iter([json.dumps(shown)]), say)
    return _lines(_explained(dialect, message, shown, options.clear), say)


def _lines(lines: Iterator[str], say: Callable[[str], None]) -> int:
    for line in lines:
        say(line)
    return 0


def _literal(path: Path) -> Literal:
    try:
        return literals.read(path)
    except LiteralError as error:
        raise StartError(str(error)) from None


def _check(path: Path, say: Callable[[str], None]) -> int:
    literal = _literal(path)
    found = trial.literal_faults(literal.value)
    if not found and path.stem in LITERALS and literal.value["name"] != path.stem:
        found = [misnamed(literal.value["name"], path.stem)]
    for fault in found:
        say(f"{path}: {literal.placed(fault)}")
    if not found:
        say(f"{path}: {literal.value['name']}: sound, {len(literal.value['fields'])} fields, {len(literal.value['messages'])} messages")
    return 1 if found else 0


def _dialect(name: str) -> Dialect:
    if name not in LITERALS and not Path(name).suffix:
        raise StartError(f"no dialect {name[:60]!r}; known: {', '.join(LITERALS)}; a file's name ends in .py")
    try:
        return load(name) if name in LITERALS else build(_literal(Path(name)).value)
    except DialectError as error:
        raise StartError(f"{name}: {error}; switch dialect check says everything") from None


def _decoded(dialect: Dialect, text: str, framed: bool) -> dict[str, str]:
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise StartError("standard input is not hexadecimal text") from None
    try:
        if framed:
            frames = (deframer := Deframer(dialect.framing)).feed(data)
            if len(frames) != 1 or deframer.pending:
                raise StartError(f"standard input holds {len(frames)} whole frames and {deframer.pending} bytes more, not one frame")
            data = frames[0]
        return decode(dialect, data)
    except FramingError as error:
        raise StartError(error.reason) from None
    except Rejected as error:
        raise StartError(f"{error}: the host sent a message back unprocessed ({json.dumps(mask(dialect, error.message))})") from None
    except DecodeError as error:
        raise StartError(f"{error}; read before it: {json.dumps(error.decoded)}") from None


def _encoded(dialect: Dialect, text: str, framed: bool) -> str:
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        raise StartError("standard input is not JSON") from None
    if not isinstance(given, dict) or not all(isinstance(value, str) for value in given.values()):
        raise StartError("standard input must be one JSON object of texts, with the MTI under \"0\"")
    if "0" not in given:
        raise StartError("the MTI is missing; give it under \"0\"")
    message = {number: value for number, value in given.items() if "." not in number}
    for number in dict.fromkeys(path.partition(".")[0] for path in given if "." in path):
        how = dialect.sub_fields.get(number)
        if how is None or number in message:
            raise StartError(f"field {number if number in dialect.fields else '?'}: it has no sub-fields here, or is given whole beside them")
        parts = {path: value for path, value in given.items() if path.startswith(number + ".")}
        try:
            message[number] = joined(number, how, parts, message.get("0", ""))
        except (SubfieldError, LookupError, ValueError) as error:
            raise StartError(str(error) if isinstance(error, SubfieldError) else f"field {number}: its sub-fields do not fit the layout") from None
    try:
        data = encode(dialect, dict(sorted(message.items(), key=lambda item: int(item[0]) if item[0].isdecimal() and item[0].isascii() else -1)))
        return (frame(dialect.framing, data) if framed else data).hex().upper()
    except (EncodeError, FramingError) as error:
        raise StartError(str(error)) from None


def _explained(dialect: Dialect, message: Mapping[str, str], shown: Mapping[str, str], clear: bool) -> Iterator[str]:
    if dialect.header is not None:
        yield from (f"h    {name:42} {value}" for name, value in explained(dialect.header, message["h"]))
    yield f"{'0':4} {'message_type':42} {message['0']}"
    for number in (number for number in message if number not in ("0", "h")):
        meaning = dialect.response(message["39"].strip(), message.get("3", "")) if number == "39" else None
        said = f"  ({meaning.verdict}: {meaning.reason})" if meaning is not None else ""
        yield f"{number:4} {dialect.fields[number].name:42} {shown[number]}{said}"
        yield from _parts(dialect, number, message, shown, clear)


def _parts(dialect: Dialect, number: str, message: Mapping[str, str], shown: Mapping[str, str], clear: bool) -> Iterator[str]:
    how = dialect.sub_fields.get(number)
    if how is None or (number in dialect.never_stored and not clear):
        return
    try:
        found = split(number, how, shown[number] if number == "55" else message[number], message["0"])
    except SubfieldError as error:
        yield f"     {number}: parts cannot be told: {error.reason if number != '55' else 'shown by length'}"
        return
    for part in found:
        yield f"     {part.path:9} {part.name:37} {part.value if clear or _open(dialect, number, part) else by_length(part.value)}"


def _open(dialect: Dialect, number: str, part: Found) -> bool:
    return number in dialect.shown or part.path in dialect.shown or number == "55"  # of DE55 only what mask left is here
