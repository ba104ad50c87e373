"""Reconciliation for operators: files in, runs, exceptions and what people decide about them."""

import json
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, Field
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.days import Day
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, paged, said
from switch.api.operators import operators, person
from switch.api.resolving import plain_text, shown_approval
from switch.api.shapes import refused
from switch.api.terminal import Model
from switch.callers import Caller
from switch.database import UNKNOWN, Pool, unsure
from switch.errors import Problem
from switch.ids import show
from switch.merchants import Acquirer
from switch.merchants.approvals import Approvals
from switch.merchants.onboarding import Onboarding
from switch.payments.resolution import Person
from switch.settlement.reconciliation import incoming, intake, runs
from switch.settlement.reconciliation.clearing import YEARS
from switch.settlement.reconciliation.exceptions import Exceptions
from switch.settlement.reconciliation.intake import Intake

RESOLVE = "resolve_exception"
PAGE_MAX = 200
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
_AT = "2026-03-01T02:03:04.000000Z"
_DAY = "2026-03-01"
EXAMPLES: Mapping[str, dict[str, Any]] = {
    "file": {"id": f"clf_{_ID}", "document": "clearing", "format": "clearing_csv", "acquirer": f"acq_{_ID}", "institution": "00010344",
             "business_date": _DAY, "number": 1, "name": "CLR20260301.csv", "sha256": "9f" * 32, "size": 104857, "lines": 1204, "total": 1204000,
             "fees": 7224, "received_by": "Li Wei", "received_at": _AT},
    "run": {"id": f"rec_{_ID}", "acquirer": f"acq_{_ID}", "business_date": _DAY, "state": "done", "cause": f"file clf_{_ID}", "requested_at": _AT,
            "started_at": _AT, "ended_at": _AT, "complete": True, "lines": 1204, "movements": 1205, "matched": {"exact": 1203, "amount": 1},
            "found": {"amount": 1, "missing_there": 1}, "digest": "0cc175b9c0f1b6a831c399e269772661"},
    "exception": {"id": f"exc_{_ID}", "acquirer": f"acq_{_ID}", "business_date": _DAY, "kind": "amount", "rule": "amount", "file": f"clf_{_ID}",
                  "line_no": 17, "merchant": f"mer_{_ID}", "transaction": f"txn_{_ID}", "rrn": "606000000017", "currency": "CNY", "expected": 10000,
                  "found": 9900, "difference": -100, "state": "open", "owner": None, "resolution": None, "resolved_by": None, "approved_by": None,
                  "resolved_at": None, "opened_at": _AT, "changed_at": _AT},
    "request": {"acquirer": f"acq_{_ID}", "business_date": _DAY, "state": "due"},
    "comment": {"exception": f"exc_{_ID}"},
    "totals": {"acquirer": f"acq_{_ID}", "business_date": _DAY, "items": [
        {"currency": "CNY", "booked": 1205000, "cleared": 1204000, "fees": 7224, "to_be_paid": 1196776, "received": None}]},
}
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Text = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(plain_text)]
Kind = Literal["missing_here", "missing_there", "amount", "fee", "duplicate", "date", "funding", "funding_missing", "unknown_entry"]


class RunRequest(Model):
    """Runs are made by themselves when a file comes; the same books and files give the same result again."""

    acquirer: Ident
    business_date: Day


class CommentRequest(Model):
    text: Text


class AssignRequest(Model):
    """Null takes the owner off. `take_over`: why you take it from somebody else who has it."""

    owner: Annotated[str, Field(min_length=1, max_length=120), AfterValidator(plain_text)] | None
    take_over: Text | None = None


class ExceptionRequest(Model):
    """Where the difference goes: `write_off` to the loss account, `suspense` to be looked at later, `adjust` to the merchant, `claim` stays with the
    acquirer, who is asked for it, `accept` when there is none. What is large waits for a second person."""

    resolution: Literal["write_off", "suspense", "adjust", "claim", "accept"]
    reason: Annotated[str, Field(min_length=10, max_length=500), AfterValidator(plain_text)]


MODELS = (RunRequest, CommentRequest, AssignRequest, ExceptionRequest)


class Parts(Protocol):
    onboarding: Onboarding
    approvals: Approvals
    writers: Pool
    intake: Intake
    exceptions: Exceptions


def _file(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("clearing_file", row["file_id"]), "acquirer": show("acquirer", row["acquirer_id"]) if row["acquirer_id"] else None,
            "business_date": row["business_date"].isoformat(), "received_at": stamp(row["received_at"]),
            **{name: row[name] for name in ("document", "format", "institution", "number", "name", "sha256", "size", "lines", "total", "fees",
                                            "received_by")}}


def _run(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("run", row["run_id"]), "acquirer": show("acquirer", row["acquirer_id"]), "business_date": row["business_date"].isoformat(),
            **{name: row[name] for name in ("state", "cause", "complete", "lines", "movements", "digest")},
            **{name: json.loads(row[name]) for name in ("matched", "found")},
            **{name: stamp(row[name]) for name in ("requested_at", "started_at", "ended_at")}}


def _exception(row: asyncpg.Record) -> dict[str, Any]:
    ids = {name: show(kind, row[column]) if row[column] else None for name, kind, column in (
        ("acquirer", "acquirer", "acquirer_id"), ("file", "clearing_file", "file_id"), ("merchant", "merchant", "merchant_id"),
        ("transaction", "transaction", "transaction_id"))}
    return {"id": show("exception", row["exception_id"]), **ids, "business_date": row["business_date"].isoformat(),
            **{name: row[name] for name in ("kind", "rule", "line_no", "rrn", "currency", "expected", "found", "difference", "state", "owner",
                                            "resolution", "resolved_by", "approved_by")},
            **{name: stamp(row[name]) for name in ("resolved_at", "opened_at", "changed_at")}}


def _answered(kind: str, code: int = 200, /, **more: Any) -> dict[int | str, dict[str, Any]]:
    return {code: {"description": f"The {kind}", "content": {"application/json": {"example": {**EXAMPLES[kind], **more}}}}}


def _listed(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "One page", "content": {"application/json": {"example": {"items": [EXAMPLES[kind]], "next": None}}}}}


def _id(kind: str, text: str | None) -> UUID | None:
    return None if text is None else identified(kind, text)


async def _fetch(pool: Pool, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    try:
        return await pool.fetch(statement, *arguments)
    except UNKNOWN:
        raise unsure() from None


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503), tags=["operations"])
    _files(routes, operator, parts)
    _runs(routes, parts)
    _exceptions(routes, operator, parts)
    _resolving(routes, operator, parts)
    return routes


def _files(routes: APIRouter, operator: Callable[[Request], Any], parts: Parts) -> None:
    @routes.post("/v1/clearing-files", summary="Bring in a clearing file or a bank statement: taken whole, or refused with line and reason",
                 status_code=201, responses=_answered("file", 201) | _answered("file") | refused(400, 409, 413, 415),
                 openapi_extra={"requestBody": {
                     "required": True, "description": "The file as it is, or gzip; its format is seen from its first line.",
                     "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}})
    async def bring(request: Request, caller: Annotated[Caller, Depends(operator)], document: Literal["clearing", "statement"] = "clearing",
                    acquirer: Annotated[str | None, Query(description="whose clearing file it is; none for a bank statement")] = None,
                    name: Annotated[str, Query(max_length=120)] = "") -> Response:
        if "content-encoding" in request.headers:
            raise Problem("content_encoding", "Send the bytes of the file; a gzip file is one without Content-Encoding, too.")
        if (acquirer is None) != (document == "statement") or not name.isprintable():
            raise Problem("invalid", errors=[{"field": "acquirer", "type": "rule",
                                              "rule": "needed for a clearing file and for no other; the name must be printable"}])
        acquirer_id, institutions = None, None
        if acquirer is not None:
            acquirer_id = identified("acquirer", acquirer)
            record = await parts.onboarding.get(Acquirer, acquirer_id)
            institutions = [record.institution_code or record.name]
        row, new = await parts.intake.take(document, acquirer_id, institutions, name, streamed(request), person(caller))
        return said(_file(row), 201 if new else 200)

    @routes.get("/v1/clearing-files", summary="Files that were taken, newest first", responses=_listed("file"))
    async def page(limit: Limit = 50, after: str | None = None, acquirer: str | None = None,
                   document: Literal["clearing", "statement"] | None = None) -> Response:
        rows = await _fetch(parts.writers, intake.PAGE, _id("acquirer", acquirer), document, _id("clearing_file", after), limit + 1)
        return paged([_file(row) for row in rows], limit)


async def streamed(request: Request) -> AsyncIterator[bytes]:
    """A body as it comes."""
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect:
        raise Problem("request_malformed", "The connection ended before the file.") from None


def _runs(routes: APIRouter, parts: Parts) -> None:
    @routes.post("/v1/reconciliations", summary="Reconcile a date of an acquirer again", status_code=202,
                 openapi_extra=documented(RunRequest, {"acquirer": f"acq_{_ID}", "business_date": _DAY}),
                 responses=_answered("request", 202) | refused(400, 413, 415))
    async def again(request: Request) -> Response:
        wanted = await body_of(request, RunRequest)
        if wanted.business_date.year not in YEARS:
            raise Problem("invalid", "One or more fields are wrong; see errors.",
                          errors=[{"field": "business_date", "rule": "a day of this century", "type": "day"}])
        acquirer_id = identified("acquirer", wanted.acquirer)
        await parts.onboarding.get(Acquirer, acquirer_id)
        try:
            async with parts.writers.acquire() as connection, connection.transaction():
                await runs.request(connection, acquirer_id, [wanted.business_date], "asked for")
        except UNKNOWN:
            raise unsure() from None
        return said({"acquirer": wanted.acquirer, "business_date": wanted.business_date.isoformat(), "state": "due"}, 202)

    @routes.get("/v1/reconciliations", summary="Runs, newest first", responses=_listed("run"))
    async def page(limit: Limit = 50, after: str | None = None, acquirer: str | None = None, business_date: Day | None = None) -> Response:
        rows = await _fetch(parts.writers, runs.PAGE, _id("acquirer", acquirer), business_date, _id("run", after), limit + 1)
        return paged([_run(row) for row in rows], limit)

    @routes.get("/v1/reconciliations/totals", summary="A date of an acquirer in three ways: our books, its file, the bank",
                responses=_answered("totals"))
    async def totals(acquirer: str, business_date: Day) -> Response:
        acquirer_id = identified("acquirer", acquirer)
        try:
            items = await incoming.three_ways(parts.writers, acquirer_id, business_date)
        except UNKNOWN:
            raise unsure() from None
        return said({"acquirer": acquirer, "business_date": business_date.isoformat(), "items": items})


def _exceptions(routes: APIRouter, operator: Callable[[Request], Any], parts: Parts) -> None:
    @routes.get("/v1/exceptions", summary="What does not agree, newest first; open and claimed ones unless told", responses=_listed("exception"))
    async def page(limit: Limit = 50, after: str | None = None, acquirer: str | None = None, business_date: Day | None = None,
                   kind: Kind | None = None, owner: Annotated[str | None, Query(max_length=120)] = None,
                   state: Literal["open", "claimed", "resolved", "withdrawn", "all"] | None = None) -> Response:
        states: list[str] | None = ["open", "claimed"] if state is None else None if state == "all" else [state]
        rows = await parts.exceptions.page(states, _id("acquirer", acquirer), business_date, kind, owner, _id("exception", after), limit + 1)
        return paged([_exception(row) for row in rows], limit)

    @routes.get("/v1/exceptions/{ident}", summary="One exception, how both sides differ, and what was said about it",
                responses=_answered("exception", explanation=["RRN, direction and date agree, the amount does not"],
                                    comments=[{"at": _AT, "by": "Li Wei", "what": "comment", "text": "Asked the acquirer"}]))
    async def one(ident: str) -> Response:
        row, words, comments = await parts.exceptions.get(identified("exception", ident))
        return said({**_exception(row), "explanation": words, "comments": [{**dict(each), "at": stamp(each["at"])} for each in comments]})

    @routes.post("/v1/exceptions/{ident}/comments", summary="Say something about it", status_code=201,
                 openapi_extra=documented(CommentRequest, {"text": "Asked the acquirer, its ticket 4711"}),
                 responses=_answered("comment", 201) | refused(400, 413, 415))
    async def comment(request: Request, ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, CommentRequest)
        await parts.exceptions.comment(identified("exception", ident), person(caller), wanted.text)
        return said({"exception": ident}, 201)

    @routes.post("/v1/exceptions/{ident}/assign", summary="Give it to somebody", openapi_extra=documented(AssignRequest, {"owner": "Li Wei"}),
                 responses=_answered("exception", owner="Li Wei") | refused(400, 413, 415))
    async def assign(request: Request, ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, AssignRequest)
        return said(_exception(await parts.exceptions.assign(identified("exception", ident), person(caller), wanted.owner, wanted.take_over)))


def _resolving(routes: APIRouter, operator: Callable[[Request], Any], parts: Parts) -> None:
    @routes.post("/v1/exceptions/{ident}/resolve", summary="Say where the difference goes; what is large waits for a second person",
                 openapi_extra=documented(ExceptionRequest, {"resolution": "write_off", "reason": "Rounding, less than a claim costs"}),
                 responses=_answered("exception", state="resolved", resolution="write_off", resolved_by="Li Wei", resolved_at=_AT)
                 | {202: {"description": "It waits for a second person: an approval", "content": {"application/json": {}}}}
                 | refused(400, 409, 413, 415))
    async def resolve(request: Request, ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        exception_id, wanted = identified("exception", ident), await body_of(request, ExceptionRequest)
        asked = await parts.exceptions.asked(exception_id, wanted.resolution)
        if not asked.two_people:
            return said(_exception(await parts.exceptions.resolve(exception_id, asked, person(caller), wanted.reason)))
        payload = {"resolution": asked.resolution, "version": asked.version}
        row = await parts.approvals.request(RESOLVE, show("exception", exception_id), payload, wanted.reason, Person(person(caller), caller.key_id))
        return said(shown_approval(row), 202)
