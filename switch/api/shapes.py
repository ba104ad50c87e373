"""Shapes of answers, for the OpenAPI file and for the tests that hold the answers against them (api/answers.py builds them)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Advice = Literal["none", "retry_new_key", "other_card", "enter_pin", "call_issuer", "capture_card", "new_payment_allowed", "ask_again"]
Status = Literal["pending", "approved", "declined", "not_sent", "reversing", "reversed", "parked", "confirmed"]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


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


class Balance(Shape):
    account_type: str
    amount_type: str
    currency_code: str
    amount: int


class Reversal(Shape):
    state: Literal["open", "done", "parked"]
    since: str | None


class ApprovedOrDeclined(Shape):
    id: str
    type: str
    status: Literal["approved", "declined", "not_sent"]
    payment_status: str
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
    amounts: Amounts
    created_at: str
    server_time: str


class NotSold(Shape):
    id: str
    type: str
    status: Status
    amount: int
    currency: str
    reason: str | None
    advice: Advice | None
    reversal: Reversal | None
    rrn: str
    stan: str
    terminal_trace: str | None
    reference: str | None
    created_at: str


class ProblemDetails(BaseModel):
    model_config = ConfigDict(extra="allow")
    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, Any]]
    request_id: str
