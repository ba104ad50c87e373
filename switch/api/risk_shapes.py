"""What is sent and answered about risk, with examples."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from switch.api.onboard import Ident, Instant, Listed, Name
from switch.api.resolving import plain_text
from switch.api.shapes import Shape, Status
from switch.api.terminal import Currency, Model
from switch.payments.risk_trial import SALES_MAX

Kind = Literal["velocity", "amount", "night", "split", "refund_ratio", "card_testing", "card_spread", "relocated"]
Action = Literal["flag", "hold", "decline", "block"]
Subject = Literal["card", "terminal", "merchant", "store"]
Life = Literal["draft", "active", "retired"]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
_AT = "2026-03-01T02:03:04.000000Z"
_TOKEN = "5d" * 32
Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(plain_text)]


class RiskRuleRequest(Model):
    """A rule is broken by more than its `count_max` or `amount_max`, the sale at hand included. Which fields a kind needs is in docs/risk.md.
    Amounts are minor units of `currency`; times are the merchant's. `blocks`: what the action block puts on the list."""

    name: Name
    kind: Kind
    action: Action
    blocks: Literal["card", "terminal"] | None = None
    merchant: Ident | None = None
    mccs: Listed | None = None
    brands: Listed | None = None
    entry_modes: Listed | None = None
    currency: str | None = None
    subject: Subject | None = None
    window_s: int | None = None
    count_max: int | None = None
    amount_min: int | None = None
    amount_max: int | None = None
    basis_points: int | None = None
    time_from: str | None = None
    time_until: str | None = None
    distance_km: int | None = None
    state: Literal["draft", "active"] = "draft"


class ActivateRiskRequest(Model):
    """`retires`: those that it takes the place of, in the same commit."""

    retires: Annotated[list[Ident], Field(max_length=50, default_factory=list)]


class LimitRequest(Model):
    """Minor units; what is left out is not limited. The day and the month are the merchant's."""

    merchant: Ident
    currency: Currency
    per_sale: int | None = None
    per_day: int | None = None
    per_month: int | None = None
    state: Literal["draft", "active"] = "draft"


class EntryRequest(Model):
    """Exactly one of `token` (of a card), `transaction` (that the card made), `terminal` and `merchant`."""

    token: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    transaction: Ident | None = None
    terminal: Ident | None = None
    merchant: Ident | None = None
    verdict: Literal["allow", "block"]
    reason: Reason


class TryRiskRequest(Model):
    """Rules to be tried: drafts that would be switched on, rules that would be switched off; against the sales of a period, `to` excluded,
    the newest `limit` of them."""

    activate: Annotated[list[Ident], Field(max_length=50, default_factory=list)]
    retire: Annotated[list[Ident], Field(max_length=50, default_factory=list)]
    since: Annotated[Instant, Field(alias="from")]
    until: Annotated[Instant, Field(alias="to")]
    limit: Annotated[int, Field(ge=1, le=SALES_MAX)] = 10_000


class RiskDecisionRequest(Model):
    """Why; it stays with the hit."""

    reason: Reason


MODELS = (RiskRuleRequest, ActivateRiskRequest, LimitRequest, EntryRequest, TryRiskRequest, RiskDecisionRequest)


class Lived(Shape):
    state: Life
    created_by: str
    created_at: str
    activated_by: str | None
    activated_at: str | None
    retired_by: str | None
    retired_at: str | None


class ShownRiskRule(Lived):
    id: str
    name: str
    kind: Kind
    action: Action
    blocks: Literal["card", "terminal"] | None
    merchant: str | None
    mccs: list[str] | None
    brands: list[str] | None
    entry_modes: list[str] | None
    currency: str | None
    subject: Subject | None
    window_s: int | None
    count_max: int | None
    amount_min: int | None
    amount_max: int | None
    basis_points: int | None
    time_from: str | None
    time_until: str | None
    distance_km: int | None


class ShownLimit(Lived):
    id: str
    merchant: str
    currency: str
    per_sale: int | None
    per_day: int | None
    per_month: int | None


class ShownEntry(Shape):
    """`value`: the card's token, or an id. `rule`: the one that put it there, when no person did."""

    id: str
    subject: Literal["card", "terminal", "merchant"]
    value: str
    verdict: Literal["allow", "block"]
    reason: str
    rule: str | None
    created_by: str
    created_at: str
    ended_by: str | None
    ended_at: str | None


class ShownHit(Shape):
    """`transaction`: null when the sale was refused. `times`: how often the same key was refused. `held`: what became of a hold."""

    id: str
    merchant: str
    store: str
    terminal: str
    transaction: str | None
    source: str
    kind: str
    action: Action
    why: str
    figures: dict[str, Any]
    token: str
    masked_pan: str
    amount: int
    currency: str
    at: str
    times: int
    last_at: str
    state: Literal["open", "dismissed", "confirmed"]
    decided_by: str | None
    decided_at: str | None
    reason: str | None
    held: Literal["wanted", "placed", "not_needed", "released"] | None


class ByAction(Shape):
    none: int
    flag: int
    hold: int
    decline: int
    block: int


class FiredRule(Shape):
    """`approved`, `charged_back`: what became of the sales it would have hit."""

    rule: str
    name: str
    action: Action
    hits: int
    approved: int
    charged_back: int
    cards: int
    merchants: int


class HitSale(Shape):
    transaction: str
    amount: int
    currency: str
    masked_pan: str
    status: Status
    why: list[str]


class ShownTrial(Shape):
    """`whole`: false when the period has more sales than were looked at, which are the newest."""

    looked_at: int
    whole: bool
    before: ByAction
    after: ByAction
    fired: list[FiredRule]
    examples: list[HitSale]


RULE: dict[str, Any] = {"name": "Many sales of one card", "kind": "velocity", "action": "decline", "subject": "card", "window_s": 600, "count_max": 5,
                        "mccs": ["5812"], "entry_modes": ["manual", "magstripe"], "state": "draft"}
LIMIT: dict[str, Any] = {"merchant": f"mer_{_ID}", "currency": "CNY", "per_sale": 100_000, "per_day": 500_000, "per_month": 5_000_000,
                         "state": "active"}
ENTRY: dict[str, Any] = {"terminal": f"trm_{_ID}", "verdict": "block", "reason": "The shop says that it was stolen"}
TRY: dict[str, Any] = {"activate": [f"rrl_{_ID}"], "retire": [], "from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z", "limit": 10_000}
CONFIRM: dict[str, Any] = {"reason": "The cardholder says that it was her"}
HIT: dict[str, Any] = {
    "id": f"rht_{_ID}", "merchant": f"mer_{_ID}", "store": f"sto_{_ID}", "terminal": f"trm_{_ID}", "transaction": f"txn_{_ID}",
    "source": f"rrl_{_ID}", "kind": "velocity", "action": "flag", "why": "6 sales of one card within 10 minutes, more than 5",
    "masked_pan": "62123456*******0003", "amount": 10_000, "currency": "CNY", "times": 1, "state": "open", "decided_by": None, "reason": None,
    "held": None, "figures": {"count": 6, "count_max": 5, "window_s": 600}, "token": _TOKEN, "at": _AT, "last_at": _AT, "decided_at": None,
}
