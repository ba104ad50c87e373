"""Parameters of terminals: which there are, what they may hold, and which of four levels counts. Pure.

The levels are defaults, merchant, store, terminal; the nearest to the terminal wins, and null takes a value of a farther level away. What a terminal
gets is a function of the versions of its four levels, so these four numbers name it for ever: `3.0.1.2`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

LEVELS = ("default", "merchant", "store", "terminal")
Rule = tuple[Callable[[Any], bool], str]


def _number(low: int, high: int) -> Rule:
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}"


def _text(longest: int) -> Rule:
    return (lambda value: isinstance(value, str) and len(value) <= longest and all(line.isprintable() for line in value.split("\n")),
            f"at most {longest} printable characters and line feeds")


def _one_of(*values: object) -> Rule:
    return lambda value: type(value) in map(type, values) and value in values, f"one of: {', '.join(map(str, values))}"


def _some_of(*values: str) -> Rule:
    return (lambda value: isinstance(value, list) and 0 < len(value) == len({str(each) for each in value}) and all(each in values for each in value),
            f"a list of: {', '.join(values)}, each once")


def _matching(pattern: str, words: str) -> Rule:
    allowed = re.compile(pattern, re.ASCII)
    return lambda value: isinstance(value, str) and allowed.fullmatch(value) is not None, words


_FLAG: Rule = (lambda value: isinstance(value, bool), "true or false")
KNOWN: Mapping[str, Rule] = MappingProxyType({
    "heartbeat_interval_s": _number(10, 86_400),
    "silent_after_s": _number(60, 2_592_000),
    "answer_timeout_s": _number(36, 120),  # longer than the switch's own 35 s
    "idle_timeout_s": _number(5, 3600),
    "offline_allowed": _FLAG,
    "offline_amount_max": _number(0, 999_999_999_999),
    "offline_count_max": _number(0, 10_000),
    "entry_modes": _some_of("chip", "contactless", "magstripe", "manual", "fallback", "qr"),
    "currencies": (lambda value: isinstance(value, list) and 0 < len(value) <= 20 and all(
        isinstance(each, str) and re.fullmatch("[A-Z]{3}", each) for each in value), "a list of up to 20 ISO 4217 codes"),
    "amount_max": _number(1, 999_999_999_999),
    "tips_allowed": _FLAG, "refunds_allowed": _FLAG, "preauthorizations_allowed": _FLAG, "signature_required": _FLAG,
    "supervisor_for_refunds": _FLAG,
    "batch_close_at": _matching("([01][0-9]|2[0-3]):[0-5][0-9]", "a time of the store's day, such as 23:30"),
    "receipt_language": _one_of("zh", "en"), "receipt_width_mm": _one_of(58, 80), "receipt_copies": _number(0, 3),
    "receipt_header": _text(200), "receipt_footer": _text(400),
    "update_window": _matching("([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]", "a part of the store's day, such as 02:00-05:00"),
})
# What a maker's own software needs: free names, plain values.
OWN = re.compile("x_[a-z0-9_]{1,60}", re.ASCII)
_OWN_RULE = "text of at most 200 characters, a whole number of at most 15 digits, true or false"
COUNT_MAX = 200
SILENT_AFTER_S = 86_400
_VERSION = re.compile(r"(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){3}", re.ASCII)


def faults(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Each name that is not known or holds what it may not, with its rule. An unknown name is input and not repeated."""
    if len(values) > COUNT_MAX:
        return [("values", f"at most {COUNT_MAX} parameters")]
    found = []
    for name, value in values.items():
        if name in KNOWN:
            if value is not None and not KNOWN[name][0](value):
                found.append((f"values.{name}", KNOWN[name][1]))
        elif not OWN.fullmatch(name):
            found.append(("values.(unknown name)", f"x_ and a name of your own, or one of: {', '.join(KNOWN)}"))
        elif value is not None and not (isinstance(value, bool) or (isinstance(value, int) and abs(value) < 10**15)
                                        or (isinstance(value, str) and len(value) <= 200 and value.isprintable())):
            found.append((f"values.{name}", _OWN_RULE))
    return found


def resolved(levels: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What holds, from the farthest level to the nearest; sorted by name, so that the same parameters are the same text."""
    together: dict[str, Any] = {}
    for values in levels:
        together |= values
    return {name: together[name] for name in sorted(together) if together[name] is not None}


def version_of(versions: Sequence[int]) -> str:
    return ".".join(map(str, versions))


def versions_of(text: str) -> list[int] | None:
    """The four numbers behind a version, or None when it is none."""
    return [int(each) for each in text.split(".")] if _VERSION.fullmatch(text) else None


def same(if_none_match: str, etag: str) -> bool:
    """Whether a caller has what `etag` names (RFC 9110, 13.1.2: compared weakly)."""
    offered = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return "*" in offered or etag in offered
