"""Exports and statements for merchants: streamed at once, or written to a file by a job and fetched later."""

import asyncio
import os
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import FileResponse, Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.download import Download, Places, attachment, books
from switch.api.onboard import Ident, Instant, body_of, identified, said
from switch.api.shapes import PaymentStatus, Status, refused
from switch.api.terminal import Model, idempotency_key, one_of_each
from switch.callers import Caller, require
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import show
from switch.settlement.exports import files, paper, statements
from switch.settlement.exports.cells import MEDIA
from switch.settlement.exports.files import Connect, Exports
from switch.settlement.exports.paper import Press
from switch.settlement.jobs import table
from switch.settlement.jobs.table import Job

_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
_AT = "2026-03-01T02:03:04.000000Z"
PAIR = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")
RANGE = re.compile(r"bytes=(?:[0-9]{1,15}-[0-9]{0,15}|-[0-9]{1,15})(?:, ?(?:[0-9]{1,15}-[0-9]{0,15}|-[0-9]{1,15})){0,20}")
Type = Literal["purchase", "preauthorization", "cash_advance", "balance_inquiry", "account_verification", "capture", "increment", "void",
               "tip", "refund", "offline_sale"]
ASKED: Mapping[str, Any] = {"of": "settlement", "settlement": f"set_{_ID}", "format": "xlsx"}
EXAMPLE: Mapping[str, Any] = {
    "id": f"exp_{_ID}", "merchant": f"mer_{_ID}", "asked": dict(ASKED), "state": "done", "error": None,
    "progress": {"done": 100_000, "total": 100_000}, "file": f"/v1/exports/exp_{_ID}/file",
    "name": "settlement-2026-03-01-CNY.xlsx", "bytes": 9_412_331, "rows": 100_000,
    "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "created_at": _AT, "ended_at": _AT,
    "expires_at": "2026-03-08T02:03:04.000000Z",
}


class ExportRequest(Model):
    """`settlement`: one settlement whole. `transactions`: what the list of transactions shows for the same filters."""

    of: Literal["settlement", "transactions"]
    format: Literal["csv", "json", "xlsx"]
    bom: bool = Field(default=False, description="A byte order mark in front of a CSV, for table programs that need one to see UTF-8")
    settlement: Ident | None = None
    from_: Annotated[Instant | None, Field(alias="from")] = None
    to: Instant | None = None
    status: Status | None = None
    payment_status: PaymentStatus | None = None
    type: Type | None = None
    store: Ident | None = None
    terminal: Ident | None = None
    merchant: Annotated[Ident | None, Field(description="For operators: whose transactions")] = None

    @model_validator(mode="after")
    def _agrees(self) -> "ExportRequest":
        filters = (self.from_, self.to, self.status, self.payment_status, self.type, self.store, self.terminal, self.merchant)
        if self.of == "settlement" and (self.settlement is None or any(each is not None for each in filters)):
            raise PydanticCustomError("export", "An export of a settlement names it, and nothing else")
        if self.of == "transactions" and self.settlement is not None:
            raise PydanticCustomError("export", "An export of transactions names no settlement")
        if self.from_ is not None and self.to is not None and self.from_ > self.to:
            raise PydanticCustomError("export", "`from` is after `to`")
        return self

    def arguments(self) -> dict[str, Any]:
        """As the job keeps them."""
        given = self.model_dump(by_alias=True, exclude={"merchant", "from_", "to"})
        times = {name: value.isoformat() for name, value in (("from", self.from_), ("to", self.to)) if value is not None}
        return {name: value for name, value in given.items() if value is not None and value is not False} | times


MODELS = (ExportRequest,)


class Parts(Protocol):
    """What these routes need of the switch."""

    writers: Pool
    exports: Exports
    press: Press
    places: Places

    def reader(self) -> Connect: ...


def shown(job: Job) -> dict[str, Any]:
    done = job.state == "done"
    ident = show("export", job.job_id)
    return {"id": ident, "merchant": show("merchant", job.merchant_id) if job.merchant_id else None, "asked": dict(job.arguments), "state": job.state,
            "progress": {"done": job.progress_done, "total": job.progress_total}, "error": job.error,
            "file": f"/v1/exports/{ident}/file" if done else None, **{name: job.detail.get(name) for name in ("name", "bytes", "rows", "sha256")},
            "created_at": stamp(job.created_at), "ended_at": stamp(job.ended_at), "expires_at": stamp(files.expires_at(job))}


def _answered(code: int = 200, **more: Any) -> dict[int | str, dict[str, Any]]:
    return {code: {"description": "The export", "content": {"application/json": {"example": {**EXAMPLE, **more}}}}}


def _files(*forms: str, description: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {
        MEDIA[form].partition(";")[0]: {"schema": {"type": "object" if form == "json" else "string"}} for form in forms}}}


def _whose(caller: Caller) -> UUID | None:
    """Whose objects a caller may see: a merchant its own, an operator all. Terminals have no part in settlement."""
    return require(caller, "merchant", "operator").merchant_id


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 403, 404, 422, 503))
    _settlements(routes, parts, identify)
    _jobs(routes, parts, identify)
    return routes


def _settlements(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def whole_of(connection: Any, shown_id: str, merchant_id: UUID | None) -> statements.Head:
        found = await statements.head(connection, identified("settlement", shown_id), merchant_id)
        if found is None:
            raise Problem("not_found")
        return found

    @routes.get("/v1/settlements/{settlement}/export", tags=["merchants"], summary="A settlement line by line, streamed as CSV or JSON",
                responses=_files("csv", "json", description="Every line, then charges and tax: the nets sum to the settlement's"))
    async def export(request: Request, settlement: str, format_: Annotated[Literal["csv", "json"], Query(alias="format")] = "csv",
                     bom: bool = False) -> Response:
        caller = identify(request)
        merchant_id, connect = _whose(caller), parts.reader()

        @asynccontextmanager
        async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
            async with parts.places.place(caller), books(connect) as connection:
                yield files.streamed(files.of_settlement(connection, await whole_of(connection, settlement, merchant_id)), format_, bom)

        return Download(opened(), MEDIA[format_], f"{identified('settlement', settlement)}.{format_}")

    @routes.get("/v1/settlements/{settlement}/statement", tags=["merchants"],
                summary="A settlement's statement for print: HTML, or PDF where it is installed",
                responses=_files("html", "pdf", description="The statement") | refused(501))
    async def statement(request: Request, settlement: str, format_: Annotated[Literal["html", "pdf"] | None, Query(alias="format")] = None,
                        language: Literal["en", "zh"] = "en") -> Response:
        caller = identify(request)
        merchant_id = _whose(caller)
        async with parts.places.place(caller), books(parts.reader()) as connection:
            whole = await whole_of(connection, settlement, merchant_id)
            printed = paper.document(await statements.statement(connection, whole), language)
        name = f"statement-{whole.business_date}-{whole.currency}"
        if (format_ or _wanted(request)) == "pdf":
            return attachment(await parts.press.pdf(printed), MEDIA["pdf"], f"{name}.pdf")
        response = attachment(paper.html(printed).encode(), MEDIA["html"], f"{name}.html", "inline")
        response.headers["content-security-policy"] = "default-src 'none'; style-src 'unsafe-inline'"
        return response


def _wanted(request: Request) -> str:
    """What the Accept header likes better; HTML when it does not say."""
    accepted = request.headers.get("accept", "").lower()
    return "pdf" if "application/pdf" in accepted and "text/html" not in accepted else "html"


def _jobs(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def export_of(caller: Caller, shown_id: str) -> Job:
        merchant_id = _whose(caller)
        try:
            job = await table.one(parts.writers, identified("export", shown_id))
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        if job.kind != files.KIND or merchant_id not in (None, job.merchant_id):
            raise Problem("not_found")
        return job

    @routes.post("/v1/exports", tags=["merchants"], summary="Ask for a file; a job writes it", status_code=202,
                 openapi_extra=documented(ExportRequest, ASKED) | {"parameters": [
                     {"name": "Idempotency-Key", "in": "header", "required": False, "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
                      "description": "The same key is the same export, however often it is asked for."}]},
                 responses=refused(400, 409, 413, 415) | _answered(202, state="queued", file=None, name=None, bytes=None, rows=None, sha256=None))
    async def ask(request: Request) -> Response:
        caller = identify(request)
        merchant_id = _whose(caller)
        given = one_of_each(request.scope["headers"]).get(b"idempotency-key")
        key = idempotency_key(given) if given is not None else os.urandom(16).hex()
        wanted: ExportRequest = await body_of(request, ExportRequest)
        owner = await _owner(parts, merchant_id, wanted)
        return said(shown(await _asked(parts.writers, owner, key, wanted.arguments(), caller)), 202)

    @routes.get("/v1/exports", tags=["merchants"], summary="Exports, newest first, for as long as their files are kept",
                responses={200: {"description": "One page", "content": {"application/json": {"example": {"items": [EXAMPLE], "next": None}}}}})
    async def page(request: Request, limit: Annotated[int, Query(ge=1, le=table.PAGE_MAX)] = 50, after: str | None = None,
                   state: Literal["queued", "running", "waiting", "done", "failed", "cancelled"] | None = None,
                   merchant: str | None = None) -> Response:
        ours = _whose(identify(request))
        asked_of = ours if merchant is None else identified("merchant", merchant)
        if ours not in (None, asked_of):
            raise Problem("not_found")
        try:
            found = await table.page(parts.writers, limit + 1, None if after is None else identified("export", after), state, files.KIND, asked_of)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        return said({"items": [shown(job) for job in found[:limit]], "next": show("export", found[limit - 1].job_id) if len(found) > limit else None})

    @routes.get("/v1/exports/{export}", tags=["merchants"], summary="An export: how far it is, and where its file is", responses=_answered())
    async def one(request: Request, export: str) -> Response:
        return said(shown(await export_of(identify(request), export)))

    @routes.get("/v1/exports/{export}/file", tags=["merchants"], summary="The file of an export, for seven days",
                responses=_files("csv", "json", "xlsx", description="The file, with its SHA-256 as ETag") | refused(409))
    async def file(request: Request, export: str) -> Response:
        job = await export_of(identify(request), export)
        if job.state != "done":
            raise Problem("conflict", f"The export is {job.state}; its file is there when it is done.")
        path = parts.exports.path(job)
        if not await asyncio.to_thread(path.is_file):
            raise Problem("not_found", "The file is no longer kept; ask for a new export.")
        check_range(request.headers.get("range"))
        return FileResponse(path, media_type=MEDIA[str(job.arguments["format"])], filename=str(job.detail["name"]), headers={
            "cache-control": "no-store", "x-content-type-options": "nosniff", "etag": f'"{job.detail["sha256"]}"'})


def check_range(header: str | None) -> None:
    """Raises Problem request_malformed: of which a file is answered in parts is told like every other mistake."""
    if header is not None and (RANGE.fullmatch(header) is None or any(int(first) > int(last) for first, last in PAIR.findall(header))):
        raise Problem("request_malformed", "The header Range is bytes=FIRST-LAST, counted from 0; leave it away for the whole file.")


async def _owner(parts: Parts, merchant_id: UUID | None, wanted: ExportRequest) -> UUID:
    """Whose the export will be. Raises Problem not_found for what is not this merchant's."""
    for kind in ("store", "terminal"):
        if (text := getattr(wanted, kind)) is not None:
            identified(kind, text)
    if wanted.of == "transactions":
        owner = merchant_id if wanted.merchant is None else identified("merchant", wanted.merchant)
        if owner is None or merchant_id not in (None, owner):
            raise Problem("not_found", "" if merchant_id is not None else "An operator names the merchant whose transactions are exported.")
        return owner
    async with books(parts.reader()) as connection:
        whole = await statements.head(connection, identified("settlement", wanted.settlement or ""), merchant_id)
    if whole is None:
        raise Problem("not_found")
    return whole.merchant_id


async def _asked(pool: Pool, merchant_id: UUID, key: str, arguments: dict[str, Any], caller: Caller) -> Job:
    """Raises Problem: conflict when too many are open, idempotency_key_reused, not_found for a merchant that is none."""
    try:
        async with pool.acquire() as connection:
            if not await connection.fetchval("SELECT true FROM merchant WHERE merchant_id = $1", merchant_id):
                raise Problem("not_found")
            job = await files.ask(connection, merchant_id, key, arguments, caller.person or caller.key_id)
    except UNKNOWN:
        raise Problem("not_ready", "The books cannot be written just now.", retry_after=2) from None
    if job is None:
        raise Problem("conflict", f"{files.OPEN_MAX} exports of this merchant wait or run; fetch those first.")
    if dict(job.arguments) != arguments:
        raise Problem("idempotency_key_reused")
    return job
