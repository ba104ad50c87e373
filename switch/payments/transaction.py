"""The life of a transaction: one table, and the record that lives it.

Rule 1: what may change a state stands in LIFE and nowhere else; the database holds the same list (migrations r0001, TRANSITIONS).
Rule 2: state describes the exchange with the acquirer; money is in the amounts.
Rule 3: unknown is never failed. A request without a certain answer is REVERSING, and somebody owes the reversal.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import date, datetime
from enum import Enum
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

SENT, APPROVED, DECLINED, NOT_SENT = "SENT", "APPROVED", "DECLINED", "NOT_SENT"
REVERSING, REVERSED, PARKED, CONFIRMED = "REVERSING", "REVERSED", "PARKED", "CONFIRMED"


class Event(Enum):
    """What can happen to a transaction. The first group comes from the line, the second from our side."""

    APPROVE = "approve"
    DECLINE = "decline"
    DOUBT = "doubt"
    BAD_MAC = "bad_mac"
    SILENCE = "silence"
    LINE_LOST = "line_lost"
    ACKNOWLEDGED = "acknowledged"
    NOT_FOUND = "not_found"
    PENDING = "pending"  # the payer decides; the host says so

    BOUNCE = "bounce"
    PARTIAL_REFUSED = "partial_refused"
    CRASH = "crash"
    UNDO = "undo"
    GIVE_UP = "give_up"
    RETRY = "retry"
    RESOLVE_REVERSED = "resolve_reversed"
    RESOLVE_CONFIRMED = "resolve_confirmed"


class Step(NamedTuple):
    """Where an event leads, and what is owed for it."""

    state: str
    duty: str = ""  # "reversal", "query": owe it; "expedite": bring it forward; "close": it is fulfilled; "park": it is a person's
    alert: str = ""  # kind of the alert to raise


class IllegalEvent(ValueError):
    """An event that our own code may not send in this state."""


OWE = Step(REVERSING, "reversal")
ASK = Step(SENT, "query")
LIFE: Mapping[tuple[str, Event], Step] = MappingProxyType({
    (SENT, Event.APPROVE): Step(APPROVED),
    (SENT, Event.DECLINE): Step(DECLINED),
    (SENT, Event.BOUNCE): Step(NOT_SENT),
    (SENT, Event.PENDING): ASK,
    (SENT, Event.PARTIAL_REFUSED): OWE,
    (SENT, Event.SILENCE): OWE,
    (SENT, Event.LINE_LOST): OWE,
    (SENT, Event.BAD_MAC): OWE,
    (SENT, Event.DOUBT): OWE,
    (SENT, Event.CRASH): OWE,
    (SENT, Event.UNDO): OWE,  # the terminal cancels while the answer is still awaited
    (APPROVED, Event.UNDO): OWE,
    (APPROVED, Event.APPROVE): Step(APPROVED),
    (APPROVED, Event.DECLINE): Step(APPROVED, alert="contradicting_answer"),
    (DECLINED, Event.DECLINE): Step(DECLINED),
    (DECLINED, Event.APPROVE): Step(REVERSING, "reversal", "contradicting_answer"),
    (NOT_SENT, Event.APPROVE): Step(REVERSING, "reversal", "answer_to_unsent"),
    (NOT_SENT, Event.DECLINE): Step(REVERSING, "reversal", "answer_to_unsent"),
    (NOT_SENT, Event.DOUBT): Step(REVERSING, "reversal", "answer_to_unsent"),
    (REVERSING, Event.APPROVE): Step(REVERSING, "expedite"),
    (REVERSING, Event.DECLINE): Step(REVERSING, "expedite"),
    (REVERSING, Event.ACKNOWLEDGED): Step(REVERSED, "close"),
    (REVERSING, Event.NOT_FOUND): Step(REVERSED, "close"),
    (REVERSING, Event.GIVE_UP): Step(PARKED, "park", "reversal_parked"),
    (REVERSED, Event.DECLINE): Step(REVERSED),
    (PARKED, Event.RETRY): OWE,
    (PARKED, Event.ACKNOWLEDGED): Step(REVERSED, "close"),
    (PARKED, Event.RESOLVE_REVERSED): Step(REVERSED, "close"),
    (PARKED, Event.RESOLVE_CONFIRMED): Step(CONFIRMED, "close"),
})
# An advice states what already happened: silence never undoes it, its repeat duty stays (ARCHITECTURE.md).
ADVICE_STAYS = frozenset({Event.SILENCE, Event.LINE_LOST, Event.BAD_MAC, Event.DOUBT, Event.CRASH, Event.PENDING})
# A host that decides in its own time is asked until it has: what is not known there is pending, never reversed and never failed.
QUERY_ASKS = ADVICE_STAYS
FROM_THE_WIRE = frozenset({Event.APPROVE, Event.DECLINE, Event.DOUBT, Event.BAD_MAC, Event.SILENCE, Event.LINE_LOST,
                           Event.ACKNOWLEDGED, Event.NOT_FOUND, Event.PENDING})


def step(state: str, event: Event, exchange: str = "request", closed_by: str | None = None) -> Step:
    """Where `event` leads from `state`.

    What comes from a wire never raises: outside the table it is evidence and changes nothing.
    `closed_by` is how the reversal of a REVERSED one was closed: after "not_found" a late approval reopens it.

    Raises IllegalEvent: our own code sent an event that this state does not know.
    """
    if exchange == "advice" and state == SENT and event in ADVICE_STAYS:
        return Step(state)
    if exchange == "query" and state == SENT and event in QUERY_ASKS:
        return ASK
    if state == REVERSED and event is Event.APPROVE:
        return OWE if closed_by == "not_found" else Step(REVERSED)
    found = LIFE.get((state, event))
    if found is not None:
        return found
    if event in FROM_THE_WIRE:
        return Step(state)
    raise IllegalEvent(f"{event.name} is not an event of a transaction that is {state}")


@dataclass(slots=True)
class Transaction:
    """One row of `transaction`; every attribute is a column. Amounts in minor units of `currency`; times are aware, UTC."""

    merchant_id: UUID
    transaction_id: UUID
    type: str
    exchange: str
    store_id: UUID
    terminal_id: UUID
    caller: UUID
    idempotency_key: str | None
    acquirer_id: UUID
    business_date: date
    worker_epoch: int
    amount: int
    currency: str
    tip_amount: int
    cashback_amount: int
    capture_method: str | None
    partial_approval: str
    entry_mode: str
    masked_pan: str
    card_last4: str
    brand: str
    pan_token: bytes
    pan_token_key: str
    pan_sealed: bytes
    pan_key: str
    pan_sealed_on: date
    card_sequence_number: str | None
    emv: str | None
    mti: str
    processing_code: str
    stan: str
    transmitted_at: str
    local_time: str
    local_date: str
    pos_entry_mode: str
    pos_condition: str
    rrn: str
    card_acceptor_terminal: str
    card_acceptor: str
    mcc: str
    match_key: str
    received_at: datetime
    send_not_after: datetime
    respond_by: datetime
    request_message: str
    terminal_trace: str | None
    reference: str | None
    same_trace: int | None  # 64 bits of a hash over terminal, local date and trace: finds a sale that was already made
    state: str = SENT
    version: int = 1
    original_id: UUID | None = None
    authorised: int = 0
    capturable: int = 0
    captured: int = 0
    refunded: int = 0
    charged_back: int = 0
    # What follow-ups hold of this one, moved by the database alone (migrations r0003).
    capture_reserved: int = 0
    increment_reserved: int = 0
    refund_reserved: int = 0
    void_reserved: int = 0
    voided: int = 0
    voided_captured: int = 0  # what of it had been captured; it comes back when the void is undone
    released: int = 0  # of capturable: by a final capture or at the end of the authorization
    tolerance: int = 0  # of capturable: what went beyond authorised when it was approved
    expires_at: datetime | None = None
    release_at: datetime | None = None  # when what is left is released; None: it was
    reserved: int = 0  # what this follow-up holds of its original
    final_capture: bool = False
    intent_at: datetime | None = None
    sent_at: datetime | None = None
    answered_at: datetime | None = None
    outcome_at: datetime | None = None
    outcome: str | None = None
    response_code: str | None = None
    reason: str | None = None
    advice: str | None = None
    approval_code: str | None = None
    approved_amount: int | None = None
    acquirer_rrn: str | None = None
    answer_emv: str | None = None
    balances: str | None = None
    answer_message: str | None = None
    possible_duplicate_of: UUID | None = None
    attempt_of: UUID | None = None  # the attempt before this one, made at another acquirer under the same key

    @classmethod
    def blank(cls) -> "Transaction":
        """For the hot path, which sets all that has no default: forty arguments by name would cost a fiftieth of an authorization."""
        return cls(*_BLANK)


_BLANK: tuple[Any, ...] = tuple(None if each.default is MISSING else each.default for each in fields(Transaction))
STOOD_IN_FOR = "offline_sale"  # the dialect's name of the message that says such a sale


def stood_in(row: Transaction) -> bool:
    """Whether the switch approved it in its acquirer's stead: nothing else makes a purchase an advice."""
    return row.exchange == "advice" and row.type == "purchase"


def told_approved(row: Transaction) -> bool:
    """Whether its customer was told that it is approved: by its acquirer's word, or in its stead while that word is awaited."""
    return row.state == APPROVED or (row.state == SENT and stood_in(row))


STATUS = MappingProxyType({SENT: "pending", APPROVED: "approved", DECLINED: "declined", NOT_SENT: "not_sent",
                           REVERSING: "reversing", REVERSED: "reversed", PARKED: "parked", CONFIRMED: "confirmed"})
STATE_OF = MappingProxyType({status: state for state, status in STATUS.items()})


def payment_status(state: str, authorised: int, captured: int, refunded: int, charged_back: int, voided: int = 0, expired: bool = False) -> str:
    """What a merchant may say of the money: none authorized expired partially_captured captured voided ...."""
    if state not in (APPROVED, CONFIRMED):
        return "voided" if state == REVERSED and authorised else "none"
    if voided:
        return "voided"
    if charged_back:
        return "charged_back"
    if refunded:
        return "refunded" if refunded >= captured else "partially_refunded"
    if captured:
        return "captured" if captured >= authorised else "partially_captured"
    if not authorised:
        return "none"
    return "expired" if expired else "authorized"


def payment_status_at(row: Transaction, now: datetime) -> str:
    """The same of a row as it stands at `now`. What a capture still holds may be captured after the end: it has not expired."""
    expired = row.expires_at is not None and now >= row.expires_at and not row.capture_reserved
    return payment_status(row.state, row.authorised, row.captured, row.refunded, row.charged_back, row.voided, expired)
