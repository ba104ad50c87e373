"""What the fields of onboarding may hold: one table, one check."""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any
from zoneinfo import available_timezones

from messages.grammar import REVERSAL_OUTCOMES
from switch.errors import Problem
from switch.security.pan import holds_card_number

_CODE, _REROUTE = re.compile("[0-9A-Z]{2}"), re.compile("[0-9A-Z]{2,3}")
Rule = tuple[Callable[[Any], object], str]


def text(pattern: str, rule: str) -> Rule:
    allowed = re.compile(pattern)
    return lambda value: isinstance(value, str) and allowed.fullmatch(value), rule


def number(low: int, high: int) -> Rule:
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high}"


def _printable(shortest: int, longest: int) -> Rule:
    return (lambda value: (isinstance(value, str) and shortest <= len(value) <= longest and value.isprintable() and value == value.strip()
                           and not holds_card_number(value)),
            f"{shortest} to {longest} printable characters, no space at either end, no card number")


def _one_of(*values: str) -> Rule:
    return lambda value: value in values, f"one of: {', '.join(values)}"


@cache
def _zones() -> frozenset[str]:
    return frozenset(available_timezones())


RULES: Mapping[str, Rule] = {
    "name": _printable(1, 120), "person": _printable(1, 120), "city": _printable(0, 40),
    "mcc": text("[0-9]{4}", "four digits (ISO 18245)"), "country": text("[A-Z]{2}", "two capital letters (ISO 3166-1)"),
    "time_zone": (lambda value: value in _zones(), "a name of the IANA time zone database, such as Asia/Shanghai"),
    "duplicate_policy": _one_of("warn", "refuse"), "message_mode": _one_of("single", "dual"),
    "host": text("[A-Za-z0-9.:%_-]{1,253}", "a host name or an IP address"), "port": number(1, 65535),
    "institution_code": text("[0-9]{1,11}", "1 to 11 digits"), "answer_timeout_ms": number(100, 120_000),
    "reversal_codes": (lambda value: isinstance(value, dict) and len(value) <= 100 and all(
        isinstance(code, str) and _CODE.fullmatch(code) and meaning in REVERSAL_OUTCOMES for code, meaning in value.items()),
        f"response codes of two characters 0-9 A-Z, each with one of: {', '.join(sorted(REVERSAL_OUTCOMES))}"),
    "reversal_max_age_s": number(1, 2_592_000), "reversals_per_second": number(1, 10_000), "reversals_at_once": number(1, 2_000),
    "reversal_first": (lambda value: isinstance(value, bool), "true or false"),
    "reversal_grace_ms": number(0, 120_000), "max_in_flight": number(1, 100_000), "min_in_flight": number(1, 100_000),
    "reroute_codes": (lambda value: isinstance(value, list) and len(value) <= 100 and all(
        isinstance(code, str) and _REROUTE.fullmatch(code) for code in value), "a list of response codes of two or three characters 0-9 A-Z"),
    "max_links": number(0, 1000), "sign_on": (lambda value: isinstance(value, bool), "true or false"),
    "line_priority": number(0, 1000), "connections": number(1, 32), "line_status": _one_of("active", "down", "retired"),
    "server_name": text("[A-Za-z0-9.:_-]{1,253}", "the host name or IP address that the host's certificate is for"),
    **dict.fromkeys(("ca_file", "certificate_file", "key_file"),
                    text("/[!-~]{1,999}", "an absolute path on the machines that connect, without spaces")),
    "faults": number(0, 100_000), "percent": number(1, 100), "window_ms": number(1000, 600_000), "pause_ms": number(100, 600_000),
    "probes": number(1, 100), "host_cut_over": _one_of("open", "record", "cut_over"),
    "undelivered": _one_of("alert", "reverse"),
    "card_acceptor_terminal": text("[!-~][ -~]{0,7}", "1 to 8 printable ASCII characters, the first no space"),
    "card_acceptor": text("[!-~][ -~]{0,14}", "1 to 15 printable ASCII characters, the first no space"),
    "latitude_e6": number(-90_000_000, 90_000_000), "longitude_e6": number(-180_000_000, 180_000_000),
    "priority": number(0, 10_000), "basis_points": number(0, 10_000),
}
ACQUIRER_RULES = {**RULES, "name": text("[a-z0-9][a-z0-9_-]{0,39}", "1 to 40 of a-z 0-9 _ -, the first a letter or digit")}


def check(rules: Mapping[str, Rule] = RULES, **values: Any) -> None:
    """Raises Problem invalid with every field that breaks its rule; None is what was not given."""
    refuse([(name, rules[name][1]) for name, value in values.items() if value is not None and not rules[name][0](value)])


def refuse(faults: Sequence[tuple[str, str]]) -> None:
    if faults:
        raise Problem("invalid", "One or more fields are wrong; see errors.",
                      errors=[{"field": name, "rule": rule, "type": "rule"} for name, rule in faults])
