"""Payouts over HTTP: merchants see theirs; operators ask for what is due, fetch files for the bank and bring in its answers."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import asyncpg
from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.days import Day
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, paged, said
from switch.api.operators import operators, person
from switch.api.reconciliation import streamed
from switch.api.settlements import whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller
from switch.database import Pool
from switch.errors import Problem
from switch.ids import show
from switch.settings import Settings
from switch.settlement.funding.payable import WORDS
from switch.settlement.payouts import answers, runs
from switch.settlement.payouts.answers import BankAnswers
from switch.settlement.payouts.banking import masked
from switch.settlement.payouts.files import PayoutFiles
from switch.settlement.payouts.runs import AT_ONCE, PAGE_MAX, Outcome, Payouts

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Code = Annotated[str, Field(pattern="^[A-Z]{3}$")]
State = Literal["requested", "sent", "confirmed", "returned"]
MEDIA = {"xml": "application/xml", "csv": "text/csv; charset=utf-8"}


class PayoutRunRequest(Model):
    """What is due now, of one merchant or currency or of all. A run is bounded; `after` is the `next` of the one before. Called again it pays
    nothing twice. `on`: as if it were that day, where no money moves (the demo, a test)."""

    merchant: Ident | None = None
    currency: Code | None = None
    after: Annotated[str, Field(max_length=60)] | None = None
    on: Day | None = None


class PayoutFileRequest(Model):
    """`execution_date`: when the bank shall pay, a business day of all whom it pays; the next one unless given."""

    currency: Code
    format: Literal["pain001", "csv"] = "pain001"
    execution_date: Day | None = None


MODELS = (PayoutRunRequest, PayoutFileRequest)


class ShownPayout(Shape):
    """Minor units. `account`: the holder and the last four characters of where it goes. `reason`: of the bank, when it came back."""

    id: str
    merchant: str
    currency: str
    amount: int
    state: State
    account: str
    end_to_end_id: str
    reason: str
    requested_at: str
    sent_at: str | None
    confirmed_at: str | None
    returned_at: str | None


class ShownPayoutWhole(ShownPayout):
    settlements: list[str]


class PayoutPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownPayout]
    next: str | None


class ShownOutcome(Shape):
    """`paid` and `carried` are together `due`, minor units; it is negative when more is owed than was earned."""

    merchant: str
    currency: str
    due: int
    paid: int
    carried: int
    reason: str
    words: str
    payout: str | None


class RunResult(Shape):
    items: list[ShownOutcome]
    next: str | None


class ShownPayoutFile(Shape):
    """`total`: minor units. `sha256`: of the file as the bank gets it."""

    id: str
    currency: str
    format: Literal["pain001", "csv"]
    execution_date: str
    payouts: int
    total: int
    sha256: str
    size: int
    state: Literal["made", "sent"]
    made_by: str
    made_at: str
    sent_by: str | None
    sent_at: str | None


class PayoutFilePage(Shape):
    items: list[ShownPayoutFile]
    next: str | None


class ShownAnswer(Shape):
    """`applied`: entries that answer payouts; `unexplained`: the rest of a statement, which goes to acquirers' funding or to exceptions."""

    id: str
    bank_account: str
    format: Literal["camt053", "csv"]
    statement: str
    name: str
    sha256: str
    size: int
    entries: int
    applied: int
    unexplained: int
    received_by: str
    received_at: str


class AnswerPage(Shape):
    items: list[ShownAnswer]
    next: str | None


class Parts(Protocol):
    payouts: Payouts
    payout_files: PayoutFiles
    bank_answers: BankAnswers
    writers: Pool
    settings: Settings


def _payout(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("payout", row["payout_id"]), "merchant": show("merchant", row["merchant_id"]),
            "account": f"{row['holder']} {masked(row['last4'])}",
            **{name: row[name] for name in ("currency", "amount", "state", "end_to_end_id", "reason")},
            **{name: stamp(row[name]) for name in ("requested_at", "sent_at", "confirmed_at", "returned_at")}}


def shown_outcome(outcome: Outcome) -> dict[str, Any]:
    found = outcome.shares
    return {"merchant": show("merchant", outcome.merchant_id), "currency": outcome.currency, "due": found.due, "paid": found.paid,
            "carried": found.carried, "reason": found.reason, "words": WORDS[found.reason],
            "payout": show("payout", outcome.payout_id) if outcome.payout_id else None}


def shown_file(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("payout_file", row["file_id"]), "execution_date": row["execution_date"].isoformat(),
            **{name: row[name] for name in ("currency", "format", "payouts", "total", "sha256", "size", "state", "made_by", "sent_by")},
            **{name: stamp(row[name]) for name in ("made_at", "sent_at")}}


def shown_answer(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("bank_answer", row["file_id"]), "bank_account": show("bank_account", row["bank_account_id"]),
            "received_at": stamp(row["received_at"]),
            **{name: row[name] for name in ("format", "statement", "name", "sha256", "size", "entries", "applied", "unexplained", "received_by")}}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(tags=["settlement"], responses=refused(401, 403, 404, 422, 503))
    _asking(routes, parts, operator)
    _files(routes, parts, operator)
    _answers(routes, parts, operator)
    _reading(routes, parts, identify)  # last: their paths would take those of the others
    return routes


def _asking(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any]) -> None:
    @routes.post("/v1/payouts/run", summary="Ask for what is due now", openapi_extra=documented(PayoutRunRequest, {"currency": "CNY"}),
                 responses=shaped(200, "What is paid, what is carried, and why", RunResult) | refused(400, 413, 415))
    async def run(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, PayoutRunRequest)
        after = None
        if wanted.after is not None:
            place, _, currency = wanted.after.partition(":")
            after = (identified("merchant", place), currency)
        merchant_id = identified("merchant", wanted.merchant) if wanted.merchant is not None else None
        if wanted.on is not None and not parts.settings.rehearsal:
            raise Problem("invalid", "Payouts are asked for as of today.",
                          errors=[{"field": "on", "rule": "only where no money moves: in the demo, in a test", "type": "rule"}])
        done = await runs.run(parts.writers, person(caller), merchant_id=merchant_id, currency=wanted.currency, after=after, limit=AT_ONCE,
                              today=wanted.on)
        items = [shown_outcome(each) for each in done.outcomes]
        return said({"items": items, "next": f"{items[-1]['merchant']}:{items[-1]['currency']}" if done.more else None})


def _files(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any]) -> None:
    @routes.post("/v1/payouts/files", summary="Make the file of what was asked for; the one that is not sent yet comes first", status_code=201,
                 openapi_extra=documented(PayoutFileRequest, {"currency": "EUR", "format": "pain001"}),
                 responses=shaped(201, "The new file", ShownPayoutFile) | shaped(200, "The one that is not sent yet", ShownPayoutFile)
                 | refused(400, 409, 413, 415))
    async def make(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, PayoutFileRequest)
        row, new = await parts.payout_files.make(wanted.currency, wanted.format, wanted.execution_date, person(caller))
        return said(shown_file(row), 201 if new else 200)

    @routes.get("/v1/payouts/files", summary="Files to the bank, newest first", dependencies=[Depends(operator)],
                responses=shaped(200, "One page", PayoutFilePage))
    async def page(limit: Limit = 50, after: str | None = None) -> Response:
        before = None if after is None else identified("payout_file", after)
        return paged([shown_file(row) for row in await parts.payout_files.page(before, limit + 1)], limit)

    @routes.get("/v1/payouts/files/{file}/content", summary="The file itself, the same bytes each time", dependencies=[Depends(operator)],
                responses={200: {"description": "pain.001 or CSV", "content": {"application/xml": {}, "text/csv": {}}}})
    async def content(file: str) -> Response:
        name, data = await parts.payout_files.content(identified("payout_file", file))
        return Response(data, 200, {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store",
                                    "x-content-type-options": "nosniff"}, MEDIA[name.rpartition(".")[2]])

    @routes.post("/v1/payouts/files/{file}/sent", summary="Say that the bank has it; again changes nothing",
                 responses=shaped(200, "The file", ShownPayoutFile))
    async def sent(file: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(shown_file(await parts.payout_files.sent(identified("payout_file", file), person(caller))))


def _answers(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any]) -> None:
    @routes.post("/v1/payouts/answers", summary="Bring in a bank's answer: taken whole, or refused with line and reason", status_code=201,
                 responses=shaped(201, "Taken", ShownAnswer) | shaped(200, "It was there already", ShownAnswer) | refused(400, 409, 413, 415),
                 openapi_extra={"requestBody": {
                     "required": True, "description": "camt.053 or CSV as it is, or gzip; its form is seen from its first bytes.",
                     "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}})
    async def bring(request: Request, caller: Annotated[Caller, Depends(operator)], name: Annotated[str, Query(max_length=120)] = "") -> Response:
        if "content-encoding" in request.headers:
            raise Problem("content_encoding", "Send the bytes of the file; a gzip file is one without Content-Encoding, too.")
        if not name.isprintable():
            raise Problem("invalid", errors=[{"field": "name", "rule": "printable characters", "type": "rule"}])
        row, new = await parts.bank_answers.take(name, streamed(request), person(caller))
        return said(shown_answer(row), 201 if new else 200)

    @routes.get("/v1/payouts/answers", summary="Answers that were taken, newest first", dependencies=[Depends(operator)],
                responses=shaped(200, "One page", AnswerPage))
    async def page(limit: Limit = 50, after: str | None = None) -> Response:
        before = None if after is None else identified("bank_answer", after)
        return paged([shown_answer(row) for row in await answers.page(parts.writers, before, limit + 1)], limit)


def _reading(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/payouts", summary="Payouts, newest first", responses=shaped(200, "One page", PayoutPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, merchant: str | None = None, state: State | None = None,
                   currency: Annotated[str | None, Query(pattern="^[A-Z]{3}$")] = None, file: str | None = None) -> Response:
        merchant_id = whose(identify(request), merchant)
        file_id = None if file is None else identified("payout_file", file)
        before = None if after is None else identified("payout", after)
        return paged([_payout(row) for row in await parts.payouts.page(merchant_id, state, currency, file_id, before, limit + 1)], limit)

    @routes.get("/v1/payouts/{payout}", summary="One payout, with the settlements that it pays",
                responses=shaped(200, "The payout", ShownPayoutWhole))
    async def one(request: Request, payout: str) -> Response:
        merchant_id = whose(identify(request), None)
        row = await parts.payouts.one(identified("payout", payout), merchant_id)
        return said({**_payout(row), "settlements": [show("settlement", each) for each in row["settlements"]]})
