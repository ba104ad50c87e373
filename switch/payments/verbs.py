"""The verbs that follow an authorization: what allows them, how much, and why not. Pure: rows in, refusals out.

The database holds the same limits (migrations r0003); here they get their reasons, and CODE_OF names those of the database.
"""

from collections.abc import Mapping, Sequence
from datetime import date, datetime
from types import MappingProxyType
from typing import NamedTuple
from uuid import UUID

from messages.dialect import Dialect
from switch.money import AMOUNT_MAX
from switch.payments.transaction import APPROVED, CONFIRMED, DECLINED, NOT_SENT, PARKED, REVERSED, REVERSING, SENT, Transaction, stood_in

# Route -> type of the transaction that it makes, which is also the dialect's name of its message.
VERBS: Mapping[str, str] = MappingProxyType({"captures": "capture", "increments": "increment", "voids": "void", "tips": "tip", "refunds": "refund"})
SALES = frozenset({"purchase", "preauthorization", "cash_advance", "offline_sale"})
TAKES = frozenset({"capture", "tip"})  # what moves money from capturable to captured
OPEN = frozenset({SENT, REVERSING, PARKED})
OVER = frozenset({DECLINED, NOT_SENT, REVERSED})
RETRY_AFTER_S = 5
BASIS = 10_000

CODE_OF: Mapping[str, str] = MappingProxyType({
    "captured_within_capturable": "amount_exceeds_capturable", "undone_within_captured": "amount_exceeds_refundable",
    "void_stands_alone": "follow_up_open", "void_once": "already_voided", "original_stands": "not_capturable",
    "original_not_expired": "not_capturable", "increment_before_capture": "not_incrementable",
    "stand_in_terms_allow": "acquirer_unavailable", "stand_in_within_day": "acquirer_unavailable",
})


class Follower(NamedTuple):
    """A follow-up of a transaction. `automatic`: the capture that a dual-message sale owes by itself."""

    transaction_id: UUID
    type: str
    state: str
    amount: int
    automatic: bool
    business_date: date
    received_at: datetime


class Refusal(NamedTuple):
    """Why not: a code of errors.PROBLEMS, for people a detail, and when to ask again."""

    code: str
    detail: str = ""
    retry_after: int | None = None
    amounts: Mapping[str, int] = MappingProxyType({})


def exchange(dialect: Dialect, type_: str) -> str | None:
    """request or advice, as the dialect's message says it (ISO 8583, MTI function), or query; None: the dialect lacks it."""
    rule = dialect.messages.get(type_)
    return None if rule is None else "advice" if rule.mti[2] in "23" else asking(dialect)


def asking(dialect: Dialect) -> str:
    """The exchange of a request: query where the host decides in its own time."""
    return "query" if dialect.asks else "request"


def names_capture(type_: str, original: Transaction, dialect: Dialect) -> bool:
    """Whether the host knows what was captured by hand as a transaction of its own, which what undoes it names in place of the authorization."""
    return (type_ in ("void", "refund", "tip") and original.capture_method == "manual" and "void.capture" in dialect.messages
            and original.captured + original.voided_captured > 0)


def to_capture(original: Transaction) -> int:
    """What may still be captured."""
    return max(0, original.capturable - original.captured - original.capture_reserved - original.released) if stands(original) else 0


def to_refund(original: Transaction) -> int:
    """What may still be given back."""
    return max(0, original.captured - original.charged_back - original.refunded - original.refund_reserved) if stands(original) else 0


def stands(original: Transaction) -> bool:
    return original.state in (APPROVED, CONFIRMED) and not original.voided


def remaining(original: Transaction) -> dict[str, int]:
    """What a refusal tells: the amounts, and what is left of them."""
    return {"authorised": original.authorised, "captured": original.captured, "refunded": original.refunded, "charged_back": original.charged_back,
            "left_to_capture": to_capture(original), "left_to_refund": to_refund(original)}


def amount_of(type_: str, original: Transaction, asked: int | None) -> int:
    """What the follow-up is about: what was asked, else all there is."""
    if asked is not None:
        return asked
    if type_ == "void":
        return original.captured or original.authorised
    return to_refund(original) if type_ == "refund" else min(to_capture(original), authorised_left(original))


def authorised_left(original: Transaction) -> int:
    """What of the authorised amount is not captured yet. The tolerance above it is taken only by who names an amount: the cardholder agreed to it
    for a tip or a final bill, and to nothing else."""
    return max(0, original.authorised - original.captured - original.capture_reserved - original.released)


def tolerance(authorised: int, basis_points: int) -> int:
    """What may be captured beyond the authorised amount: rounded down, within DE4."""
    return max(0, min(authorised * basis_points // BASIS, AMOUNT_MAX - authorised))


def refusal(type_: str, original: Transaction, followers: Sequence[Follower], amount: int, open_day: date, now: datetime) -> Refusal | None:
    """Why this follow-up of `amount` may not be, or None. `open_day`: the acquirer's business date."""
    found = _state(type_, original) or RULES[type_](original, followers, amount, open_day, now)
    return found and found._replace(amounts=remaining(original))


def captured_in_parts(type_: str, original: Transaction, followers: Sequence[Follower], dialect: Dialect) -> Refusal | None:
    """A host that knows each capture as a transaction of its own is told to void one, not a sum."""
    captures = sum(follower.type == "capture" and follower.state in (APPROVED, CONFIRMED) for follower in followers)
    if type_ == "void" and captures > 1 and names_capture(type_, original, dialect):
        return Refusal("not_voidable", "It was captured in parts, and its acquirer voids one at a time; refund it.", amounts=remaining(original))
    return None


def _state(type_: str, original: Transaction) -> Refusal | None:
    never = NEVER[type_]
    if original.original_id is not None or original.type not in SALES:
        return Refusal(never, f"A {original.type} has no {type_}.")
    if original.state == SENT:
        return Refusal("follow_up_open", "Its acquirer has not been told of it yet." if stood_in(original) else "Its own outcome is not known yet.",
                       RETRY_AFTER_S)
    if original.voided:
        return Refusal("already_voided")
    if original.state not in (APPROVED, CONFIRMED):
        return Refusal(never, "It does not stand: it was declined, never sent, or is being or has been reversed.")
    if original.void_reserved:
        return Refusal("follow_up_open", "A void of it is open.", RETRY_AFTER_S)
    return None


def _capture(original: Transaction, followers: Sequence[Follower], amount: int, open_day: date, now: datetime) -> Refusal | None:
    if original.capture_method != "manual" and not held_by_people(original, followers):
        return Refusal("not_capturable", "It is captured by itself.")
    if expired(original, now):
        return Refusal("not_capturable", "The authorization has expired; what was left of it is released.")
    if amount < 1:
        return Refusal("not_capturable", "Nothing is left to capture.")
    return Refusal("amount_exceeds_capturable") if amount > to_capture(original) else None


def held_by_people(original: Transaction, followers: Sequence[Follower]) -> bool:
    """Whether two people confirmed a sale of two messages whose own capture was never made, or went with its reversal."""
    gone = all(follower.state in OVER for follower in followers if follower.automatic)
    return original.state == CONFIRMED and original.mti.startswith("01") and gone


def _increment(original: Transaction, followers: Sequence[Follower], amount: int, open_day: date, now: datetime) -> Refusal | None:
    if original.capture_method != "manual":
        return Refusal("not_incrementable", "Only what is captured by hand can be raised.")
    if expired(original, now):
        return Refusal("not_incrementable", "The authorization has expired.")
    if original.captured or original.capture_reserved or original.released:
        return Refusal("not_incrementable", "It is captured already, in part or whole.")
    if original.capturable + original.increment_reserved + 2 * amount > AMOUNT_MAX:
        return Refusal("not_incrementable", "The sum would be too large.")
    return None


def _void(original: Transaction, followers: Sequence[Follower], amount: int, open_day: date, now: datetime) -> Refusal | None:
    if original.refunded or original.charged_back:
        return Refusal("not_voidable", "It is refunded or charged back already, in part or whole.")
    if original.captured and captured_on(original, followers) < open_day:
        return Refusal("day_closed")
    if any(follower.state in OPEN for follower in followers):
        return Refusal("follow_up_open", "A void takes all, so it waits until every other follow-up has its outcome.", RETRY_AFTER_S)
    if amount != amount_of("void", original, None):  # its message says what there was when it was asked for
        return Refusal("follow_up_open", "Another follow-up had its outcome meanwhile; void it again.", RETRY_AFTER_S)
    return None


def _tip(original: Transaction, followers: Sequence[Follower], amount: int, open_day: date, now: datetime) -> Refusal | None:
    if original.type == "cash_advance":
        return Refusal("not_tippable", "Nobody tips the cash that is handed out.")
    if not original.captured:
        return Refusal("not_tippable", "A tip is added to what is captured; capture it with the tip instead.")
    if captured_on(original, followers) < open_day:
        return Refusal("day_closed", "Take the tip as a sale of its own.")
    if amount > to_capture(original):
        return Refusal("amount_exceeds_capturable", "The tip is more than the margin above the sale that is in force here; its operator sets it.")
    return None


def _refund(original: Transaction, followers: Sequence[Follower], amount: int, open_day: date, now: datetime) -> Refusal | None:
    if not original.captured:
        return Refusal("not_refundable", "Nothing of it is captured; void it instead.")
    if any(follower.automatic and follower.state in OPEN for follower in followers):
        return Refusal("follow_up_open", "The acquirer has not acknowledged its capture yet.", RETRY_AFTER_S)
    if amount < 1:
        return Refusal("not_refundable", "Nothing is left to refund.")
    return Refusal("amount_exceeds_refundable") if amount > to_refund(original) else None


RULES = MappingProxyType({"capture": _capture, "increment": _increment, "void": _void, "tip": _tip, "refund": _refund})
NEVER = MappingProxyType({"capture": "not_capturable", "increment": "not_incrementable", "void": "not_voidable", "tip": "not_tippable",
                          "refund": "not_refundable"})


def expired(original: Transaction, now: datetime) -> bool:
    return original.expires_at is not None and now >= original.expires_at


def captured_on(original: Transaction, followers: Sequence[Follower]) -> date:
    """The earliest business date of what is captured."""
    by_hand = [follower.business_date for follower in followers if follower.type in TAKES and follower.state in (APPROVED, CONFIRMED)]
    return min(by_hand, default=original.business_date) if original.capture_method == "manual" else original.business_date


def undo_refusal(original: Transaction, followers: Sequence[Follower], open_day: date) -> Refusal | None:
    """Why a whole authorization may not be undone any more, or None: its day is closed, or something was built on it."""
    if original.state == APPROVED and original.business_date < open_day:
        return Refusal("day_closed")
    if original.charged_back:
        return Refusal("follow_up_exists", "It is charged back, in part or whole.")
    built = [follower for follower in followers if not follower.automatic and follower.state not in OVER]
    if any(follower.state in (APPROVED, CONFIRMED) for follower in built):
        return Refusal("follow_up_exists")
    return Refusal("follow_up_open", "A follow-up of it has no outcome yet.", RETRY_AFTER_S) if built else None


def taking_back_refusal(follow_up: Transaction, original: Transaction) -> Refusal | None:
    """Why a follow-up that is booked may not be undone any more, or None: what came after it stands on it."""
    if follow_up.state != APPROVED or original.state not in (APPROVED, CONFIRMED) or follow_up.type not in (*TAKES, "increment"):
        return None
    if original.voided or original.void_reserved:
        return Refusal("already_voided")
    if follow_up.type == "increment":
        without = original.capturable - max(follow_up.capturable, follow_up.amount)
        return Refusal("follow_up_exists") if original.captured + original.capture_reserved + original.released > without else None
    spent = original.refunded + original.refund_reserved + original.charged_back
    return Refusal("follow_up_exists") if original.captured - follow_up.amount < spent else None


def reserve(original: Transaction, follower: Follower) -> None:
    """The original as the database has it after this intent; for the next intent of the same batch."""
    if follower.type in TAKES:
        original.capture_reserved += follower.amount
    elif follower.type == "increment":
        original.increment_reserved += follower.amount
    elif follower.type == "refund":
        original.refund_reserved += follower.amount
    else:
        original.void_reserved += follower.amount
    original.version += 1
