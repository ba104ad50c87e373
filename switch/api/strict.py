"""The one reader of JSON bodies: RFC 8259 with I-JSON's limits (RFC 7493), integers only, nothing echoed."""

import json
import re
from collections.abc import Iterable
from typing import Any, NoReturn

import orjson

from switch.errors import PROBLEMS

DEPTH_MAX = 16
DIGITS_MAX = 15  # every such integer is exact in any JSON reader, and int() stays cheap
_CONTAINERS = (dict, list)
_SPACE = b" \t\n\r"
_SURROGATE = re.compile("[\ud800-\udfff]")


class StrictError(ValueError):
    """A body that is refused. `code`: a key of PROBLEMS; `detail`: its fixed remedy, never part of the body."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code)
        self.code, self.detail = code, detail


class _Refused(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _Refused("json_duplicate_key")
    return members


def _integer(text: str) -> int:
    if len(text.removeprefix("-")) > DIGITS_MAX or text == "-0":
        raise _Refused("json_number")
    return int(text)


def _no_number(_: str) -> NoReturn:
    raise _Refused("json_number")


_decode = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_no_number, parse_constant=_no_number).decode


def parse(raw: bytes) -> Any:
    """The value of a JSON text. Raises StrictError; neither it nor what it is chained to holds any part of the body."""
    try:
        return _value(raw)
    except _Refused as refused:
        code = refused.code
    except UnicodeDecodeError:
        code = "json_encoding"
    except RecursionError:
        code = "json_depth"
    except ValueError:
        code = "json_malformed"
    del raw  # raised outside the handlers and without the body: the decoder's own error holds the whole text
    raise StrictError(code, PROBLEMS[code].remedy)


def plain(raw: bytes) -> Any:
    """The value of a text that is the same when it is written again, white space apart: then no key came twice, and a third of `parse` finds it.
    None: not known to be so. It may hold what `parse` refuses (fractions, long numbers, too many levels), so whoever checks it and finds a fault
    asks `parse` first.
    """
    if b"\\" in raw:  # what is escaped may be written in other ways too
        return None
    try:
        value = orjson.loads(raw)
    except ValueError:
        return None
    again = orjson.dumps(value)
    return value if again == raw or again.translate(None, _SPACE) == raw.translate(None, _SPACE) else None


def _value(raw: bytes) -> Any:
    text = str(raw, "utf-8")
    if text.startswith("\ufeff"):
        raise _Refused("json_encoding")
    value = _decode(text)
    if text.count("{") + text.count("[") > DEPTH_MAX:  # never fewer brackets than levels
        _check_depth(value)
    if "\\u" in text:  # UTF-8 holds no surrogate and the decoder takes no raw control character: only an escape can make one
        _check_strings(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(DEPTH_MAX):
        level = [child for parent in level for child in _children(parent) if isinstance(child, _CONTAINERS)]
        if not level:
            return
    raise _Refused("json_depth")


def _children(parent: Any) -> Iterable[Any]:
    if isinstance(parent, dict):
        return parent.values()
    return parent if isinstance(parent, list) else ()


def _check_strings(value: Any) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            _check_string(item)
        elif isinstance(item, dict):
            waiting.extend(item)
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


def _check_string(text: str) -> None:
    if "\0" in text:
        raise _Refused("json_nul")
    if _SURROGATE.search(text):
        raise _Refused("json_surrogate")
