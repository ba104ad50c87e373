"""Applications for those who apply: profile, documents, what is missing, submit and follow. Operators see all and may do the same for them."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID
from zoneinfo import available_timezones

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.disputes import raw_body
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.resolving import plain_text
from switch.api.shapes import Shape, refused, shaped
from switch.api.tariffs import Day
from switch.api.terminal import Model, one_of_each
from switch.callers import Caller, require
from switch.errors import Problem
from switch.files import scans
from switch.ids import show
from switch.merchants.applications.desk import Desk, Whole
from switch.merchants.applications.life import WAITS_FOR
from switch.merchants.applications.papers import Document, Papers
from switch.merchants.applications.requirements import ACCOUNT
from switch.merchants.applications.review import Review
from switch.merchants.approvals import Approvals
from switch.money import CURRENCIES
from switch.payments.resolution import Person
from switch.settlement.payouts.banking import masked

State = Literal["draft", "submitted", "in_review", "more_wanted", "approved", "refused", "withdrawn"]
Kind = Literal["business_licence", "tax_registration", "bank_account", "representative_identity", "food_licence", "drug_licence", "travel_licence"]
Entity = Literal["company", "micro", "individual"]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
PROFILE = {"name": "上海港湾面包有限公司",
           "trading_name": "Harbour Bakery", "phone": "+86 21 5555 0100", "email": "owner@bakery.example", "mcc": "5462",
           "time_zone": "Asia/Shanghai", "currency": "CNY", "monthly_volume": 8_000_000, "average_ticket": 4500, "years_in_business": 3,
           "store": {"name": "Bund", "city": "Shanghai"}, "terminals": 2}


def _known(values: Any, words: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in values():
            raise PydanticCustomError("known", words)
        return text

    return check


Line = Annotated[str, Field(min_length=1, max_length=120), AfterValidator(plain_text)]
Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(plain_text)]
Amount = Annotated[int, Field(ge=1, le=999_999_999_999)]


class StoreOfProfile(Model):
    name: Line
    city: Annotated[str, Field(min_length=1, max_length=40), AfterValidator(plain_text)]


class Profile(Model):
    """Who applies and for what. `monthly_volume` and `average_ticket`: expected, in minor units. `name`: as on the licence or identity document."""

    name: Line
    trading_name: Line | None = None
    phone: Annotated[str, Field(pattern=r"^\+?[0-9][0-9 -]{5,19}$"), AfterValidator(plain_text)]
    email: Annotated[str, Field(pattern=r"^[!-?A-~]{1,64}@[0-9A-Za-z.-]{3,120}$")] | None = None
    mcc: Annotated[str, Field(pattern="^[0-9]{4}$")]
    time_zone: Annotated[str, AfterValidator(_known(cache(available_timezones), "A name of the IANA time zone database"))] = "Asia/Shanghai"
    currency: Annotated[str, AfterValidator(_known(lambda: CURRENCIES, "A currency of ISO 4217"))]
    monthly_volume: Amount
    average_ticket: Amount
    years_in_business: Annotated[int, Field(ge=0, le=500)] = 0
    store: StoreOfProfile
    terminals: Annotated[int, Field(ge=1, le=20)] = 1


class ApplicationRequest(Model):
    """`country`: where the business is, ISO 3166; with `entity_type` and the profile's MCC it decides which documents are needed."""

    entity_type: Entity
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")]
    profile: Profile


class RegistrationRequest(Model):
    """An individual who applies without anybody's help; the light path of docs/applications.md."""

    country: Annotated[str, Field(pattern="^[A-Z]{2}$")]
    profile: Profile


class ProfileRequest(Model):
    """A new version of the whole profile."""

    profile: Profile


class DocumentRequest(Model):
    """What stands on the document: `number` and `name`; of a bank account `holder`, `country`, and `iban`, or `account_number` with `bank_code`."""

    kind: Kind
    fields: Annotated[dict[str, Annotated[str, Field(max_length=120)]], Field(min_length=1, max_length=8)]
    expires_on: Day | None = None


class SubmitRequest(Model):
    """To the reviewers."""


class WithdrawRequest(Model):
    reason: Reason


MODELS = (ApplicationRequest, RegistrationRequest, ProfileRequest, DocumentRequest, SubmitRequest, WithdrawRequest)


class ShownGap(Shape):
    """`what`: missing, no_file, refused, expired, disagrees."""

    kind: Kind
    what: Literal["missing", "no_file", "refused", "expired", "disagrees"]
    what_to_do: str


class MissingList(Shape):
    """Empty when the application may be submitted."""

    items: list[ShownGap]


class ShownDocument(Shape):
    """The newest version of a document; account numbers and an applicant's own numbers by their last four characters."""

    id: str
    kind: Kind
    version: int
    fields: dict[str, str]
    expires_on: str | None
    file: str | None
    size: int | None
    sha256: str | None
    verdict: Literal["accepted", "refused"] | None
    reason: str | None
    uploaded_at: str


class Event(Shape):
    """`detail`: for operators, the score and its reasons when somebody decided."""

    number: int
    at: str
    event: str
    was: State | None
    state: State
    by: str
    reason: str
    detail: dict[str, Any]


class ShownApplication(Shape):
    """`due_at`: until when the one that it waits for should act. `limits`: what an individual may take until somebody has looked."""

    id: str
    entity_type: Entity
    country: str
    state: State
    version: int
    waits_for: Literal["applicant", "reviewer"] | None
    since: str
    due_at: str | None
    reviewer: str | None
    merchant: str | None
    limits: dict[str, Any] | None
    created_at: str


class WholeApplication(ShownApplication):
    profile: dict[str, Any]
    documents: list[ShownDocument]
    missing: list[ShownGap]
    events: list[Event]


class BegunApplication(WholeApplication):
    """`key` is in this answer and nowhere else: the applicant's own."""

    key: str


class Parts(Protocol):
    """What these routes need of the switch."""

    desk_of_applications: Desk
    papers: Papers
    review: Review
    approvals: Approvals

    def admit(self) -> None: ...


def shown(row: Any, people: bool) -> dict[str, Any]:
    """`people`: for operators, who see who of them has it."""
    reviewer = row["reviewer"] if people or row["reviewer"] is None else "reviewer"
    return {"id": show("application", row["application_id"]), **{name: row[name] for name in ("entity_type", "country", "state", "version")},
            "waits_for": WAITS_FOR.get(row["state"]), "since": stamp(row["state_since"]), "due_at": stamp(row["due_at"]), "reviewer": reviewer,
            "merchant": None if row["merchant_id"] is None else show("merchant", row["merchant_id"]),
            "limits": None if row["limits"] is None else json.loads(row["limits"]), "created_at": stamp(row["created_at"])}


def _fields(document: Document, people: bool) -> dict[str, str]:
    hidden = {"iban", "account_number"} if document.row["kind"] == ACCOUNT else set() if people else {"number"}
    return {name: masked(text[-4:]) if name in hidden else text for name, text in document.fields.items()}


def _document(document: Document, people: bool) -> dict[str, Any]:
    row = document.row
    return {"id": show("document", row["document_id"]), "kind": row["kind"], "version": row["number"], "fields": _fields(document, people),
            "expires_on": row["expires_on"] and row["expires_on"].isoformat(), "file": row["name"], "size": row["size"],
            "sha256": row["sha256"] and row["sha256"].hex(), "verdict": row["verdict"], "reason": row["reason"], "uploaded_at": stamp(row["at"])}


def _event(row: Any, people: bool) -> dict[str, Any]:
    by = row["person"] if people or row["person"] in ("applicant", "rules") else "reviewer"
    return {**{name: row[name] for name in ("number", "event", "was", "state", "reason")}, "at": stamp(row["at"]), "by": by,
            "detail": json.loads(row["detail"]) if people else {}}


def _gaps(whole: Whole) -> list[dict[str, str]]:
    return [{"kind": gap.kind, "what": gap.what, "what_to_do": gap.detail} for gap in whole.gaps]


def whole_shown(whole: Whole, people: bool) -> dict[str, Any]:
    return {**shown(whole.row, people), "profile": whole.profile, "documents": [_document(each, people) for each in whole.documents],
            "missing": _gaps(whole), "events": [_event(event, people) for event in whole.events]}


def applying(identify: Callable[[Request], Caller], request: Request, application: str) -> tuple[Caller, UUID, Person]:
    """An applicant at its own application, or an operator at any. Raises Problem: unauthenticated, forbidden, not_found."""
    caller = require(identify(request), "applicant", "operator")
    identity = identified("application", application)
    if caller.role == "applicant" and caller.application_id != identity:
        raise Problem("not_found")
    return caller, identity, who(caller, request)


def who(caller: Caller, request: Request) -> Person:
    if caller.role == "operator" and request.method != "GET":
        logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
    return Person(caller.person or "applicant", caller.key_id)


def plain_profile(profile: Profile) -> Mapping[str, Any]:
    return profile.model_dump(mode="json")


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["applications"], responses=refused(401, 403, 404, 422, 503))

    async def now(application_id: UUID, caller: Caller, status: int = 200, **more: str) -> Response:
        return said({**whole_shown(await parts.desk_of_applications.one(application_id), caller.role == "operator"), **more}, status)

    _profile(routes, parts, identify, now)
    _documents(routes, parts, identify, now)
    _moves(routes, parts, identify, now)
    return routes


def _profile(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller], now: Callable[..., Any]) -> None:
    @routes.post("/v1/applications", status_code=201, summary="Begin an application; the answer holds the applicant's key, once",
                 responses=shaped(201, "A draft, and what it needs", BegunApplication) | refused(400, 413, 415),
                 openapi_extra=documented(ApplicationRequest, {"entity_type": "company", "country": "CN", "profile": PROFILE}))
    async def begin(request: Request) -> Response:
        caller = require(identify(request), "operator")
        by, wanted = who(caller, request), await body_of(request, ApplicationRequest)
        parts.admit()
        identity, key = await parts.review.begin(wanted.entity_type, wanted.country, plain_profile(wanted.profile), by)
        return await now(identity, caller, 201, key=key)  # type: ignore[no-any-return]

    @routes.get("/v1/applications/{application}", summary="An application with its documents, what is missing, and all that happened",
                responses=shaped(200, "As it is now", WholeApplication))
    async def one(request: Request, application: str) -> Response:
        caller, identity, _ = applying(identify, request, application)
        return await now(identity, caller)  # type: ignore[no-any-return]

    @routes.get("/v1/applications/{application}/missing", summary="What is missing, wrong or expired, as of now",
                responses=shaped(200, "Nothing when it may be submitted", MissingList))
    async def missing(request: Request, application: str) -> Response:
        _, identity, _ = applying(identify, request, application)
        return said({"items": _gaps(await parts.desk_of_applications.one(identity))})

    @routes.put("/v1/applications/{application}/profile", summary="A new version of the profile, while it is with the applicant",
                responses=shaped(200, "As it is now", WholeApplication) | refused(400, 409, 413, 415),
                openapi_extra=documented(ProfileRequest, {"profile": PROFILE}))
    async def change(request: Request, application: str) -> Response:
        caller, identity, by = applying(identify, request, application)
        wanted = await body_of(request, ProfileRequest)
        await parts.review.change(identity, plain_profile(wanted.profile), by)
        return await now(identity, caller)  # type: ignore[no-any-return]


def _documents(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller], now: Callable[..., Any]) -> None:
    @routes.post("/v1/applications/{application}/documents", status_code=201, summary="A document's fields; its file is uploaded after it",
                 responses=shaped(201, "The application as it is now", WholeApplication) | refused(400, 409, 413, 415),
                 openapi_extra=documented(DocumentRequest, {"kind": "business_licence", "fields": {
                     "number": "91110000600037341L", "name": "上海港湾面包有限公司"}, "expires_on": "2099-12-31"}))
    async def add(request: Request, application: str) -> Response:
        caller, identity, by = applying(identify, request, application)
        wanted = await body_of(request, DocumentRequest)
        await parts.papers.add(identity, wanted.kind, wanted.fields, wanted.expires_on, by)
        return await now(identity, caller, 201)  # type: ignore[no-any-return]

    @routes.post("/v1/applications/{application}/documents/{document}/file", status_code=201, summary="Upload a document's scan",
                 responses=shaped(201, "The application as it is now; the same bytes again change nothing", WholeApplication)
                 | refused(400, 409, 413, 415),
                 openapi_extra={"requestBody": {
                     "required": True, "description": "The bytes of the file, at most 4 MB.",
                     "content": {media: {"schema": {"type": "string", "format": "binary"}} for media in scans.ENDINGS}}})
    async def upload(request: Request, application: str, document: str, name: Annotated[str, Query(max_length=120)] = "") -> Response:
        caller, identity, by = applying(identify, request, application)
        document_id = identified("document", document)
        media_type = one_of_each(request.scope["headers"]).get(b"content-type", b"").decode("latin-1").strip().lower()
        if media_type not in scans.ENDINGS:
            raise Problem("content_type", f"Send a file with the Content-Type {', '.join(scans.ENDINGS)}.")
        await parts.desk_of_applications.one(identity)  # before its bytes are read
        content = await raw_body(request, scans.BYTES_MAX, "body_too_large")
        parts.admit()
        await parts.papers.file(identity, document_id, name or f"document.{scans.ENDINGS[media_type]}", media_type, content, by)
        return await now(identity, caller, 201)  # type: ignore[no-any-return]

    @routes.get("/v1/applications/{application}/documents/{document}/file", summary="Download a document's scan", response_class=Response,
                responses={200: {"description": "Its bytes, as an attachment", "content": {
                    media: {"schema": {"type": "string", "format": "binary"}} for media in scans.ENDINGS}}})
    async def download(request: Request, application: str, document: str) -> Response:
        _, identity, _ = applying(identify, request, application)
        row, content = await parts.papers.content(identity, identified("document", document))
        # Never shown inline, whatever a browser thinks of its bytes; the name is ours.
        return Response(content, 200, {
            "content-type": row["media_type"], "content-disposition": f'attachment; filename="{document}.{scans.ENDINGS[row["media_type"]]}"',
            "x-content-type-options": "nosniff", "content-security-policy": "default-src 'none'; sandbox", "cache-control": "no-store"})


def _moves(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller], now: Callable[..., Any]) -> None:
    moves = shaped(200, "As it is now", WholeApplication) | refused(400, 409, 413, 415)

    @routes.post("/v1/applications/{application}/submit", summary="Hand it in; of an individual the rules may decide at once",
                 responses=moves, openapi_extra=documented(SubmitRequest, {}))
    async def submit(request: Request, application: str) -> Response:
        caller, identity, by = applying(identify, request, application)
        await body_of(request, SubmitRequest)
        parts.admit()
        await parts.review.submit(identity, by)
        return await now(identity, caller)  # type: ignore[no-any-return]

    @routes.post("/v1/applications/{application}/withdraw", summary="Take it back for good", responses=moves,
                 openapi_extra=documented(WithdrawRequest, {"reason": "We opened no shop"}))
    async def withdraw(request: Request, application: str) -> Response:
        caller, identity, by = applying(identify, request, application)
        wanted = await body_of(request, WithdrawRequest)
        await parts.review.withdraw(identity, by, wanted.reason)
        return await now(identity, caller)  # type: ignore[no-any-return]
