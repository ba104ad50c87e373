"""Disputes for their merchants: what is disputed, evidence, and the answer to it. Operators see all and may do the same for a merchant."""

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.follow_ups import KEY_HEADER, described
from switch.api.onboard import identified, said
from switch.api.settlements import whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import ANSWER_HEADERS, REPLAY_HEADERS, Model, canonical, check_content, idempotency_key, model_of, one_of_each, read_body
from switch.callers import Caller, require
from switch.clock import clock
from switch.database import Connection, Pool
from switch.errors import Problem
from switch.files import scans
from switch.ids import show
from switch.security.pan import holds_card_number
from switch.security.vault import Vault
from switch.settlement.disputes import exhibits, keyed
from switch.settlement.disputes.cases import CODES, Cases, Step
from switch.settlement.disputes.docket import PAGE_MAX, Docket, Wanted
from switch.settlement.disputes.exhibits import Exhibits
from switch.settlement.disputes.keyed import Asked

State = Literal["retrieval", "answered", "unanswered", "chargeback", "represented", "pre_arbitration", "arbitration", "won", "lost", "accepted",
                "withdrawn"]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


def plain_lines(text: str) -> str:
    """A statement is stored and shown in clear; it may have lines."""
    if not text.strip() or not all(line.isprintable() for line in text.split("\n")):
        raise PydanticCustomError("text", "Printable characters and line feeds")
    if holds_card_number(text):
        raise PydanticCustomError("card_number", "The text must not hold a card number")
    return text


Statement = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(plain_lines)]


class RepresentRequest(Model):
    """`files`: ids of what was uploaded before. At least one of them, or a statement."""

    files: Annotated[list[Annotated[str, Field(max_length=64)]], Field(max_length=exhibits.FILES_MAX, default_factory=list)]
    statement: Statement | None = None


class AcceptRequest(Model):
    """The merchant does not answer it: the money stays with the cardholder."""

    statement: Statement | None = None


MODELS = (RepresentRequest, AcceptRequest)


class ShownDispute(Shape):
    """`amount` is what it is about, `charged` what of it is taken from you now; minor units. `answer_by`: until when you may answer, null when it is
    not your turn."""

    id: str
    merchant: str
    acquirer: str
    transaction: str
    reference: str
    state: State
    amount: int
    charged: int
    currency: str
    brand: str
    reason_code: str
    noticed_on: str
    answer_by: str | None
    opened_at: str
    closed_at: str | None


class DisputePage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownDispute]
    next: str | None


class DisputeEvent(Shape):
    at: str
    event: str
    state: State
    by: str
    note: str
    files: list[str]


class ShownFile(Shape):
    id: str
    dispute: str
    name: str
    media_type: Literal["application/pdf", "image/png", "image/jpeg"]
    size: int
    sha256: str
    uploaded_at: str


class WholeDispute(ShownDispute):
    """With what happened to it, and its files."""

    events: list[DisputeEvent]
    evidence: list[ShownFile]


class Keyed(Protocol):
    """What a request with an idempotency key needs of the switch."""

    writers: Pool
    vault: Vault

    def admit(self) -> None: ...


class Parts(Keyed, Protocol):
    """What these routes need of the switch."""

    cases: Cases
    docket: Docket
    exhibits: Exhibits


def shown(row: asyncpg.Record) -> dict[str, Any]:
    plain = ("reference", "state", "amount", "charged", "currency", "brand", "reason_code")
    ids = {"id": "dispute", "merchant": "merchant", "acquirer": "acquirer", "transaction": "transaction"}
    return {**{name: show(kind, row[f"{kind}_id"]) for name, kind in ids.items()}, **{name: row[name] for name in plain},
            "noticed_on": row["noticed_on"].isoformat(),
            **{name: stamp(row[name]) for name in ("answer_by", "opened_at", "closed_at")}}


def _file(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("dispute_file", row["file_id"]), "dispute": show("dispute", row["dispute_id"]), "sha256": row["sha256"].hex(),
            **{name: row[name] for name in ("name", "media_type", "size")}, "uploaded_at": stamp(row["uploaded_at"])}


def _event(row: asyncpg.Record, people: bool) -> dict[str, Any]:
    """Who of the operator's people did it is not the merchant's concern."""
    by = row["by"] if people or not row["by"].startswith("person:") else "operator"
    return {"at": stamp(row["at"]), **{name: row[name] for name in ("event", "state", "note")}, "by": by,
            "files": [show("dispute_file", file_id) for file_id in row["files"]]}


def caller_name(caller: Caller) -> str:
    """Whose key it is, and who did it: all keys of a merchant are one, an operator's are the person's."""
    if caller.role == "operator":
        return f"person:{caller.person}"
    assert caller.merchant_id is not None
    return show("merchant", caller.merchant_id)


Work = Callable[[Connection], Awaitable[dict[str, Any]]]


async def answered(parts: Keyed, asked: Asked, status: int, work: Work) -> Response:
    """Runs it once for its key. Raises Problem."""

    async def run(connection: Connection) -> tuple[int, str]:
        return status, json.dumps(await work(connection))

    given = await keyed.once(parts.writers, asked, run, dict(CODES))
    headers = REPLAY_HEADERS if given.replayed else ANSWER_HEADERS
    return Response(given.body, given.status, {name.decode(): value.decode() for name, value in headers})


async def asked_json(parts: Keyed, request: Request, caller: Caller, route: str, model: type[Model]) -> tuple[Asked, Any]:
    """A strict JSON body with its key. Raises Problem: idempotency_key_*, content_*, json_*, invalid, and what `admit` raises."""
    headers = one_of_each(request.scope["headers"])
    key = idempotency_key(headers.get(b"idempotency-key"))
    check_content(headers)
    checked, value = model_of(model, await read_body(headers, request.receive))
    parts.admit()
    return Asked(caller_name(caller), key, route, parts.vault.fingerprint(route.encode() + b"|" + canonical(value))), checked


async def raw_body(request: Request, limit: int, code: str) -> bytes:
    """At most `limit` bytes. Raises Problem: content_encoding, request_malformed, and `code` when there are more."""
    if "content-encoding" in request.headers:
        raise Problem("content_encoding")
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise Problem(code, f"It is larger than {limit >> 20} MB.")
    except ClientDisconnect:
        raise Problem("request_malformed", "The connection ended before the file.") from None
    return bytes(body)


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["disputes"], responses=refused(401, 403, 404, 422, 503))
    _reads(routes, parts, identify)
    _evidence(routes, parts, identify)
    _answers(routes, parts, identify)
    return routes


def _id(kind: str, text: str | None) -> UUID | None:
    return None if text is None else identified(kind, text)


def _reads(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/disputes", summary="Disputes, newest first", responses=shaped(200, "One page", DisputePage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, state: State | None = None, open: bool | None = None,
                   merchant: str | None = None, acquirer: str | None = None, transaction: str | None = None) -> Response:
        wanted = Wanted(whose(identify(request), merchant), state, open, _id("acquirer", acquirer), _id("transaction", transaction),
                        _id("dispute", after))
        rows = await parts.docket.page(wanted, limit + 1)
        more = len(rows) > limit
        return said({"items": [shown(row) for row in rows[:limit]], "next": show("dispute", rows[limit - 1]["dispute_id"]) if more else None})

    @routes.get("/v1/disputes/{dispute}", summary="One dispute with what happened to it", responses=shaped(200, "The dispute", WholeDispute))
    async def one(request: Request, dispute: str) -> Response:
        caller = require(identify(request), "merchant", "operator")
        row, events, files = await parts.docket.one(identified("dispute", dispute), whose(caller, None))
        return said({**shown(row), "events": [_event(event, caller.role == "operator") for event in events],
                     "evidence": [_file(file) for file in files]})


def _evidence(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/disputes/{dispute}/evidence", status_code=201, summary="Upload a file that supports your answer",
                 responses=shaped(201, "The file; the same bytes again are the same file", ShownFile) | refused(400, 409, 413, 415),
                 openapi_extra={"parameters": [KEY_HEADER], "requestBody": {
                     "required": True, "description": "The bytes of the file, at most 4 MB; a dispute takes at most 10 files.",
                     "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in scans.ENDINGS}}})
    async def upload(request: Request, dispute: str, name: Annotated[str, Query(max_length=120)] = "") -> Response:
        caller = require(identify(request), "merchant", "operator")
        if not name:
            raise Problem("invalid", errors=[{"field": "query.name", "rule": "1 to 120 characters", "type": "missing"}])
        dispute_id, headers = identified("dispute", dispute), one_of_each(request.scope["headers"])
        key = idempotency_key(headers.get(b"idempotency-key"))
        media_type = headers.get(b"content-type", b"").decode("latin-1").strip().lower()
        if media_type not in scans.ENDINGS:
            raise Problem("content_type", f"Send a file with the Content-Type {', '.join(scans.ENDINGS)}.")
        await parts.docket.one(dispute_id, caller.merchant_id)  # before its bytes are read
        content = await raw_body(request, scans.BYTES_MAX, "body_too_large")
        parts.admit()
        about = json.dumps([dispute, name, media_type, hashlib.sha256(content).hexdigest()]).encode()
        asked = Asked(caller_name(caller), key, "evidence", parts.vault.fingerprint(b"evidence|" + about))
        return await answered(parts, asked, 201, lambda connection: _added(connection, dispute_id, caller, name, media_type, content))

    async def _added(connection: Connection, dispute_id: UUID, caller: Caller, name: str, media_type: str, content: bytes) -> dict[str, Any]:
        by = caller_name(caller)
        return _file(await parts.exhibits.add(connection, dispute_id, caller.merchant_id, name, media_type, content, by, clock.now()))

    @routes.get("/v1/disputes/{dispute}/evidence/{file}", summary="Download a file", response_class=Response,
                responses={200: {"description": "Its bytes, as an attachment", "content": {
                    media: {"schema": {"type": "string", "format": "binary"}} for media in scans.ENDINGS}}})
    async def download(request: Request, dispute: str, file: str) -> Response:
        merchant_id = whose(identify(request), None)
        row, content = await parts.exhibits.content(identified("dispute", dispute), identified("dispute_file", file), merchant_id)
        # Never shown inline, whatever a browser thinks of its bytes; the name is ours.
        return Response(content, 200, {
            "content-type": row["media_type"], "content-disposition": f'attachment; filename="{file}.{scans.ENDINGS[row["media_type"]]}"',
            "x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox", "cache-control": "no-store"})


def _answers(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def answer(request: Request, dispute: str, event: str, model: type[Model]) -> Response:
        caller = require(identify(request), "merchant", "operator")
        dispute_id = identified("dispute", dispute)
        asked, body = await asked_json(parts, request, caller, f"{event}:{dispute_id}", model)
        if caller.role == "operator":
            logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
        files = [identified("dispute_file", file) for file in getattr(body, "files", ())]

        async def work(connection: Connection) -> dict[str, Any]:
            step = Step(event, caller_name(caller), body.statement or "", files)
            return shown(await parts.cases.move(connection, dispute_id, step, clock.now(), caller.merchant_id))

        return await answered(parts, asked, 200, work)

    outcome = shaped(200, "The dispute as it is now", ShownDispute) | refused(400, 409, 413, 415)

    @routes.post("/v1/disputes/{dispute}/represent", summary="Answer it: a retrieval with papers, a chargeback with evidence against it",
                 responses=outcome, openapi_extra=described(RepresentRequest, {
                     "files": ["dsf_0192f0c4-7c1e-7aaa-8bbb-1234567890ab"], "statement": "Delivered and signed for, see the slip"}))
    async def represent(request: Request, dispute: str) -> Response:
        return await answer(request, dispute, "represent", RepresentRequest)

    @routes.post("/v1/disputes/{dispute}/accept", summary="Accept it: the money stays with the cardholder", responses=outcome,
                 openapi_extra=described(AcceptRequest, {}))
    async def accept(request: Request, dispute: str) -> Response:
        return await answer(request, dispute, "accept", AcceptRequest)
