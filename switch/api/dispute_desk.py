"""Disputes for operators: notices of acquirers one by one and as files, outcomes, and what is arranged with an acquirer."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import asyncpg
from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.days import Day
from switch.api.disputes import Parts as MerchantParts
from switch.api.disputes import ShownDispute, Statement, answered, asked_json, caller_name, raw_body, shown
from switch.api.documented import documented
from switch.api.follow_ups import described
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.operators import operators
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Currency, Model
from switch.callers import Caller
from switch.clock import clock
from switch.database import Connection
from switch.errors import Problem
from switch.ids import show
from switch.money import AMOUNT_MAX
from switch.settlement.disputes import notice_files
from switch.settlement.disputes.cases import Step
from switch.settlement.disputes.docket import Charge, Deadline
from switch.settlement.disputes.life import OUTCOMES
from switch.settlement.disputes.notices import BYTES_MAX, Notice, is_reference

_ID = "0192f0c4-7c1e-7aaa-8bbb-1234567890ab"
Kind = Literal["retrieval", "chargeback", "pre_arbitration"]


def _reference(text: str) -> str:
    if not is_reference(text):
        raise PydanticCustomError("reference", "1 to 40 letters, digits and _ . / -, and no card number")
    return text


class NoticeRequest(Model):
    """An acquirer's notice about a sale, named by `transaction` or by `rrn`. `amount`: what is disputed, minor units, a part or the whole."""

    acquirer: Ident
    kind: Literal["retrieval", "chargeback"]
    reference: Annotated[str, Field(min_length=1, max_length=40), AfterValidator(_reference)]
    transaction: Ident | None = None
    rrn: Annotated[str, Field(pattern="^[0-9A-Za-z]{12}$")] | None = None
    amount: Annotated[int, Field(ge=1, le=AMOUNT_MAX)]
    currency: Currency
    reason_code: Annotated[str, Field(pattern="^[A-Za-z0-9.]{1,12}$")]
    noticed_on: Day

    @model_validator(mode="after")
    def _one_sale(self) -> "NoticeRequest":
        if (self.transaction is None) == (self.rrn is None):
            raise PydanticCustomError("transaction", "Send either transaction or rrn")
        return self


class DecideRequest(Model):
    """What the acquirer says. `pre_arbitration`: the issuer does not take the answer; the merchant may answer once more."""

    outcome: Literal["won", "lost", "withdrawn", "pre_arbitration"]
    note: Statement | None = None


class DeadlineTerm(Model):
    """Days to answer in, from the day of the notice; an alert comes `warn_days` before their end. '*' is any brand."""

    kind: Kind
    brand: Annotated[str, Field(pattern="^([a-z]{1,20}|[*])$")] = "*"
    answer_days: Annotated[int, Field(ge=1, le=180)]
    warn_days: Annotated[int, Field(ge=0, le=60)]

    @model_validator(mode="after")
    def _nested(self) -> "DeadlineTerm":
        if self.warn_days >= self.answer_days:
            raise PydanticCustomError("warn_days", "warn_days must be less than answer_days")
        return self


class FeeTerm(Model):
    """`fee` is what the merchant pays when a dispute comes into this state, `cost` what the acquirer charges. Minor units."""

    kind: Kind
    currency: Currency
    fee: Annotated[int, Field(ge=0, le=AMOUNT_MAX)]
    cost: Annotated[int, Field(ge=0, le=AMOUNT_MAX)] = 0


class DisputeTermsRequest(Model):
    """What is named is set, the rest stays."""

    deadlines: Annotated[list[DeadlineTerm], Field(max_length=100, default_factory=list)]
    fees: Annotated[list[FeeTerm], Field(max_length=100, default_factory=list)]


MODELS = (NoticeRequest, DecideRequest, DisputeTermsRequest)


class ShownDeadline(Shape):
    acquirer: str | None
    brand: str
    kind: Kind
    answer_days: int
    warn_days: int


class ShownFee(Shape):
    kind: Kind
    currency: str
    fee: int
    cost: int


class DisputeTerms(Shape):
    """`deadlines` without an acquirer are for all that have no row of their own; of the others the most particular holds."""

    acquirer: str
    deadlines: list[ShownDeadline]
    fees: list[ShownFee]


class NoticeFileTaken(Shape):
    """`changed`: how many of its lines opened or moved a dispute; the others were known."""

    id: str
    acquirer: str
    number: str
    sha256: str
    size: int
    lines: int
    total: int
    changed: int
    received_by: str
    received_at: str


class Parts(MerchantParts, Protocol):
    """What these routes need of the switch."""


def _file(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("notice_file", row["file_id"]), "acquirer": show("acquirer", row["acquirer_id"]), "sha256": row["sha256"].hex(),
            **{name: row[name] for name in ("number", "size", "lines", "total", "changed", "received_by")}, "received_at": stamp(row["received_at"])}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(tags=["disputes"], dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))
    _notices(routes, parts, operator)
    _terms(routes, parts, operator)
    return routes


def _notices(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any]) -> None:
    @routes.post("/v1/disputes", status_code=201, summary="Enter an acquirer's notice: a retrieval request or a chargeback",
                 responses=shaped(201, "The dispute; a notice that was entered before changes nothing", ShownDispute) | refused(400, 409, 413, 415),
                 openapi_extra=described(NoticeRequest, {
                     "acquirer": f"acq_{_ID}", "kind": "chargeback", "reference": "CB-4711", "transaction": f"txn_{_ID}", "amount": 10_000,
                     "currency": "CNY", "reason_code": "4853", "noticed_on": "2026-11-23"}))
    async def enter(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        asked, body = await asked_json(parts, request, caller, "disputes", NoticeRequest)
        acquirer_id = identified("acquirer", body.acquirer)
        sale = None if body.transaction is None else identified("transaction", body.transaction)
        notice = Notice(body.kind, body.reference, sale, body.rrn, body.amount, body.currency, body.reason_code, body.noticed_on)

        async def work(connection: Connection) -> dict[str, Any]:
            return shown((await parts.cases.notice(connection, acquirer_id, notice, caller_name(caller), clock.now()))[0])

        return await answered(parts, asked, 201, work)

    @routes.post("/v1/disputes/{dispute}/decide", summary="Enter the outcome that the acquirer tells",
                 responses=shaped(200, "The dispute as it is now", ShownDispute) | refused(400, 409, 413, 415),
                 openapi_extra=described(DecideRequest, {"outcome": "won", "note": "The acquirer's letter of 2 December"}))
    async def decide(request: Request, dispute: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        dispute_id = identified("dispute", dispute)
        asked, body = await asked_json(parts, request, caller, f"decide:{dispute_id}", DecideRequest)

        async def work(connection: Connection) -> dict[str, Any]:
            step = Step(OUTCOMES[body.outcome], caller_name(caller), body.note or "")
            return shown(await parts.cases.move(connection, dispute_id, step, clock.now()))

        return await answered(parts, asked, 200, work)

    @routes.post("/v1/dispute-notices", status_code=201,
                 summary="Bring in an acquirer's file of notices: taken whole, or refused with line and reason",
                 responses=shaped(201, "It was taken", NoticeFileTaken) | shaped(200, "It was taken before: nothing changed", NoticeFileTaken)
                 | refused(400, 409, 413, 415),
                 openapi_extra={"requestBody": {"required": True, "description": "CSV as docs/disputes.md describes it, at most 1,000 lines.",
                                                "content": {"text/csv": {"schema": {"type": "string", "format": "binary"}}}}})
    async def bring(request: Request, acquirer: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        acquirer_id = identified("acquirer", acquirer)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "text/csv":
            raise Problem("content_type", "Send the file with the Content-Type text/csv.")
        raw = await raw_body(request, BYTES_MAX, "body_too_large")
        parts.admit()
        row, new = await notice_files.take(parts.writers, parts.cases, acquirer_id, raw, caller_name(caller), clock.now())
        return said(_file(row), 201 if new else 200)


def _terms(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any]) -> None:
    async def terms(acquirer: str) -> Response:
        deadlines, fees = await parts.docket.terms(identified("acquirer", acquirer))
        shown_deadlines = [{"acquirer": show("acquirer", row["acquirer_id"]) if row["acquirer_id"] else None,
                            **{name: row[name] for name in ("brand", "kind", "answer_days", "warn_days")}} for row in deadlines]
        return said({"acquirer": acquirer, "deadlines": shown_deadlines, "fees": [dict(row) for row in fees]})

    @routes.get("/v1/acquirers/{acquirer}/dispute-terms", summary="Days to answer disputes in, and their fees",
                responses=shaped(200, "As it is now", DisputeTerms))
    async def get(acquirer: str) -> Response:
        return await terms(acquirer)

    @routes.put("/v1/acquirers/{acquirer}/dispute-terms", summary="Arrange them, for disputes from now on",
                openapi_extra=documented(DisputeTermsRequest, {
                    "deadlines": [{"kind": "chargeback", "brand": "*", "answer_days": 18, "warn_days": 5}],
                    "fees": [{"kind": "chargeback", "currency": "CNY", "fee": 10_000, "cost": 7_500}]}),
                responses=shaped(200, "As it is now", DisputeTerms) | refused(400, 413, 415))
    async def put(request: Request, acquirer: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, DisputeTermsRequest)
        deadlines = [Deadline(each.brand, each.kind, each.answer_days, each.warn_days) for each in wanted.deadlines]
        fees = [Charge(each.kind, each.currency, each.fee, each.cost) for each in wanted.fees]
        if len({each[:2] for each in deadlines}) < len(deadlines) or len({each[:2] for each in fees}) < len(fees):
            raise Problem("invalid", "A row stands twice.",
                          errors=[{"field": "deadlines", "rule": "each kind and brand or currency once", "type": "rule"}])
        await parts.docket.arrange(acquirer_id, deadlines, fees)
        return await terms(acquirer)
