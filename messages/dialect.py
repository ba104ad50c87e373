"""A dialect of ISO 8583 as immutable data: fields, match rules, response codes, messages. Read once from its literal, checked whole."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from messages import dialects, shapes, soundness
from messages.framing import Framing
from messages.grammar import (
    KEYS,
    LIKE,
    REQUIRED,
    BatchRule,
    Coding,
    Field,
    KeyExchange,
    KeyPart,
    MacRule,
    MessageRule,
    NetworkRule,
    QueryRule,
    ResponseCode,
)
from messages.headers import Header
from messages.literals import Folder, LiteralError
from messages.subfields import Layout, Positional, SubfieldError, layout, split

# A dialect is one file in its folder; nothing else names it, and only those that are spoken are read.
LITERALS: Mapping[str, Mapping[str, Any]] = Folder(Path(dialects.__path__[0]))
UNKNOWN_CODE = ResponseCode("doubt", "unknown_code", "new_payment_allowed")  # a code in no set is doubt (docs/wire.md)


@dataclass(frozen=True, slots=True, eq=False)
class Dialect:
    """One acquirer's way of speaking. Field numbers are strings, "0" is the MTI."""

    name: str
    framing: Framing
    header: Header | None
    coding: Coding
    fixed_bitmap: bool
    fields: Mapping[str, Field]
    sub_fields: Mapping[str, Layout]
    match: Mapping[str, tuple[str, ...]]  # MTI class digit, "*" for the rest -> fields of the match key
    agree: tuple[str, ...]
    agree_if_present: tuple[str, ...]
    approval_code_required: tuple[str, ...]  # MTIs of answers
    approval_code_exempt: tuple[str, ...]  # first two digits of DE3
    codes: Mapping[str, ResponseCode]
    codes_only_for: Mapping[str, tuple[str, ...]]  # code -> first two digits of DE3 it holds for
    reroute_codes: frozenset[str]  # DE39 of declined requests after which another acquirer may be asked
    outage_codes: tuple[str, ...]  # what a line's breaker counts beside timeouts
    reversal_codes: Mapping[str, str]  # DE39 of an answered reversal -> one of REVERSAL_OUTCOMES; anything else: send it again
    reversal_first: bool  # a terminal's open reversal must be done before its next sale
    not_reversed: frozenset[str]  # what has no effect at the host
    reversal_stan: str  # own, original
    repeat_mark: bool
    reject_code: str | None
    reversal_reasons: Mapping[str, str]
    mac: MacRule | None
    key_exchange: KeyExchange | None
    with_pin: Mapping[str, str]
    request_fields: tuple[str, ...]
    omitted: frozenset[str]
    composed: Mapping[str, str]  # field -> template: see grammar.NAMES
    icc_dataset: str | None
    entry_forms: Mapping[str, str]
    messages: Mapping[str, MessageRule]
    network: Mapping[str, str]
    network_rule: NetworkRule
    batch: BatchRule
    qr_code: tuple[str, str] | None  # field and template of the payment code of a QR sale
    query: QueryRule
    entry_modes: Mapping[str, str]
    never_stored: frozenset[str]
    shown: frozenset[str]
    key_cuts: Mapping[str, tuple[str, slice]]  # sub-fields that match names -> where they are
    house: bool  # whether messages leave as the switch makes them

    @property
    def asks(self) -> bool:
        """Whether its host decides in its own time: what is not known is asked for, never reversed."""
        return "query" in self.messages

    def rule(self, type_: str, original: str = "") -> MessageRule:
        """How a verb is said; `void.capture` is the void of a capture, `reversal.void` the reversal of a void, where it is another message.
        KeyError: it is not offered."""
        return self.messages.get(f"{type_}.{original}") or self.messages[type_]

    def said_by(self, type_: str, mti: str, processing_code: str, condition: str) -> MessageRule:
        """The rule by which a stored transaction was said. KeyError if there is none."""
        for verb, rule in self.messages.items():
            said = verb.partition(".")[0], rule.mti, rule.fixed.get("3"), rule.fixed.get("25", "00")
            if said == (type_, mti, processing_code, condition):
                return rule
        return self.messages[type_]

    def value(self, message: Mapping[str, str], number: str) -> str:
        """What a message has for a field, or for a sub-field by position; "" when it is not there."""
        if number in message:
            return message[number]
        cut = self.key_cuts.get(number)
        return message.get(cut[0], "")[cut[1]] if cut is not None else ""

    def part(self, message: Mapping[str, str], path: str) -> str:
        """As `value`, in whatever layout a message of its MTI has; "" also where the field is not made as the layout says."""
        number, _, inner = path.partition(".")
        if not inner or number not in message or number not in self.sub_fields:
            return message.get(path, "")
        try:
            found = split(number, self.sub_fields[number], message[number], message["0"])
        except SubfieldError:
            return ""
        return next((part.value for part in found if part.path == path), "")

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
    try:
        literal = LITERALS[name]
    except LiteralError as error:
        raise DialectError(str(error)) from None
    dialect = build(literal)
    if dialect.name != name:
        raise DialectError(f"dialect {name}: {misnamed(dialect.name, name)}")
    return dialect


def misnamed(name: str, file: str) -> str:
    """What is wrong where a file of ours, by which acquirers know its dialect, is called otherwise than that."""
    return f"name: {name!r}, and the file is called {file}"


def build(literal: Mapping[str, Any]) -> Dialect:
    """A dialect from its literal (docs/dialects.md). Raises DialectError."""
    faults = soundness.key_faults(literal) or shapes.faults(literal)
    if faults:
        raise DialectError(f"dialect literal: {faults[0]}")
    try:
        dialect = _built(_whole(literal))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DialectError(f"dialect literal: {error}") from error
    for fault in soundness.faults(dialect):
        raise DialectError(f"dialect {dialect.name}: {fault}")
    return dialect


def faults(literal: Mapping[str, Any]) -> list[str]:
    """Everything that contradicts itself in a literal, in words; []: a dialect can be built of it."""
    found = soundness.key_faults(literal) or shapes.faults(literal)
    if found:
        return found
    try:
        return soundness.faults(_built(_whole(literal)))
    except LiteralError as error:
        return [f"like: {error}"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        return [str(error) if str(error).startswith("like: ") else f"a value has another shape than docs/dialects.md says: {error}"]


def _whole(literal: Mapping[str, Any]) -> dict[str, Any]:
    """With the defaults, and with what it takes from the dialect that it is like."""
    whole: dict[str, Any] = {name: key.default for name, key in KEYS.items() if key.default is not REQUIRED} | dict(literal)
    if whole["like"] is None:
        return whole
    if whole["like"] not in LITERALS or "like" in LITERALS[whole["like"]]:
        raise ValueError(f"like: {whole['like']!r} is none of {', '.join(_whole_ones())}")
    for key in LIKE:
        begun = {**LITERALS[whole["like"]][key], **literal.get(key, {})}
        whole[key] = {entry: value for entry, value in begun.items() if value is not None}
    return whole


def _whole_ones() -> Iterator[str]:
    """Those that another may be like: they are like none, and can be read."""
    for name in LITERALS:
        with suppress(LiteralError):
            if "like" not in LITERALS[name]:
                yield name


def _built(literal: Mapping[str, Any]) -> Dialect:
    coding = Coding(**literal["coding"])
    layouts = {number: layout(form) for number, form in literal["sub_fields"].items()}
    return Dialect(
        name=literal["name"],
        framing=Framing(*literal["framing"]),
        header=Header(*literal["header"]) if literal["header"] is not None else None,
        coding=coding,
        fixed_bitmap=bool(literal["fixed_bitmap"]),
        fields=_frozen({number: _field(coding, number, *rest) for number, rest in literal["fields"].items()}),
        sub_fields=_frozen(layouts),
        match=_frozen(literal["match"]),
        agree=literal["agree"],
        agree_if_present=literal["agree_if_present"],
        approval_code_required=literal["approval_code_required"],
        approval_code_exempt=literal["approval_code_exempt"],
        codes=_frozen({code: ResponseCode(*rest) for code, rest in literal["codes"].items()}),
        codes_only_for=_frozen(literal["codes_only_for"]),
        reroute_codes=frozenset(literal["reroute_codes"]),
        outage_codes=literal["outage_codes"],
        reversal_codes=_frozen(literal["reversal_codes"]),
        reversal_first=bool(literal["reversal_first"]),
        not_reversed=frozenset(literal["not_reversed"]),
        reversal_stan=literal["reversal_stan"],
        repeat_mark=bool(literal["repeat_mark"]),
        reject_code=literal["reject_code"],
        reversal_reasons=_frozen(literal["reversal_reasons"]),
        mac=_mac(*literal["mac"]) if literal["mac"] is not None else None,
        key_exchange=_key_exchange(*literal["key_exchange"]) if literal["key_exchange"] is not None else None,
        with_pin=_frozen(literal["with_pin"]),
        request_fields=literal["request_fields"],
        omitted=frozenset(literal["omitted"]),
        composed=_frozen(literal["composed"]),
        icc_dataset=literal["icc_dataset"],
        entry_forms=_frozen(literal["entry_forms"]),
        messages=_frozen({verb: MessageRule(mti, _frozen(fixed), *more) for verb, (mti, fixed, *more) in literal["messages"].items()}),
        network=_frozen(literal["network"]),
        network_rule=NetworkRule(**literal["network_rule"]),
        batch=BatchRule(**literal["batch"]),
        qr_code=literal["qr_code"],
        query=QueryRule(**literal["query"]),
        entry_modes=_frozen(literal["entry_modes"]),
        never_stored=frozenset(literal["never_stored"]),
        shown=frozenset(literal["shown"].split()),
        key_cuts=_frozen(_cuts(layouts)),
        house=not (literal["omitted"] or literal["composed"] or literal["entry_forms"] or literal["icc_dataset"] or any(
            len(rest) > 3 and rest[3] for verb, rest in literal["messages"].items() if not verb.startswith("batch_"))),
    )


def _mac(fields: str | tuple[str, ...], *more: Any) -> MacRule:
    return MacRule((fields,) if isinstance(fields, str) else tuple(fields), *more)


def _key_exchange(field: str, layouts: Mapping[int, tuple[Any, ...]], sign_on_after: Mapping[str, int]) -> KeyExchange:
    return KeyExchange(field, _frozen({length: tuple(KeyPart(*part) for part in parts) for length, parts in layouts.items()}), _frozen(sign_on_after))


def _field(coding: Coding, number: str, name: str, type_: str, length: int, prefix: int, options: Mapping[str, str] | None = None) -> Field:
    part = {"n": coding.digits, "z": coding.track, "b": coding.binary}.get(type_, "text")
    given = {"code": part, "length_code": coding.length, "pad": coding.pad} | dict(options or {})
    return Field(number, name, type_, length, prefix, **{key: coding.text if code == "text" else code for key, code in given.items()})


def _cuts(layouts: Mapping[str, Layout]) -> dict[str, tuple[str, slice]]:
    found = {}
    for number, how in layouts.items():
        at = 0
        for index, part in enumerate(how.parts if isinstance(how, Positional) else (), 1):
            if part.prefix:  # from here on nobody knows the place
                break
            found[f"{number}.{index}"] = number, slice(at, at := at + part.length)
    return found


def match_key(dialect: Dialect, message: Mapping[str, str]) -> str:
    """The MTI's class digit and the fields the dialect matches by, joined by "|": the same for a request, its repeat and its answer."""
    mti_class = message["0"][1]
    numbers = dialect.match.get(mti_class) or dialect.match["*"]
    if dialect.key_cuts:
        return "|".join([mti_class, *[dialect.value(message, number) for number in numbers]])
    return "|".join([mti_class, *[message.get(number, "") for number in numbers]])


def differing_field(dialect: Dialect, request: Mapping[str, str], answer: Mapping[str, str]) -> str | None:
    """The first part of the match key that differs ("0" for another MTI class): why an answer was not matched."""
    mti_class = request["0"][1]
    if answer["0"][1] != mti_class:
        return "0"
    numbers = dialect.match.get(mti_class) or dialect.match["*"]
    return next((number for number in numbers if dialect.value(request, number) != dialect.value(answer, number)), None)


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
            in_part = number == "4" and response.verdict == "partial" and 0 < minor_units(answer.get("4", "")) < minor_units(request["4"])
            if not in_part:
                return number
    for number in dialect.agree_if_present:
        if number in request and number in answer and answer[number] != request[number]:
            return number
    if _approval_code_missing(dialect, request, answer, response):
        return "38"
    return None


def minor_units(amount: str) -> int:
    """What DE4 says, also where currency and exponent or a sign stand before its twelve digits (ISO 8583:2003); 0 for what is none."""
    digits = amount[-12:]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def _approval_code_missing(dialect: Dialect, request: Mapping[str, str], answer: Mapping[str, str], response: ResponseCode) -> bool:
    return (
        answer["0"] in dialect.approval_code_required
        and response.verdict in ("approved", "partial")
        and minor_units(request.get("4", "")) > 0
        and not request.get("3", "").startswith(dialect.approval_code_exempt)
        and not answer.get("38", "").strip()
    )


def _frozen(mapping: Mapping[Any, Any]) -> Mapping[Any, Any]:
    return MappingProxyType(dict(mapping))
