"""Licences of merchants that end: what is in force, renewed ones, and what a reviewer finds of them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.applications import Kind as KindName
from switch.api.disputes import raw_body
from switch.api.documented import documented
from switch.api.onboard import Day, Ident, body_of, identified, said
from switch.api.resolving import plain_text
from switch.api.settlements import one_merchant, whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model, one_of_each
from switch.callers import Caller, require
from switch.errors import Problem
from switch.files import scans
from switch.ids import show
from switch.merchants.journey import Journey
from switch.merchants.licences.recorded import Seen
from switch.payments.resolution import Person

Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(plain_text)]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"


class LicenceRequest(Model):
    """A renewed licence. `fields`: what stands on it; `merchant`: for operators alone."""

    kind: KindName
    fields: Annotated[dict[str, Annotated[str, Field(max_length=120)]], Field(min_length=1, max_length=8)]
    expires_on: Day
    merchant: Ident | None = None


class LicenceRecordRequest(Model):
    """A licence of a merchant that never applied, as you have seen it. `currency`: of the small limits that its end brings."""

    kind: KindName
    fields: Annotated[dict[str, Annotated[str, Field(max_length=120)]], Field(min_length=1, max_length=8)]
    expires_on: Day
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    reason: Reason


class LicenceVerdictRequest(Model):
    verdict: Literal["accepted", "refused"]
    reason: Reason


MODELS = (LicenceRequest, LicenceRecordRequest, LicenceVerdictRequest)


class LicenceInForce(Shape):
    document: str
    kind: str
    expires_on: str


class LicenceStep(Shape):
    """`step`: remind_30, remind_7, remind_1, limit, suspend, lift."""

    kind: str
    expires_on: str
    step: str
    at: str
    by: str
    reason: str


class LicenceRecorded(Shape):
    """What an operator has seen, and says of it; the last one of its kind counts."""

    document: str
    kind: str
    expires_on: str
    currency: str
    at: str
    by: str
    reason: str


class Licences(Shape):
    """`needed`: of a business of this kind in this country. Not `watched` is who never applied here, but was onboarded or imported, until an operator
    records a licence of it. `ended`: the last of its kind, whose day is over."""

    merchant: str
    watched: bool
    needed: list[str]
    in_force: list[LicenceInForce]
    ended: list[LicenceInForce]
    steps: list[LicenceStep]
    recorded: list[LicenceRecorded]


class RenewedLicence(Shape):
    document: str


class RecordedLicence(Shape):
    """`lifted`: limit, suspend; in force at every worker within a second."""

    document: str
    lifted: list[str]


class JudgedLicence(Shape):
    """`lifted`: limit, suspend; in force at every worker within a second."""

    document: str
    verdict: Literal["accepted", "refused"]
    lifted: list[str]


class Parts(Protocol):
    """What these routes need of the switch."""

    journey: Journey


RENEW = {"kind": "food_licence", "fields": {"number": "JY13101010000000"}, "expires_on": "2031-11-25"}
RECORD = RENEW | {"currency": "CNY", "reason": "Seen at the shop; a copy is in folder 117"}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["licences"], responses=refused(401, 403, 404, 422, 503))
    changes = refused(400, 409, 413, 415)

    @routes.get("/v1/licences", summary="What a merchant needs, what is in force until when, and what was done about it",
                responses=shaped(200, "Its licences", Licences))
    async def page(request: Request, merchant: Annotated[str | None, Query(max_length=64)] = None) -> Response:
        of = one_merchant(identify(request), merchant)
        return said(await _shown(parts, of))

    @routes.post("/v1/licences", status_code=201, summary="A renewed licence; its scan follows, and it counts once it is accepted",
                 openapi_extra=documented(LicenceRequest, RENEW), responses=shaped(201, "Upload its scan to this id", RenewedLicence) | changes)
    async def renew(request: Request) -> Response:
        caller = require(identify(request), "merchant", "operator")
        wanted = await body_of(request, LicenceRequest)
        of = one_merchant(caller, wanted.merchant)
        made = await parts.journey.licences.renew(of, wanted.kind, wanted.fields, wanted.expires_on, _by(caller))
        return said({"document": show("document", made)}, 201)

    @routes.post("/v1/licences/{document}/file", status_code=201, summary="Upload the scan of a renewed licence",
                 responses=shaped(201, "It waits for a reviewer", RenewedLicence) | changes,
                 openapi_extra={"requestBody": {
                     "required": True, "description": "The bytes of the file, at most 4 MB.",
                     "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in scans.ENDINGS}}})
    async def upload(request: Request, document: str) -> Response:
        caller = identify(request)
        of, identity = whose(caller, None), identified("document", document)
        media = one_of_each(request.scope["headers"]).get(b"content-type", b"").decode("latin-1").strip().lower()
        if media not in scans.ENDINGS:
            raise Problem("content_type", f"Send a file with the Content-Type {', '.join(scans.ENDINGS)}.")
        await parts.journey.licences.document(identity, of)  # before its bytes are read
        content = await raw_body(request, scans.BYTES_MAX, "body_too_large")
        await parts.journey.licences.file(identity, of, f"licence.{scans.ENDINGS[media]}", media, content, _by(caller))
        return said({"document": document}, 201)

    @routes.post("/v1/merchants/{merchant}/licences", status_code=201,
                 summary="Record a licence of a merchant that never applied; watched from now on, the last one of its kind counts",
                 openapi_extra=documented(LicenceRecordRequest, RECORD),
                 responses=shaped(201, "Recorded, and what it lifted", RecordedLicence) | changes)
    async def record(request: Request, merchant: str) -> Response:
        caller = require(identify(request), "operator")
        of, wanted = identified("merchant", merchant), await body_of(request, LicenceRecordRequest)
        logs.info("operator", method="POST", path="/v1/merchants/{merchant}/licences", detail=caller.key_id)
        paper = Seen(wanted.kind, wanted.fields, wanted.expires_on, wanted.currency)
        made, lifted = await parts.journey.licences.record(of, paper, wanted.reason, _by(caller))
        return said({"document": show("document", made), "lifted": lifted}, 201)

    @routes.post("/v1/licences/{document}/verdicts", status_code=201, summary="What you found of a renewed licence",
                 openapi_extra=documented(LicenceVerdictRequest, {"verdict": "accepted", "reason": "number and seal agree"}),
                 responses=shaped(201, "The verdict, and what it lifted", JudgedLicence) | changes)
    async def judge(request: Request, document: str) -> Response:
        caller = require(identify(request), "operator")
        identity, wanted = identified("document", document), await body_of(request, LicenceVerdictRequest)
        logs.info("operator", method="POST", path="/v1/licences/{document}/verdicts", detail=caller.key_id)
        lifted = await parts.journey.licences.judge(identity, wanted.verdict, wanted.reason, _by(caller))
        return said({"document": document, "verdict": wanted.verdict, "lifted": lifted}, 201)

    return routes


def _by(caller: Caller) -> Person:
    return Person(caller.person or f"merchant key {caller.key_id}", caller.key_id)


async def _shown(parts: Parts, merchant_id: UUID) -> dict[str, object]:
    found = await parts.journey.licences.of(merchant_id)
    return {"merchant": show("merchant", merchant_id), "watched": found.watched, "needed": found.needed,
            "in_force": [_paper(row) for row in found.in_force], "ended": [_paper(row) for row in found.ended],
            "steps": [{"kind": row["kind"], "expires_on": row["expires_on"].isoformat(), "step": row["step"], "at": stamp(row["at"]),
                       "by": row["person"], "reason": row["reason"]} for row in found.steps],
            "recorded": [_paper(row) | {"currency": row["currency"], "at": stamp(row["at"]), "by": row["person"], "reason": row["reason"]}
                         for row in found.recorded]}


def _paper(row: Any) -> dict[str, str]:
    return {"document": show("document", row["document_id"]), "kind": row["kind"], "expires_on": row["expires_on"].isoformat()}
