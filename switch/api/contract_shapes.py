"""Contracts as they are sent and shown."""

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from switch.api.answers import stamp
from switch.api.applications import Amount, Line, Reason
from switch.api.arrangements import CalendarName
from switch.api.onboard import Ident
from switch.api.resolving import plain_text
from switch.api.shapes import Shape
from switch.api.tariffs import Day
from switch.api.terminal import Model
from switch.ids import show
from switch.merchants.contracts import standard
from switch.merchants.contracts.life import WAITS_FOR
from switch.merchants.contracts.reads import Whole

State = Literal["draft", "offered", "signed_by_merchant", "in_force", "amended", "terminated", "expired", "refused", "withdrawn"]
Service = Literal["cards", "qr_codes", "preauthorizations", "terminals", "online_payouts"]
Free = Annotated[int, Field(ge=0, le=999_999_999_999)]
Version = Annotated[int, Field(ge=1, le=2**31 - 2)]
SHA256 = r"^[0-9a-f]{64}$"
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
EXAMPLE: dict[str, Any] = {
    "language": "zh", "provider": "Payment Service", "currency": "CNY", "services": ["cards", "qr_codes", "terminals"],
    "tariff": standard.tariff("CNY"), "once": [{"name": "Terminal purchase", "amount": 80_000, "count": 2}],
    "term": {"from": "2030-01-01", "until": "2030-12-31", "notice_days": 30, "early_termination_fee": 30_000, "deposit": 0},
    "settlement": {"account": f"bac_{_ID}", **standard.PAID}}


class OnceCharged(Model):
    """Charged once, when the contract begins."""

    name: Annotated[str, Field(min_length=1, max_length=80), AfterValidator(plain_text)]
    amount: Amount
    count: Annotated[int, Field(ge=1, le=1000)] = 1


class TermOfContract(Model):
    """First and last day where the merchant is; no last day: until somebody gives notice."""

    from_: Annotated[Day, Field(alias="from")]
    until: Day | None = None
    notice_days: Annotated[int, Field(ge=0, le=365)] = standard.NOTICE_DAYS
    early_termination_fee: Free = 0
    deposit: Free = 0


class SettlementOfContract(Model):
    """`account`: a bank account of the merchant; the others as in PUT /v1/merchants/{merchant}/funding."""

    account: Ident
    calendar: CalendarName = "daily"
    funding_days: Annotated[int, Field(ge=0, le=60)] = 1
    minimum_payout: Free = 0
    reserve_basis_points: Annotated[int, Field(ge=0, le=10_000)] = 0
    reserve_days: Annotated[int, Field(ge=1, le=730)] = 180


class TermsOfContract(Model):
    """What is agreed. Amounts are minor units of `currency`; `tariff` as docs/fees.md has it, with what is charged by the month."""

    language: Literal["zh", "en"] = "zh"
    provider: Line = standard.PROVIDER
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    services: Annotated[list[Service], Field(min_length=1, max_length=5)]
    tariff: Annotated[dict[str, Any], Field(description="The document; every fault in it is named by its JSON pointer")]
    once: Annotated[list[OnceCharged], Field(max_length=20, default_factory=list)]
    term: TermOfContract
    settlement: SettlementOfContract


class ContractRequest(Model):
    """Draws up a draft; it amends the contract in force, if there is one."""

    terms: TermsOfContract


class RevisionRequest(Model):
    """A new document. What was signed of those before stays with them, and must be signed anew."""

    terms: TermsOfContract
    reason: Reason


class OfferRequest(Model):
    """`version`: of the contract that you looked at."""

    version: Version
    reason: Reason


class RefusalRequest(Model):
    """The merchant does not sign it."""

    reason: Reason


class WithdrawalRequest(Model):
    """The provider takes it back."""

    reason: Reason


class EndRequest(Model):
    """`last_day`: the last on which is sold. Left out by operators: it ends at once."""

    last_day: Day | None = None
    reason: Reason


MODELS = (ContractRequest, RevisionRequest, OfferRequest, RefusalRequest, WithdrawalRequest, EndRequest)


class ShownContract(Shape):
    """`number`: of the merchant's contracts. `document`: the newest. `begins_at`, `ends_at`: from when and until when is sold by it."""

    id: str
    merchant: str
    number: int
    state: State
    version: int
    document: int
    waits_for: Literal["merchant", "provider"] | None
    since: str
    created_at: str
    amends: str | None
    begins_at: str | None
    begun_at: str | None
    until: str | None
    ends_at: str | None
    tariff: str | None


class ContractPage(Shape):
    """`next` goes into `after`, null at the end."""

    items: list[ShownContract]
    next: str | None


class ShownContractDocument(Shape):
    """`sha256`: of its bytes, which is what is signed."""

    number: int
    sha256: str
    at: str


class ShownContractSignature(Shape):
    document: int
    side: Literal["merchant", "provider"]
    name: str
    sha256: str
    image_sha256: str
    at: str


class ContractEvent(Shape):
    """`detail`: for operators."""

    number: int
    at: str
    event: str
    was: State | None
    state: State
    by: str
    reason: str
    detail: dict[str, Any]


class WholeContract(ShownContract):
    terms: dict[str, Any]
    documents: list[ShownContractDocument]
    signatures: list[ShownContractSignature]
    events: list[ContractEvent]


def plain(terms: TermsOfContract) -> dict[str, Any]:
    made = terms.model_dump(by_alias=True)
    made["term"] |= {name: made["term"][name] and made["term"][name].isoformat() for name in ("from", "until")}
    return made


def shown(row: Any) -> dict[str, Any]:
    return {"id": show("contract", row["contract_id"]), "merchant": show("merchant", row["merchant_id"]),
            **{name: row[name] for name in ("number", "state", "version", "document")}, "waits_for": WAITS_FOR.get(row["state"]),
            "since": stamp(row["state_since"]), "amends": row["amends"] and show("contract", row["amends"]),
            "until": row["until_on"] and row["until_on"].isoformat(), "tariff": row["tariff_id"] and show("tariff", row["tariff_id"]),
            **{name: stamp(row[name]) for name in ("created_at", "begins_at", "begun_at", "ends_at")}}


def whole_shown(whole: Whole, people: bool) -> dict[str, Any]:
    """`people`: for operators, who see who of them did what; a merchant sees its own names, and the names that stand under the contract."""
    def by(person: str) -> str:
        return person if people or person in ("merchant", "applicant", "switch") else "provider"

    return {**shown(whole.row), "terms": whole.terms,
            "documents": [{"number": each["number"], "sha256": each["sha256"].hex(), "at": stamp(each["at"])} for each in whole.documents],
            "signatures": [{**{name: each[name] for name in ("document", "side", "name")}, "sha256": each["sha256"].hex(),
                            "image_sha256": each["image_sha256"].hex(), "at": stamp(each["at"])} for each in whole.signatures],
            "events": [{**{name: each[name] for name in ("number", "event", "was", "state", "reason")}, "at": stamp(each["at"]),
                        "by": by(each["person"]), "detail": json.loads(each["detail"]) if people else {}} for each in whole.events]}
