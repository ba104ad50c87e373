"""Between a transaction and the acquirer's messages. Pure: fields in, fields out; what a dialect lacks is absent data."""

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

import orjson

from messages.dialect import Dialect, answer_mti, match_key, minor_units
from messages.masking import mask
from messages.saying import put, said
from messages.tlv import EMV_STORED, TlvError, keep
from switch.money import CURRENCIES
from switch.payments.naming import Names
from switch.payments.transaction import STOOD_IN_FOR, Event, Transaction, stood_in
from switch.records import Acquirer, Merchant, Store
from switch.security.pan import Pan, PaymentCode, Secret

# DE54 amount types for the parts of a purchase (ISO 8583:1987, DE54).
CASHBACK, TIP = "40", "44"
# For the chip: issuer authentication data, scripts before and after the second cryptogram (with their name and commands inside), response code.
EMV_ANSWER = frozenset({"91", "71", "72", "8A", "9F18", "86"})
TERMINAL_WIDTH, ACCEPTOR_WIDTH = 8, 15


class Emv(NamedTuple):
    """DE55 as the chip gave it, and the part of it that may be kept (hex)."""

    sent: str
    stored: str


class Order(NamedTuple):
    """What a terminal asks for, checked. Amounts in minor units; the secrets live in memory only."""

    type: str
    amount: int
    currency: str
    capture_method: str | None
    partial_approval: str
    tip_amount: int
    cashback_amount: int
    entry_mode: str
    pan: Pan | PaymentCode  # what pays: a card's number, or with entry mode qr the code on the payer's phone
    expiry: str
    track2: Secret | None
    sequence_number: str | None
    emv: Emv | None
    pin_block: Secret | None
    terminal_trace: str | None
    reference: str | None
    local_time: datetime | None
    pin_format: str = "iso0"
    pin_key: str | None = None  # the terminal's name for the key that the block is under
    pin_serial: str | None = None  # or the serial number of DUKPT, hex


class Verdict(NamedTuple):
    """What an acquirer's answer says, in our words."""

    event: Event
    response_code: str
    reason: str
    advice: str
    approved_amount: int
    approval_code: str | None
    acquirer_rrn: str | None
    emv: str | None
    balances: str | None
    message: str  # masked, JSON


def verb(type_: str, message_mode: str) -> str:
    """The dialect's name for a request of this type."""
    return f"{type_}.{message_mode}" if type_ in ("purchase", "cash_advance") else type_


def fault(order: Order, dialect: Dialect, message_mode: str, pin_translated: bool = False) -> str | None:
    """Why this acquirer cannot do what the order asks, or None. Found before anything is written. `pin_translated`: its PIN blocks get a key and
    format of its own."""
    if verb(order.type, message_mode) not in dialect.messages:
        return f"{order.type} is not offered by this acquirer"
    if order.capture_method == "manual" and message_mode == "single" and order.type in ("purchase", "cash_advance"):
        return "capture_method manual needs a dual-message acquirer"
    if order.capture_method == "automatic" and order.type == "preauthorization":
        return "a preauthorization is captured by hand: capture_method automatic is not possible"
    if (order.capture_method == "automatic" and message_mode == "dual" and "capture" not in dialect.messages
            and order.type in ("purchase", "cash_advance")):
        return "this acquirer captures by file: capture_method automatic is not possible"
    if order.entry_mode not in dialect.entry_modes:
        return f"entry mode {order.entry_mode} is not offered by this acquirer"
    if order.entry_mode == "qr" and (order.type != "purchase" or order.capture_method != "automatic"):
        return "a payment code pays purchases that are captured at once"
    if order.type == "refund" and any("{original_" in template for template in dialect.messages["refund"].composed.values()):
        return "this acquirer takes a refund only with its sale"
    if order.emv is not None and len(order.emv.sent) > (room := _chip_room(dialect)):
        return f"this acquirer takes at most {room // 2} bytes of EMV data"
    if order.tip_amount and order.cashback_amount and "54" in dialect.fields and len(_additional_amounts(order)) > dialect.fields["54"].length:
        return "this acquirer takes no tip and cash back in one sale"
    return _pin_fault(order, dialect, pin_translated) if order.pin_block is not None else None


def _chip_room(dialect: Dialect) -> int:
    """Characters of hex that chip data may have, beside the head of the dataset that it goes in."""
    length = dialect.fields["55"].length if "55" in dialect.fields else 0
    return length if dialect.icc_dataset is None else length - len(dialect.icc_dataset) - 4


def _pin_fault(order: Order, dialect: Dialect, translated: bool) -> str | None:
    if "52" in dialect.fields and translated:
        return None
    if "52" not in dialect.fields or order.pin_block is None or len(order.pin_block.reveal()) != dialect.fields["52"].length:
        return "this acquirer takes PIN blocks of 8 bytes (iso0) only"
    return None if order.pin_format in ("iso0", "iso4") else "this acquirer takes iso0 PIN blocks only"


def local(order: Order, store: Store, received_at: datetime) -> datetime:
    """The wall clock at the terminal, for DE12 and DE13."""
    return order.local_time if order.local_time is not None else received_at.astimezone(store.zone)


def entry_mode(order: Order, dialect: Dialect) -> str:
    return dialect.entry_modes[order.entry_mode] + dialect.entry_modes["pin_present" if order.pin_block is not None else "pin_absent"]


def _additional_amounts(order: Order) -> str:
    if not (order.cashback_amount or order.tip_amount):
        return ""
    numeric = CURRENCIES[order.currency][0]
    parts = ((CASHBACK, order.cashback_amount), (TIP, order.tip_amount))
    return "".join(f"00{kind}{numeric}D{amount:012d}" for kind, amount in parts if amount)


def _name_location(merchant: Merchant, store: Store) -> str | None:
    """DE43: 25 name, 13 city, 2 country; left out when it is not plain ASCII or the city is not known."""
    text = f"{merchant.name:<25.25}{store.city:<13.13}{store.country}"
    return text if store.city and text.isascii() and text.isprintable() else None


def request(order: Order, transaction: Transaction, acquirer: Acquirer, merchant: Merchant, store: Store) -> dict[str, str]:
    """The request as the acquirer gets it (docs/wire.md); the codec puts the fields in order."""
    optional = {
        "23": order.sequence_number, "32": acquirer.institution_code, "35": order.track2.reveal() if order.track2 else None,
        "43": _name_location(merchant, store), "52": order.pin_block.reveal() if order.pin_block else None,
        "54": _additional_amounts(order) or None, "55": order.emv.sent if order.emv else None,
    }
    code = order.pan if isinstance(order.pan, PaymentCode) else None
    message = {
        "0": transaction.mti, **({"2": order.pan.reveal(), "14": order.expiry} if code is None else {}), "3": transaction.processing_code,
        "4": f"{transaction.amount:012d}", "7": transaction.transmitted_at, "11": transaction.stan, "12": transaction.local_time,
        "13": transaction.local_date, "18": transaction.mcc, "22": transaction.pos_entry_mode, "25": transaction.pos_condition,
        "37": transaction.rrn, "41": transaction.card_acceptor_terminal, "42": transaction.card_acceptor,
        "49": CURRENCIES[transaction.currency][0],
    }
    for number, value in optional.items():
        if value is not None:
            message[number] = value
    dialect = acquirer.dialect
    if "52" in message:
        message |= dialect.with_pin
    if not dialect.house:
        rule = dialect.said_by(_said_as(transaction), transaction.mti, transaction.processing_code, transaction.pos_condition)
        message = said(dialect, rule, message, Names(transaction, None, dialect, acquirer.institution_code, order.expiry))
    if code is not None and dialect.qr_code is not None:
        number, template = dialect.qr_code
        message[number] = template.format(code=code.reveal(), code_length=f"{len(code.reveal()):03d}")
    return message


def _said_as(transaction: Transaction) -> str:
    """The verb of its message: a sale that was stood in for is said like an offline approval."""
    return STOOD_IN_FOR if stood_in(transaction) else transaction.type


def original_elements(transaction: Transaction) -> str:
    """DE90: MTI, DE11 and DE7 of the original, then zeros."""
    return f"{transaction.mti}{transaction.stan}{transaction.transmitted_at}{'0' * 22}"


def _institution(code: str | None) -> dict[str, str]:
    return {"32": code} if code is not None else {}


def _card(pan: Pan | None, expiry: str) -> dict[str, str]:
    """DE2 and DE14; of a QR sale there is no card."""
    return {"2": pan.reveal(), "14": expiry} if pan is not None else {}


def reversal(transaction: Transaction, dialect: Dialect, pan: Pan | None, expiry: str, stan: str, transmitted_at: str,
             original: Transaction | None = None, institution: str | None = None) -> dict[str, str]:
    """The reversal of a stored transaction: from the row alone (and that of its original, if it follows one), without track, PIN or chip data."""
    rule = dialect.rule("reversal", _said_as(transaction))
    message = {
        "0": rule.mti, **_card(pan, expiry), "3": transaction.processing_code, "4": f"{transaction.amount:012d}", "7": transmitted_at,
        "11": stan, "12": transaction.local_time, "13": transaction.local_date, "18": transaction.mcc,
        "22": transaction.pos_entry_mode, "25": transaction.pos_condition, **_institution(institution), "37": transaction.rrn,
        **({"38": transaction.approval_code.ljust(6)} if transaction.approval_code else {}),
        "41": transaction.card_acceptor_terminal, "42": transaction.card_acceptor, "49": CURRENCIES[transaction.currency][0],
        "90": original_elements(transaction),
    }
    return message if dialect.house else _undoing(transaction, dialect, message, original, institution)


def _undoing(transaction: Transaction, dialect: Dialect, message: dict[str, str], original: Transaction | None,
             institution: str | None) -> dict[str, str]:
    """A reversal as a dialect says it. What it undoes gives it the fields that both carry, as it had them itself."""
    rule = dialect.rule("reversal", _said_as(transaction))
    undone = dialect.said_by(_said_as(transaction), transaction.mti, transaction.processing_code, transaction.pos_condition)
    expiry = message.get("14", "")
    found = said(dialect, rule, message, Names(transaction, None, dialect, institution, expiry))
    shared = {number: template for number, template in undone.composed.items() if number in rule.required and number not in rule.composed}
    return put(found, shared.items(), Names(transaction, original, dialect, institution, expiry))


def reversal_key(transaction: Transaction, dialect: Dialect, stan: str, transmitted_at: str) -> str:
    """The match key of a reversal, before its message is made."""
    mti = dialect.rule("reversal", _said_as(transaction)).mti
    message = {"0": mti, "7": transmitted_at, "11": stan, "22": transaction.pos_entry_mode, "37": transaction.rrn,
               "41": transaction.card_acceptor_terminal, "42": transaction.card_acceptor}
    return match_key(dialect, message if dialect.house else _undoing(transaction, dialect, message, None, None))


def query(transaction: Transaction, original: Transaction | None, dialect: Dialect, verb_: str, institution: str | None = None) -> dict[str, str]:
    """What a host is asked of a stored transaction that it has not decided: query, or close. From the rows alone."""
    rule = dialect.messages[verb_]
    message = {
        "0": rule.mti, "3": transaction.processing_code, "4": f"{transaction.amount:012d}", "7": transaction.transmitted_at,
        "11": transaction.stan, "12": transaction.local_time, "13": transaction.local_date, "18": transaction.mcc,
        "22": transaction.pos_entry_mode, "25": transaction.pos_condition, "37": transaction.rrn,
        "41": transaction.card_acceptor_terminal, "42": transaction.card_acceptor, "49": CURRENCIES[transaction.currency][0],
    }
    return message | dict(rule.fixed) if dialect.house else said(dialect, rule, message, Names(transaction, original, dialect, institution))


def follow_up(transaction: Transaction, original: Transaction | None, dialect: Dialect, pan: Pan | None, expiry: str,
              institution: str | None = None) -> dict[str, str]:
    """A stored follow-up as its acquirer gets it: DE38 and DE90 of the original where the dialect asks for them; an offline sale has its own
    DE38. From the rows alone, without track, PIN or chip data."""
    rule = dialect.said_by(_said_as(transaction), transaction.mti, transaction.processing_code, transaction.pos_condition)
    asked, approval_code = rule.required, (original or transaction).approval_code
    message = {
        "0": transaction.mti, **_card(pan, expiry), "3": transaction.processing_code, "4": f"{transaction.amount:012d}",
        "7": transaction.transmitted_at, "11": transaction.stan, "12": transaction.local_time, "13": transaction.local_date,
        "18": transaction.mcc, "22": transaction.pos_entry_mode, "25": transaction.pos_condition, **_institution(institution),
        "37": transaction.rrn, **({"38": approval_code.ljust(6)} if approval_code and "38" in asked else {}),
        "41": transaction.card_acceptor_terminal, "42": transaction.card_acceptor, "49": CURRENCIES[transaction.currency][0],
        **({"90": original_elements(original)} if original is not None and "90" in asked else {}),
    }
    return message if dialect.house else said(dialect, rule, message, Names(transaction, original, dialect, institution, expiry))


def masked(dialect: Dialect, message: Mapping[str, str], stored_emv: str | None = None) -> str:
    """The message as it may be stored, as JSON; `stored_emv` is what may be kept of its DE55, where that is known already."""
    return orjson.dumps(mask(dialect, message, stored_emv)).decode()


TWO = tuple(f"{number:02d}" for number in range(60))  # a look-up is a fifth of a format
EVENT_OF = {"approved": Event.APPROVE, "partial": Event.APPROVE, "declined": Event.DECLINE, "doubt": Event.DOUBT, "pending": Event.PENDING}


def verdict(transaction: Transaction, dialect: Dialect, answer: Mapping[str, str]) -> Verdict:
    """Reads a matched answer. The link has proven that key, amount, currency and terminal agree and that DE39 is there."""
    code = answer["39"].strip()
    response = dialect.response(code, transaction.processing_code)
    event, approved = EVENT_OF[response.verdict], 0
    if response.verdict == "approved":
        approved = transaction.amount
    elif response.verdict == "partial":
        approved = minor_units(answer["4"])
        if not 0 < approved < transaction.amount:
            event, approved = Event.DOUBT, 0  # a part that is none
        elif transaction.partial_approval == "refuse":
            event = Event.PARTIAL_REFUSED
    return Verdict(event, code, response.reason, response.advice, approved, (answer.get("38") or "").strip() or None,
                   (answer.get("37") or "").strip() or None, _answer_emv(_chip_data(dialect, answer.get("55"))), answer.get("54"),
                   masked(dialect, answer))


def _chip_data(dialect: Dialect, text: str | None) -> str | None:
    """DE55 without the head of the dataset that it comes in."""
    head = dialect.icc_dataset
    return text if head is None or not text or not text.startswith(head) else text[len(head) + 4:]


def _answer_emv(text: str | None) -> str | None:
    """What is for the chip; what else the issuer sends stays out of the books."""
    if not text:
        return None
    try:
        return keep(text, EMV_ANSWER) or None
    except TlvError:
        return None


def emv(text: str) -> Emv:
    """Checked DE55. Raises TlvError, which never shows data."""
    return Emv(text.upper(), keep(text, EMV_STORED, once=True))


def is_answer_to(transaction: Transaction, message: Mapping[str, str]) -> bool:
    """Whether a late message answers the stored request itself, not its reversal."""
    return message.get("0") == answer_mti(transaction.mti)


def de7(at: datetime) -> str:
    """DE7: UTC, MMDDhhmmss."""
    return mmdd(at) + hhmmss(at)


def mmdd(at: datetime) -> str:
    return f"{TWO[at.month]}{TWO[at.day]}"


def hhmmss(at: datetime) -> str:
    return f"{TWO[at.hour]}{TWO[at.minute]}{TWO[at.second]}"


def hash64(*parts: bytes) -> int:
    """A signed 64-bit key for an index; parts are of fixed length but the last."""
    return int.from_bytes(hashlib.blake2b(b"".join(parts), digest_size=8).digest(), "big", signed=True)
