"""A dialect of ISO 8583 as immutable data: fields, match rules, response codes, messages. Read once from its literal, checked whole."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any, NamedTuple

from messages.dialects import iso87_ascii
from messages.fields import CONTENT, check
from messages.framing import Framing

VERDICTS = frozenset({"approved", "partial", "declined", "doubt"})
ADVICES = frozenset(
    {"none", "retry_new_key", "other_card", "enter_pin", "call_issuer", "capture_card", "new_payment_allowed"},
)
FIELD_NUMBERS = frozenset(str(number) for number in range(2, 129)) - {"65"}  # 1 and 65 are the bits of further bitmaps
REVERSAL_OUTCOMES = frozenset({"acknowledged", "not_found", "retry", "park"})
LITERALS: Mapping[str, Mapping[str, Any]] = {"iso87_ascii": iso87_ascii.DIALECT}


class Field(NamedTuple):
    """One data element."""

    number: str
    name: str
    type: str  # a key of fields.CONTENT
    length: int  # characters: exact when prefix is 0, else the maximum; hex characters for type b
    prefix: int  # digits of the length prefix: 0 (fixed), 2 (LLVAR), 3 (LLLVAR)


class ResponseCode(NamedTuple):
    """What a DE39 means for the payment."""

    verdict: str  # approved, partial, declined, doubt
    reason: str
    advice: str  # what the terminal should do next: one of ADVICES


class MessageRule(NamedTuple):
    """How one verb is said: its MTI, the fields whose value the verb fixes, and those it carries beyond `request_fields`."""

    mti: str
    fixed: Mapping[str, str]
    required: tuple[str, ...]


UNKNOWN_CODE = ResponseCode("doubt", "unknown_code", "new_payment_allowed")  # a code in no set is doubt (docs/wire.md)


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """One acquirer's way of speaking. Field numbers are strings, "0" is the MTI."""

    name: str
    framing: Framing
    fields: Mapping[str, Field]
    match: Mapping[str, tuple[str, ...]]  # MTI class digit, "*" for the rest -> fields of the match key
    agree: tuple[str, ...]
    agree_if_present: tuple[str, ...]
    approval_code_required: tuple[str, ...]  # MTIs of answers
    approval_code_exempt: tuple[str, ...]  # first two digits of DE3
    codes: Mapping[str, ResponseCode]
    codes_only_for: Mapping[str, tuple[str, ...]]  # code -> first two digits of DE3 it holds for
    reversal_codes: Mapping[str, str]  # DE39 of an answered reversal -> one of REVERSAL_OUTCOMES; anything else: send it again
    reversal_first: bool  # a terminal's open reversal must be done before its next sale
    request_fields: tuple[str, ...]
    messages: Mapping[str, MessageRule]
    network: Mapping[str, str]
    entry_modes: Mapping[str, str]
    never_stored: frozenset[str]
    shown: frozenset[str]

    def response(self, code: str, processing_code: str = "") -> ResponseCode:
        """The meaning of a DE39, given DE3 of the request. A code in no set, or used where it does not hold, is doubt."""
        known = self.codes.get(code)
        if known is None:
            return UNKNOWN_CODE
        only_for = self.codes_only_for.get(code)
        return UNKNOWN_CODE if only_for and not processing_code.startswith(only_for) else known


class DialectError(ValueError):
    """A dialect's literal contradicts itself; the text names the part."""


@cache
def load(name: str) -> Dialect:
    """The dialect of that name, built once. LookupError (naming the known ones) if there is none, DialectError if its literal is wrong."""
    if name not in LITERALS:
        raise LookupError(f"no dialect {name!r}; known: {', '.join(sorted(LITERALS))}")
    return build(LITERALS[name])


def build(literal: Mapping[str, Any]) -> Dialect:
    """A dialect from its literal (the shape of `dialects/iso87_ascii.py`). Raises DialectError."""
    try:
        dialect = Dialect(
            name=literal["name"],
            framing=Framing(*literal["framing"]),
            fields=_frozen({number: Field(number, *rest) for number, rest in literal["fields"].items()}),
            match=_frozen(literal["match"]),
            agree=literal["agree"],
            agree_if_present=literal["agree_if_present"],
            approval_code_required=literal["approval_code_required"],
            approval_code_exempt=literal["approval_code_exempt"],
            codes=_frozen({code: ResponseCode(*rest) for code, rest in literal["codes"].items()}),
            codes_only_for=_frozen(literal["codes_only_for"]),
            reversal_codes=_frozen(literal["reversal_codes"]),
            reversal_first=bool(literal["reversal_first"]),
            request_fields=literal["request_fields"],
            messages=_frozen({verb: MessageRule(mti, _frozen(fixed), more) for verb, (mti, fixed, more) in literal["messages"].items()}),
            network=_frozen(literal["network"]),
            entry_modes=_frozen(literal["entry_modes"]),
            never_stored=frozenset(literal["never_stored"]),
            shown=frozenset(literal["shown"].split()),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DialectError(f"dialect literal: {error}") from error
    for faults in (_field_faults, _reference_faults, _code_faults, _message_faults):
        for fault in faults(dialect):
            raise DialectError(f"dialect {dialect.name}: {fault}")
    return dialect


def match_key(dialect: Dialect, message: Mapping[str, str]) -> str:
    """The MTI's class digit and the fields the dialect matches by, joined by "|": the same for a request, its repeat and its answer."""
    mti_class = message["0"][1]
    numbers = dialect.match.get(mti_class) or dialect.match["*"]
    return "|".join([mti_class, *[message.get(number, "") for number in numbers]])


def differing_field(dialect: Dialect, request: Mapping[str, str], answer: Mapping[str, str]) -> str | None:
    """The first part of the match key that differs ("0" for another MTI class): why an answer was not matched."""
    mti_class = request["0"][1]
    if answer["0"][1] != mti_class:
        return "0"
    numbers = dialect.match.get(mti_class) or dialect.match["*"]
    return next((number for number in numbers if request.get(number, "") != answer.get(number, "")), None)


def answer_mti(mti: str) -> str:
    """The MTI that answers: 0200 and 0201 -> 0210, 0420 and 0421 -> 0430 (ISO 8583:1987, MTI)."""
    return f"{mti[:2]}{int(mti[2]) | 1}{int(mti[3]) & ~1}"


def repeat_mti(mti: str) -> str:
    """The MTI of the same message sent again: 0420 -> 0421; a repeat stays one."""
    return f"{mti[:3]}{int(mti[3]) | 1}"


def answer_fault(dialect: Dialect, request: Mapping[str, str], answer: Mapping[str, str]) -> str | None:
    """The field that makes a message with the request's match key no answer to it ("0", "39", "4", "38" ...), or None.

    Such a message is evidence, and the timer goes on (docs/wire.md).
    """
    if answer["0"] != answer_mti(request["0"]):
        return "0"
    code = answer.get("39", "").strip()
    if not code:
        return "39"
    response = dialect.response(code, request.get("3", ""))
    for number in dialect.agree:
        if number in request and answer.get(number) != request[number]:
            in_part = number == "4" and response.verdict == "partial" and 0 < int(answer.get("4", "0")) < int(request["4"])
            if not in_part:
                return number
    for number in dialect.agree_if_present:
        if number in request and number in answer and answer[number] != request[number]:
            return number
    if _approval_code_missing(dialect, request, answer, response):
        return "38"
    return None


def _approval_code_missing(dialect: Dialect, request: Mapping[str, str], answer: Mapping[str, str], response: ResponseCode) -> bool:
    return (
        answer["0"] in dialect.approval_code_required
        and response.verdict in ("approved", "partial")
        and int(request.get("4", "0")) > 0
        and not request.get("3", "").startswith(dialect.approval_code_exempt)
        and not answer.get("38", "").strip()
    )


def _frozen(mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return MappingProxyType(dict(mapping))


def _field_faults(dialect: Dialect) -> list[str]:
    faults = []
    for field in dialect.fields.values():
        if field.number not in FIELD_NUMBERS:
            faults.append(f"field {field.number}: not a number from 2 to 128 (65 is a bitmap)")
        elif field.type not in CONTENT:
            faults.append(f"field {field.number}: type {field.type} is none of {', '.join(CONTENT)}")
        elif field.prefix not in (0, 2, 3) or not 1 <= field.length <= (10**field.prefix - 1 if field.prefix else 999):
            faults.append(f"field {field.number}: length {field.length} does not fit a prefix of {field.prefix} digits")
        elif field.type == "b" and field.length % 2:
            faults.append(f"field {field.number}: hex text of odd length")
    return faults


def _reference_faults(dialect: Dialect) -> list[str]:
    named = {
        "match": [number for numbers in dialect.match.values() for number in numbers],
        "agree": dialect.agree,
        "agree_if_present": dialect.agree_if_present,
        "request_fields": dialect.request_fields,
        "never_stored": dialect.never_stored,
        "shown": dialect.shown,
    }
    faults = [f"{part}: no field {number}" for part, numbers in named.items() for number in numbers if number not in dialect.fields]
    if "*" not in dialect.match:
        faults.append('match: no default "*"')
    # A match key is read back as one text: only fixed fields cannot run into each other.
    faults += [f"match: field {number} is not fixed" for number in named["match"] if dialect.fields.get(number, _NONE).prefix]
    faults += [f"shown: field {number} is never stored" for number in dialect.shown & dialect.never_stored]
    return faults


_NONE = Field("", "", "", 0, 0)


def _code_faults(dialect: Dialect) -> list[str]:
    faults = [f"code {code}: not two characters" for code in (*dialect.codes, *dialect.reversal_codes) if len(code) != 2]
    for code, response in dialect.codes.items():
        if response.verdict not in VERDICTS or response.advice not in ADVICES:
            faults.append(f"code {code}: verdict {response.verdict}, advice {response.advice}")
    faults += [f"codes_only_for: no code {code}" for code in dialect.codes_only_for if code not in dialect.codes]
    faults += [f"reversal code {code}: {to}" for code, to in dialect.reversal_codes.items() if to not in REVERSAL_OUTCOMES]
    return faults


def _message_faults(dialect: Dialect) -> list[str]:
    faults = []
    for verb, rule in dialect.messages.items():
        if not (len(rule.mti) == 4 and rule.mti.isdecimal()):
            faults.append(f"message {verb}: MTI {rule.mti}")
        faults += [f"message {verb}: no field {number}" for number in (*rule.fixed, *rule.required) if number not in dialect.fields]
        for number, value in rule.fixed.items():
            field = dialect.fields.get(number)
            if field and not check(field.type, field.length, field.prefix)(value):
                faults.append(f"message {verb}: field {number} cannot be {value}")
    return faults
