"""How the switch names what it asks of a plug-in, and what comes back: a dialect that is never on a wire. Pure.

The walk, the duties and the books speak in fields of ISO 8583, so that a sale at a wallet lives, is reversed and settles as any other. Field 62 is
our number of the row, field 61 that of the sale it is about, field 24 the verb.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

from messages.dialect import Dialect, build
from messages.grammar import MessageRule
from switch.money import ALPHA_OF
from switch.plug_ins import DECLINES, WORDS, Answer, Asked, PlugIn, Unknown

VERB_OF = {"100": "pay", "200": "query", "300": "close", "400": "cancel", "500": "refund", "600": "void"}
MESSAGES = {"purchase.single": "pay", "query": "query", "close": "close", "reversal": "cancel", "refund": "refund", "void": "void"}
OURS, SALE = {"62": "{transaction}", "61": "{transaction}"}, {"62": "{transaction}", "61": "{original_transaction}"}
CODE_OF = {"paid": "00", "done": "00", "cancelled": "00", "pending": "09", "closed": "P1", "unknown_order": "25",
           "refused": "05", "insufficient_funds": "51", "code_invalid": "14", "code_expired": "54", "limit_exceeded": "61", "not_permitted": "57",
           "not_refundable": "40"}

LITERAL: Mapping[str, Any] = {
    "name": "orders",
    "framing": ("binary2", 4096),
    "fields": {
        "2": ("primary_account_number", "n", 19, 2), "3": ("processing_code", "n", 6, 0), "4": ("transaction_amount", "n", 12, 0),
        "7": ("transmission_date_time", "n", 10, 0), "11": ("systems_trace_audit_number", "n", 6, 0), "12": ("local_time", "n", 6, 0),
        "13": ("local_date", "n", 4, 0), "22": ("pos_entry_mode", "n", 3, 0), "24": ("verb", "n", 3, 0), "25": ("pos_condition_code", "n", 2, 0),
        "37": ("retrieval_reference_number", "an", 12, 0), "38": ("approval_code", "an", 6, 0), "39": ("response_code", "an", 2, 0),
        "41": ("terminal_identification", "ans", 8, 0), "42": ("card_acceptor_identification", "ans", 15, 0),
        "48": ("reference_of_the_host", "ans", 64, 2), "49": ("transaction_currency", "an", 3, 0), "59": ("payment_code", "n", 32, 2),
        "61": ("order", "an", 32, 0), "62": ("own_number", "an", 32, 0),
    },
    "match": {"*": ("62",)},
    "agree": ("4", "49", "61"),
    "agree_if_present": (),
    "approval_code_required": (),
    "approval_code_exempt": (),
    "codes": {
        "00": ("approved", "approved", "none"),
        "09": ("pending", "payer_decides", "ask_again"),
        "25": ("doubt", "order_unknown", "ask_again"),
        "P1": ("declined", "not_paid_in_time", "retry_new_key"),
        "05": ("declined", "do_not_honour", "other_card"),
        "14": ("declined", "invalid_payment_code", "retry_new_key"),
        "40": ("declined", "function_not_supported", "none"),
        "51": ("declined", "insufficient_funds", "other_card"),
        "54": ("declined", "expired_payment_code", "retry_new_key"),
        "57": ("declined", "not_permitted_to_cardholder", "other_card"),
        "61": ("declined", "exceeds_amount_limit", "other_card"),
    },
    "codes_only_for": {},
    "reversal_codes": {"00": "acknowledged", "25": "not_found", "09": "retry"},
    "reversal_first": False,
    "reversal_stan": "original",
    "repeat_mark": False,
    "request_fields": ("3", "4", "41", "42", "49"),
    "omitted": ("2", "7", "12", "13", "14", "18", "23", "25", "32", "35", "37", "38", "43", "52", "54", "55", "90"),
    "messages": {
        "purchase.single": ("0200", {"3": "000000", "24": "100", "25": "00"}, ("61", "62"), OURS),
        "void": ("0200", {"3": "020000", "24": "600", "25": "00"}, ("61", "62"), SALE),
        "refund": ("0200", {"3": "200000", "24": "500", "25": "00"}, ("61", "62"), SALE),
        "reversal": ("0400", {"24": "400"}, ("61", "62")),
        "query": ("0600", {"24": "200"}, ("61", "62"), SALE),
        "close": ("0600", {"24": "300"}, ("61", "62"), SALE),
    },
    "network": {},
    "network_rule": {"code": "24", "composed": {"11": "{stan}", "24": "{code}"}, "echoed": ("11",)},
    "qr_code": ("59", "{code}"),
    "query": {"first_s": 1.0, "longest_s": 5.0},
    "entry_modes": {"qr": "03", "pin_present": "1", "pin_absent": "2"},
    "never_stored": ("59",),
    "shown": "3 4 7 11 22 24 25 37 39 41 42 48 49 61 62",
}


@cache
def _whole() -> Dialect:
    return build(LITERAL)


def dialect(plug_in: PlugIn) -> Dialect:
    """A plug-in's dialect: what its hosts cannot do is left out."""
    messages: dict[str, MessageRule] = {name: rule for name, rule in _whole().messages.items() if MESSAGES[name] in plug_in.verbs}
    return replace(_whole(), name=plug_in.name, messages=messages)


def asked(message: Mapping[str, str], limit_s: int) -> Asked:
    """What a message asks. LookupError: it is none of ours."""
    verb, order, own = VERB_OF[message["24"]], message["61"], message["62"]
    return Asked(verb, order, own if own != order else None, int(message["4"]), ALPHA_OF[message["49"]], message["42"].rstrip(),
                 message["41"].rstrip(), message.get("59"), limit_s if verb == "pay" else None)


def believed(question: Asked, said: Answer) -> Answer | Unknown:
    """The answer, if it speaks of what was asked, in words that are an answer to it."""
    for name in ("order", "part") if said.word == "unknown_order" else ("order", "part", "amount", "currency"):
        if getattr(question, name) != getattr(said, name):
            return Unknown("differs", name)
    words = {"cancel": {"cancelled", "pending", "unknown_order"}, "refund": {"done", "declined", "pending", "unknown_order"}}
    expected = words["cancel"] if question.verb == "cancel" else words["refund"] if question.part is not None else WORDS - {"done", "cancelled"}
    if said.word not in expected or (said.word == "declined" and said.reason not in DECLINES) or len(said.reference) > 64:
        return Unknown("unreadable", "word")
    return said


def message(request: Mapping[str, str], said: Answer) -> dict[str, str]:
    """The answer as the walk and the duties read it."""
    kept = {number: request[number] for number in ("3", "4", "41", "42", "49", "61", "62")}
    code = CODE_OF[said.reason if said.word == "declined" else said.word]
    mti = {"0200": "0210", "0400": "0410", "0600": "0610"}[request["0"]]
    reference = {"48": said.reference} if said.reference and said.reference.isascii() and said.reference.isprintable() else {}
    return {"0": mti, **kept, "39": code, **reference}


