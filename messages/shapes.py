"""What each value of a dialect's literal must look like before anything is made of it. A refusal names the place, the value and what is accepted."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from messages.fields import CONTENT
from messages.framing import ECHOED, KINDS
from messages.grammar import (
    ADVICES,
    BATCH_OUTCOMES,
    FIGURES,
    KEY_ALGORITHMS,
    KEY_PURPOSES,
    KEYS,
    MAC_ALGORITHMS,
    MAC_BYTES,
    MAC_BYTES_LEAST,
    MODES,
    PREFIXES,
    PURPOSES,
    REVERSAL_OUTCOMES,
    VERBS,
    VERDICTS,
)
from messages.headers import HEADERS
from messages.subfields import layout

Shape = Callable[[str, Any], Iterable[str]]
SHOWN_MAX = 60


def _wrong(place: str, value: object, accepted: str) -> str:
    return f"{place}: {repr(value)[:SHOWN_MAX]} is not accepted; {accepted}"


def text(form: str = ".+", accepted: str = "a text") -> Shape:
    matches = re.compile(form, re.DOTALL).fullmatch

    def check(place: str, value: object) -> Iterable[str]:
        if not isinstance(value, str) or not matches(value):
            yield _wrong(place, value, accepted)
    return check


def one_of(names: Iterable[str]) -> Shape:
    known = list(names)

    def check(place: str, value: object) -> Iterable[str]:
        if value not in known:
            yield _wrong(place, value, f"one of {', '.join(known)}")
    return check


def number(least: float, most: float = 1_000_000, parts: bool = False) -> Shape:
    def check(place: str, value: object) -> Iterable[str]:
        if isinstance(value, bool) or not (isinstance(value, int) or (parts and isinstance(value, float))) or not least <= value <= most:
            yield _wrong(place, value, f"a number from {least} to {most}")
    return check


def either(place: str, value: object) -> Iterable[str]:
    if not isinstance(value, bool):
        yield _wrong(place, value, "True or False")


def each(shape: Shape, what: str = "numbers") -> Shape:
    def check(place: str, value: object) -> Iterable[str]:
        if not isinstance(value, tuple | list):
            one = f"; one alone is written ({value!r},)" if isinstance(value, str) else ""
            yield _wrong(place, value, f"a tuple of {what}{one}")
            return
        for entry in value:
            yield from shape(place, entry)
    return check


def table(key: Shape, shape: Shape) -> Shape:
    def check(place: str, value: object) -> Iterable[str]:
        if not isinstance(value, Mapping):
            yield _wrong(place, value, "a dict, {...}")
            return
        for name, entry in value.items():
            wrong = list(key(place, name))
            yield from wrong or shape(f"{place} {name}", entry)
    return check


def record(least: int, *parts: tuple[str, Shape]) -> Shape:
    names = ", ".join(name if at < least else f"[{name}]" for at, (name, _) in enumerate(parts))

    def check(place: str, value: object) -> Iterable[str]:
        if not isinstance(value, tuple | list) or not least <= len(value) <= len(parts):
            yield _wrong(place, value, f"({names})")
            return
        for (name, shape), entry in zip(parts, value, strict=False):
            yield from shape(f"{place}: {name}", entry)
    return check


def maybe(shape: Shape) -> Shape:
    return lambda place, value: () if value is None else shape(place, value)


def _layout(place: str, value: Any) -> Iterable[str]:
    try:
        layout(value)
    except ValueError as error:  # it says itself which part is wrong
        yield f"{place}: {error}"
    except (AttributeError, KeyError, TypeError) as error:
        yield _wrong(place, value, str(error))


def _framing(place: str, value: Any) -> Iterable[str]:
    wrong = list(record(2, ("kind", one_of(KINDS)), ("max_length", number(1)), ("polls", one_of((ECHOED,))))(place, value))
    return wrong or number(1, KINDS[value[0]].most)(f"{place} {value[0]}: max_length", value[1])


def _mac_field(place: str, value: Any) -> Iterable[str]:
    return each(NUMBER)(place, value) if isinstance(value, tuple | list) else NUMBER(place, value)


def _mac_bytes(place: str, value: Any) -> Iterable[str]:
    if type(value) is not int or not MAC_BYTES_LEAST <= value <= MAC_BYTES:
        yield _wrong(place, value, f"a whole number from {MAC_BYTES_LEAST} to {MAC_BYTES}")


def _verb(place: str, value: Any) -> Iterable[str]:
    verb, _, of = value.partition(".") if isinstance(value, str) else ("", "", "")
    if verb not in VERBS or of not in ("", "single", "dual", *VERBS):
        yield _wrong(place, value, f"one of {', '.join(VERBS)}; .single or .dual behind it where the modes differ; "
                     "void.capture is a capture's void, reversal.capture its reversal")


def _entry_modes(place: str, value: Any) -> Iterable[str]:
    yield from table(one_of(MODES), maybe(text()))(place, value)
    if isinstance(value, Mapping):
        for mode, code in value.items():
            if isinstance(code, str) and mode in MODES:
                yield from (text("[0-9]", "one digit") if str(mode).startswith("pin_") else TWO)(f"{place} {mode}", code)


def _network_rule(place: str, value: Any) -> Iterable[str]:
    shapes: Mapping[str, Shape] = {"mti": MTI, "code": PART, "composed": VALUES, "echoed": NUMBERS, "approved": text(), "refused": text(),
                                   "mtis": table(one_of(PURPOSES), MTI)}
    for part, entry in value.items() if isinstance(value, Mapping) else ():
        yield from shapes[part](f"{place} {part}", entry) if part in shapes else ()


def _batch(place: str, value: Any) -> Iterable[str]:
    shapes: Mapping[str, Shape] = {
        "figures": table(PART, one_of(FIGURES)), "codes": table(text(), one_of(BATCH_OUTCOMES)), "told": each(PART),
        "says": table(text(), one_of(BATCH_OUTCOMES[:2])), "accepted": each(text(), "codes"), "own_brands": each(text(), "brands"), "voids": either,
        "items": maybe(record(3, ("field", NUMBER), ("most", number(1, 99)), ("template", text())))}
    yield from table(one_of(shapes), lambda _place, _value: ())(place, value)
    for part, entry in value.items() if isinstance(value, Mapping) else ():
        yield from shapes[part](f"{place} {part}", entry) if part in shapes else ()


NUMBER = text("[0-9]{1,3}", "the number of a field as text, such as '41'")
PART = text(r"[0-9]{1,3}(\.[0-9]{1,2})?", "the number of a field, or of a part of one, as text, such as '41' or '60.2'")
MTI = text("[0-9]{4}", "an MTI of four digits, such as '0200'")
TWO, THREE = text("[0-9]{2}", "two digits, as text"), text("[0-9]{3}", "three digits, as text")
HEX = text("([0-9A-Fa-f]{2})+", "hexadecimal text of whole bytes")
NUMBERS, VALUES = each(NUMBER), table(NUMBER, text(".*"))
OPTION = one_of(("code", "length_code", "pad"))
FIELD = record(4, ("name", text()), ("type", text(accepted=f"one of {', '.join(CONTENT)}")), ("length", number(1, 99_999)),
               ("prefix", number(min(PREFIXES), max(PREFIXES))), ("options", table(OPTION, text())))
KEY_PART = record(4, ("purpose", one_of(KEY_PURPOSES)), ("algorithm", one_of(KEY_ALGORITHMS)), ("bytes", number(8, 32)),
                  ("check value", number(0, 8)),
                  ("mark", text("([0-9A-Fa-f]{2})*", "hexadecimal text of whole bytes")))
MESSAGE = record(3, ("MTI", MTI), ("fixed", VALUES), ("fields", NUMBERS), ("composed", VALUES))
SHAPES: Mapping[str, Shape] = {
    "name": text("[a-z][a-z0-9_]*", "small letters, digits and _"),
    "like": maybe(text()),
    "framing": _framing,
    "header": maybe(record(2, ("kind", one_of(HEADERS)), ("bytes", text("([0-9A-Fa-f]{2}){1,255}", "hexadecimal text of 1 to 255 bytes")))),
    "fixed_bitmap": either,
    "fields": table(NUMBER, FIELD),
    "sub_fields": table(NUMBER, _layout),
    "match": table(text(r"[0-9]|\*", "the second digit of an MTI as text, or '*' for the rest"), each(PART)),
    "agree": NUMBERS,
    "agree_if_present": NUMBERS,
    "approval_code_required": each(MTI, "MTIs"),
    "approval_code_exempt": each(TWO, "starts of DE3"),
    "codes": table(text(), maybe(record(3, ("verdict", one_of(sorted(VERDICTS))), ("reason", text()), ("advice", one_of(sorted(ADVICES)))))),
    "codes_only_for": table(text(), maybe(each(TWO, "starts of DE3"))),
    "reroute_codes": each(text(), "codes"),
    "outage_codes": each(text(), "codes"),
    "reversal_codes": table(text(), maybe(one_of(sorted(REVERSAL_OUTCOMES)))),
    "reversal_first": either,
    "not_reversed": each(one_of(("balance_inquiry", "account_verification")), "verbs without money"),
    "reversal_stan": text(),
    "repeat_mark": either,
    "reject_code": maybe(text()),
    "reversal_reasons": table(text(), text()),
    "mac": maybe(record(4, ("field", _mac_field), ("algorithm", one_of(MAC_ALGORITHMS)), ("classes", each(text("[0-9]"), "second digits of MTIs")),
                        ("code", text()), ("bytes", _mac_bytes))),
    "key_exchange": maybe(record(3, ("field", NUMBER), ("layouts", table(number(8, 999), each(KEY_PART, "keys"))),
                                 ("codes", table(text(), number(1, 99))))),
    "with_pin": VALUES,
    "request_fields": NUMBERS,
    "omitted": NUMBERS,
    "composed": VALUES,
    "icc_dataset": maybe(text("[0-9A-Fa-f]{2}", "two hexadecimal digits, such as '01'")),
    "entry_forms": table(THREE, text()),
    "messages": table(_verb, MESSAGE),
    "network": table(text(), text()),
    "network_rule": _network_rule,
    "batch": _batch,
    "qr_code": maybe(record(2, ("field", NUMBER), ("template", text()))),
    "query": table(one_of(("first_s", "longest_s", "limit_s")), number(0, 86_400, parts=True)),
    "entry_modes": _entry_modes,
    "never_stored": NUMBERS,
    "shown": text("[0-9. ]*", "numbers of fields and of parts with blanks between, in one text"),
}


def faults(literal: Mapping[str, Any]) -> list[str]:
    """What has not the shape of its key; only then is a dialect made of it. A default is what it should be."""
    return [fault for key, shape in SHAPES.items() if key in literal and literal[key] is not KEYS[key].default
            for fault in shape(key, literal[key])]
