"""Every message of a dialect, said once with values as wide as the switch has them: what cannot be encoded, with its verb and field. Pure.

A file may agree with itself and yet never sell: a field that it neither has nor leaves out, a number wider than ours, a template of another length.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from messages import dialect as dialects
from messages.codec import DecodeError, EncodeError, Rejected, decode, encode
from messages.dialect import Dialect, answer_mti
from messages.grammar import MessageRule
from messages.saying import asked, put, said
from messages.templates import answered

FOLLOW_UPS = frozenset({"capture", "increment", "void", "tip", "refund", "offline_sale"})
TOTALS = frozenset({"batch_close", "batch_upload", "batch_end"})  # said from figures; soundness looks at their places
ASKING = frozenset({"query", "close"})
# What the switch has for the fields of its house (docs/wire.md), as wide as it can be.
HOUSE: Mapping[str, str] = {
    "2": "6212345678900000003", "4": "000000012345", "7": "1128020304", "11": "000123", "12": "100304", "13": "1128", "14": "3012", "18": "5812",
    "37": "633202000123", "41": "T0000001", "42": "M00000000000001", "49": "156"}
OPTIONAL: Mapping[str, str] = {
    "23": "001", "32": "12345678", "35": "6212345678900000003=3012101000001234", "43": f"{'Harbour Noodles':<25}{'Shanghai':<13}CN",
    "52": "0123456789ABCDEF", "54": "0044156D000000000100", "55": "9F2608" + "00" * 8}
_OWN: Mapping[str, str] = {
    "stan": HOUSE["11"], "mcc": HOUSE["18"], "rrn": HOUSE["37"], "amount": HOUSE["4"], "transmitted_at": HOUSE["7"], "local_time": HOUSE["12"],
    "local_date": HOUSE["13"], "local": "261128100304", "batch": "261128", "approval_code": "A1B2C3", "terminal": HOUSE["41"],
    "merchant": HOUSE["42"], "currency": HOUSE["49"], "expiry": HOUSE["14"], "transaction": "0" * 32}
_ORIGINAL: Mapping[str, str] = {
    "original_stan": "000122", "original_transmitted_at": "1128020204", "original_local_time": "100204", "original_local_date": "1128",
    "original_local": "261128100204", "original_batch": "261128", "original_amount": "000000012345", "original_rrn": "633202000122",
    "original_transaction": "0" * 32}


def literal_faults(literal: Any) -> list[str]:
    """All that is wrong with a literal: its contradictions or, where it has none, what cannot be said; [] when it is sound."""
    return dialects.faults(literal) or faults(dialects.build(literal))


def faults(dialect: Dialect) -> list[str]:
    """What cannot be said, each once, with the messages that it is in."""
    found: dict[str, list[str]] = {}
    for place, fault in (*_money_faults(dialect), *_network_faults(dialect)):
        places = found.setdefault(fault, [])
        if place not in places:
            places.append(place)
    return [f"{places[0]}: {fault}" + (f" (and {len(places) - 1} more messages)" if len(places) > 1 else "") for fault, places in found.items()]


class Names(dict[str, str]):
    """Sample values for the names of templates; what a host answered is not known here."""

    def __missing__(self, name: str) -> str:
        if answered(name):
            return ""
        raise KeyError(name)


def names(dialect: Dialect, rule: MessageRule, institution: str) -> Names:
    """`institution`: the acquirer's DE32, or nothing."""
    mti = rule.mti
    return Names({
        **_OWN, **_ORIGINAL, "mti": mti, "original_mti": mti, "processing_code": rule.fixed.get("3", "000000"), "institution": institution,
        "institution_length": f"{len(institution):02d}",
        "original_elements": f"{mti}{_ORIGINAL['original_stan']}{_ORIGINAL['original_local']}{len(institution):02d}{institution}",
        "reversal_reason": next(iter(dialect.reversal_reasons.values()), "")})


def _money_faults(dialect: Dialect) -> Iterator[tuple[str, str]]:
    for institution in (OPTIONAL["32"], ""):
        where = "" if institution else " of an acquirer without an institution_code"
        for verb, rule in dialect.messages.items():
            if verb.partition(".")[0] in TOTALS:
                continue
            for message in _messages(dialect, verb, rule, institution):
                yield from ((f"message {verb}{where}", fault) for fault in _unsaid(dialect, message))
                if verb != "reversal":  # there it depends on what is undone
                    yield from ((f"message {verb}", f"field {number} is required, and nothing makes it")
                                for number in rule.required if number not in message)


def _messages(dialect: Dialect, verb: str, rule: MessageRule, institution: str) -> Iterator[dict[str, str]]:
    kind, sample = verb.partition(".")[0], names(dialect, rule, institution)
    plain = {**HOUSE, "0": rule.mti, "3": rule.fixed.get("3", "000000"), "25": rule.fixed.get("25", "00")}
    for form in _entry_forms(dialect, kind):
        message = {**plain, "22": form, **({"32": institution} if institution and kind not in ASKING else {})}
        if kind == "reversal":
            yield from _reversals(dialect, rule, message, sample)
            return
        if kind in ASKING:
            message = {number: value for number, value in message.items() if number not in ("2", "14")}
        elif kind in FOLLOW_UPS:
            of = {"38": "A1B2C3", "90": f"{rule.mti}{_ORIGINAL['original_stan']}{_ORIGINAL['original_transmitted_at']}{'0' * 22}"}
            message |= {number: value for number, value in of.items() if number in rule.required}
        else:
            message |= _optional(dialect)
        yield message | dict(rule.fixed) if dialect.house else said(dialect, rule, message, sample)


def _entry_forms(dialect: Dialect, kind: str) -> Iterator[str]:
    """DE22 of each way of reading that the dialect has; one is enough where nothing is read."""
    pin = dialect.entry_modes.get("pin_absent", "2")
    forms = [f"{code}{pin}" for mode, code in dialect.entry_modes.items() if mode not in ("pin_present", "pin_absent", "qr")] or [f"01{pin}"]
    yield from forms if kind not in FOLLOW_UPS | ASKING | {"reversal"} else forms[:1]


def _optional(dialect: Dialect) -> dict[str, str]:
    """What a request has now and then; what belongs to a way of reading that is not offered is never there."""
    modes = dialect.entry_modes
    offered = {"23": "chip" in modes, "35": "magstripe" in modes, "52": "52" in dialect.fields, "55": "chip" in modes, "43": True, "54": True}
    found = {number: OPTIONAL[number] for number, there in offered.items() if there}
    return found | (dict(dialect.with_pin) if "52" in found else {})


def _reversals(dialect: Dialect, rule: MessageRule, message: dict[str, str], sample: dict[str, str]) -> Iterator[dict[str, str]]:
    """A reversal of each verb that has no other one: what it undoes gives it the fields that both carry."""
    for verb, undone in dialect.messages.items():
        kind = verb.partition(".")[0]
        if kind in TOTALS | ASKING | {"reversal"} or dialect.messages.get(f"reversal.{kind}", rule) is not rule:
            continue
        owed = {**message, "3": undone.fixed.get("3", "000000"), "25": undone.fixed.get("25", "00"), "38": "A1B2C3",
                "90": f"{undone.mti}{HOUSE['11']}{HOUSE['7']}{'0' * 22}"}
        if dialect.house:
            yield owed
            continue
        own = Names({**sample, "mti": undone.mti, "original_mti": undone.mti, "processing_code": owed["3"]})
        shared = {number: template for number, template in undone.composed.items() if number in rule.required and number not in rule.composed}
        yield put(said(dialect, rule, owed, own), shared.items(), own)


def _network_faults(dialect: Dialect) -> Iterator[tuple[str, str]]:
    rule = dialect.network_rule
    for purpose in dialect.network:
        message = asked(dialect, purpose, _OWN)
        yield from ((f"network {purpose}", fault) for fault in _unsaid(dialect, message))
        for part, answer in (("approved", rule.approved), ("refused", rule.refused)):
            told = {"0": answer_mti(message["0"]), **{number: message[number] for number in rule.echoed if number in message}, "39": answer}
            yield from ((f"network_rule {part}", f"our answer {answer!r} to a host: {fault}") for fault in _unsaid(dialect, told)
                        if fault.startswith("field 39"))


def _unsaid(dialect: Dialect, message: Mapping[str, str]) -> Iterator[str]:
    try:
        decode(dialect, encode(dialect, message))
    except EncodeError as error:
        yield f"field {error.field}: {error.reason}"
    except (DecodeError, Rejected) as error:
        yield f"it cannot be read back: {error}"
