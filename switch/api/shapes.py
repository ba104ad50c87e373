"""Shapes of answers, for the OpenAPI file and for the tests that hold the answers against them (api/answers.py builds them)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Advice = Literal["none", "retry_new_key", "other_card", "enter_pin", "call_issuer", "capture_card", "new_payment_allowed", "ask_again"]
Status = Literal["pending", "approved", "declined", "not_sent", "reversing", "reversed", "parked", "confirmed"]
PaymentStatus = Literal["none", "authorized", "expired", "partially_captured", "captured", "voided", "partially_refunded", "refunded", "charged_back"]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", defer_build=True)


class ShownCard(Shape):
    masked_pan: str
    brand: str
    entry_mode: str


class Amounts(Shape):
    authorised: int
    capturable: int
    captured: int
    refunded: int
    charged_back: int


class Reserved(Shape):
    """What follow-ups hold that have no outcome yet, or are in doubt and being reversed."""

    capture: int
    increment: int
    refund: int
    void: int


class AmountsNow(Amounts):
    voided: int
    left_to_capture: int
    left_to_refund: int
    reserved: Reserved


class Balance(Shape):
    account_type: str
    amount_type: str
    currency_code: str
    amount: int


class Reversal(Shape):
    state: Literal["open", "done", "parked"]
    since: str | None


class Outcome(Shape):
    """What every final answer says."""

    id: str
    type: str
    status: Literal["approved", "declined", "not_sent"]
    amount: int
    approved_amount: int
    currency: str
    response_code: str | None
    reason: str | None
    advice: Advice | None
    approval_code: str | None
    rrn: str
    stan: str
    acquirer: str
    acquirer_rrn: str | None
    card: ShownCard
    terminal_trace: str | None
    reference: str | None
    possible_duplicate_of: str | None = None
    emv: str | None = None
    balances: list[Balance] | None = None
    created_at: str
    server_time: str


class ApprovedOrDeclined(Outcome):
    """`approved_by` stand_in: by the switch in its acquirer's stead, which could not be reached and is told of it later."""

    approved_by: Literal["stand_in"] | None = None
    payment_status: PaymentStatus
    amounts: Amounts


class FollowedUp(Outcome):
    """A follow-up with its outcome; GET the original for the amounts as they stand now."""

    original: str | None = None


class Accepted(Shape):
    """An offline approval that is written down and will be said to the acquirer until it is answered."""

    id: str
    type: Literal["offline_sale"]
    status: Literal["accepted"]
    amount: int
    currency: str
    approval_code: str | None
    rrn: str
    stan: str
    acquirer: str
    card: ShownCard
    terminal_trace: str | None
    reference: str | None
    created_at: str


class Ask(Shape):
    """How to hear of what the payer has not decided: GET this, each so many seconds."""

    path: str
    after_s: int


class NotSold(Shape):
    id: str
    type: str
    original: str | None = None
    status: Status
    amount: int
    currency: str
    reason: str | None
    advice: Advice | None
    reversal: Reversal | None
    ask: Ask | None = None
    rrn: str
    stan: str
    terminal_trace: str | None
    reference: str | None
    created_at: str


class ReversalNow(Reversal):
    cause: str | None = None
    stan: str | None = None
    transmissions: int | None = None
    last_sent_at: str | None = None
    last_code: str | None = None
    next_attempt_at: str | None = None
    closed_at: str | None = None
    closed_by: Literal["ack", "not_found", "declined", "no_effect", "person"] | None = None


class TransactionNow(Shape):
    """A transaction as it stands now."""

    id: str
    type: str
    original: str | None = None
    attempt_of: str | None = None
    approved_by: Literal["stand_in"] | None = None
    status: Status
    payment_status: PaymentStatus
    amount: int
    approved_amount: int | None
    currency: str
    response_code: str | None
    reason: str | None
    advice: Advice | None
    approval_code: str | None
    rrn: str
    stan: str
    acquirer: str
    acquirer_rrn: str | None
    card: ShownCard
    terminal_trace: str | None
    reference: str | None
    possible_duplicate_of: str | None = None
    emv: str | None = None
    balances: list[Balance] | None = None
    amounts: AmountsNow
    reversal: ReversalNow | None
    expires_at: str | None
    store: str
    terminal: str
    business_date: str
    tip_amount: int
    cashback_amount: int
    capture_method: Literal["automatic", "manual"] | None
    created_at: str
    outcome_at: str | None


class TransactionPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[TransactionNow]
    next: str | None


class Burnt(Shape):
    """Nobody had used the key: it will never sell anything."""

    id: None
    status: Literal["cancelled"]
    advice: Literal["new_payment_allowed"]


class Step(Shape):
    at: str
    after_ms: float
    what: str
    detail: dict[str, Any] | None


class Follower(Shape):
    id: str
    type: str
    status: Status
    amount: int


class Story(Shape):
    """Everything that happened to one transaction; what was sent and answered is masked."""

    id: str
    in_short: str
    transaction: TransactionNow
    steps: list[Step]
    followed_by: list[Follower]


class ProblemDetails(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, Any]]
    request_id: str


def shaped(code: int, description: str, model: Any) -> dict[int | str, dict[str, Any]]:
    """An entry for a route's `responses`."""
    return {code: {"description": description, "model": model}}


def refused(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The problems that a route may answer with, for its `responses`."""
    return {code: {"description": "Refused", "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}}
            for code in codes}
