"""Announcements, read by whom they are meant for, and feedback with its answer."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal, Protocol

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.devices import optional
from switch.api.disputes import plain_lines
from switch.api.documented import documented
from switch.api.help_articles import Words, ours, reader_of
from switch.api.notices import Language
from switch.api.onboard import Ident, Instant, body_of, identified, paged, said
from switch.api.resolving import plain_text
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.clock import clock
from switch.errors import Problem
from switch.ids import show
from switch.merchants.journey import Journey
from switch.merchants.support.announcements import PAGE_MAX, Draft, Reader
from switch.merchants.support.articles import words_of

Role = Literal["merchant", "terminal", "applicant", "support", "operator"]
FeedbackKind = Literal["suggestion", "complaint", "praise", "question"]
Text = Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(plain_lines)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
LONGEST = timedelta(days=366)
WRITES = refused(400, 409, 413, 415)


class AnnouncementRequest(Model):
    """To everybody, to a `role`, or to one `merchant` and its terminals; from now on when `starts_at` is not given, for at most a year."""

    role: Role | None = None
    merchant: Ident | None = None
    en: Words
    zh: Words
    starts_at: Instant | None = None
    ends_at: Instant

    @model_validator(mode="after")
    def _agrees(self) -> "AnnouncementRequest":
        if self.role is not None and self.merchant is not None:
            raise PydanticCustomError("role", "role or merchant, not both")
        return self

    def times(self, now: datetime) -> tuple[datetime, datetime]:
        return self.starts_at or now, self.ends_at


class AnnouncementWithdrawalRequest(Model):
    reason: Annotated[str, Field(min_length=1, max_length=500), AfterValidator(plain_text)]


class FeedbackRequest(Model):
    """`about`: the id of something of yours: a transaction, terminal, store, device, ticket, settlement or contract."""

    kind: FeedbackKind
    text: Text
    about: Ident | None = None


class FeedbackAnswerRequest(Model):
    text: Text


MODELS = (AnnouncementRequest, AnnouncementWithdrawalRequest, FeedbackRequest, FeedbackAnswerRequest)


class ShownAnnouncement(Shape):
    """`read_at`: when you marked it as read. `reads`: by how many, for people of ours, else null."""

    id: str
    role: Role | None
    merchant: str | None
    language: Literal["en", "zh"]
    title: str
    text: str
    starts_at: str
    ends_at: str
    in_force: bool
    withdrawn_at: str | None
    read_at: str | None
    reads: int | None


class AnnouncementPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownAnnouncement]
    next: str | None


class ShownFeedback(Shape):
    """`by`: a merchant, a terminal or an application. Who of support answered is not shown outside."""

    id: str
    kind: FeedbackKind
    about: str | None
    text: str
    by: str
    at: str
    answer: str | None
    answered_by: str | None
    answered_at: str | None


class FeedbackPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownFeedback]
    next: str | None


class Parts(Protocol):
    """What these routes need of the switch."""

    journey: Journey


def shown(row: asyncpg.Record, language: str, reader: Reader) -> dict[str, Any]:
    return {"id": show("announcement", row["announcement_id"]), "role": row["role"],
            "merchant": None if row["merchant_id"] is None else show("merchant", row["merchant_id"]), "language": language, **words_of(row, language),
            "in_force": row["in_force"], "reads": row["reads"] if reader.ours else None,
            **{name: stamp(row[name]) for name in ("starts_at", "ends_at", "withdrawn_at", "read_at")}}


def _feedback(row: asyncpg.Record, reader: Reader) -> dict[str, Any]:
    return {"id": show("feedback", row["feedback_id"]), "kind": row["kind"], "about": row["object"], "text": row["text"], "by": row["given_by"],
            "at": stamp(row["given_at"]), "answer": row["answer"], "answered_at": stamp(row["answered_at"]),
            "answered_by": row["answered_by"] if reader.ours or row["answered_by"] is None else "support"}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["support"], responses=refused(401, 403, 404, 422, 503))
    _announcements(routes, parts, identify)
    _feedbacks(routes, parts, identify)
    return routes


ANNOUNCED = {"role": "merchant", "en": {"title": "Night work", "text": "Statements come an hour later on Sunday."},
             "zh": {"title": "系统维护", "text": "周日结算单延后一小时。"}, "ends_at": "2026-12-01T00:00:00+08:00"}


def _announcements(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def now(announcement: str, reader: Reader, language: str, status: int = 200) -> Response:
        row = await parts.journey.announcements.one(identified("announcement", announcement), reader)
        return said(shown(row, language, reader), status)

    @routes.get("/v1/announcements", summary="Announcements that are meant for you and in force; support and operators see all",
                responses=shaped(200, "One page", AnnouncementPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, unread: bool | None = None, language: Language = "en") -> Response:
        reader = reader_of(identify(request))
        rows = await parts.journey.announcements.page(reader, unread, optional("announcement", after), limit + 1)
        return paged([shown(row, language, reader) for row in rows], limit)

    @routes.post("/v1/announcements", status_code=201, summary="Announce something to all, to a role or to a merchant",
                 openapi_extra=documented(AnnouncementRequest, ANNOUNCED), responses=shaped(201, "The announcement", ShownAnnouncement) | WRITES)
    async def announce(request: Request) -> Response:
        by = ours(identify, request)
        wanted = await body_of(request, AnnouncementRequest)
        starts_at, ends_at = wanted.times(clock.now())
        if not starts_at < ends_at <= starts_at + LONGEST or ends_at <= clock.now():
            raise _ended()
        draft = Draft(wanted.role, optional("merchant", wanted.merchant), wanted.en.model_dump(), wanted.zh.model_dump(), starts_at, ends_at)
        return await now(show("announcement", await parts.journey.announcements.make(draft, by)), by, "en", 201)

    @routes.get("/v1/announcements/{announcement}", summary="One announcement", responses=shaped(200, "The announcement", ShownAnnouncement))
    async def one(request: Request, announcement: str, language: Language = "en") -> Response:
        return await now(announcement, reader_of(identify(request)), language)

    @routes.post("/v1/announcements/{announcement}/read", summary="You have read it; again changes nothing",
                 responses=shaped(200, "As it is now", ShownAnnouncement))
    async def read(request: Request, announcement: str) -> Response:
        reader = reader_of(identify(request))
        await parts.journey.announcements.read(identified("announcement", announcement), reader)
        return await now(announcement, reader, "en")

    @routes.post("/v1/announcements/{announcement}/withdrawal", status_code=201, summary="Nobody else reads it from now on",
                 openapi_extra=documented(AnnouncementWithdrawalRequest, {"reason": "The work was put off"}),
                 responses=shaped(201, "As it is now", ShownAnnouncement) | WRITES)
    async def withdraw(request: Request, announcement: str) -> Response:
        by, ident = ours(identify, request), identified("announcement", announcement)
        wanted = await body_of(request, AnnouncementWithdrawalRequest)
        await parts.journey.announcements.withdraw(ident, wanted.reason, by)
        return await now(announcement, by, "en", 201)


def _feedbacks(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def now(feedback: str, reader: Reader, status: int = 200) -> Response:
        return said(_feedback(await parts.journey.feedback.one(identified("feedback", feedback), reader), reader), status)

    @routes.get("/v1/feedbacks", summary="Your feedback with its answers; support and operators see all",
                responses=shaped(200, "One page", FeedbackPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, answered: bool | None = None) -> Response:
        reader = reader_of(identify(request))
        rows = await parts.journey.feedback.page(reader, answered, optional("feedback", after), limit + 1)
        return paged([_feedback(row, reader) for row in rows], limit)

    @routes.post("/v1/feedbacks", status_code=201, summary="Say what you think, of anything of yours",
                 openapi_extra=documented(FeedbackRequest, {"kind": "suggestion", "text": "Print the table's number on the receipt."}),
                 responses=shaped(201, "The feedback", ShownFeedback) | WRITES)
    async def give(request: Request) -> Response:
        by = reader_of(require(identify(request), "merchant", "terminal", "staff", "applicant"))
        wanted = await body_of(request, FeedbackRequest)
        made = await parts.journey.feedback.give(wanted.kind, wanted.text, wanted.about, by)
        return await now(show("feedback", made), by, 201)

    @routes.get("/v1/feedbacks/{feedback}", summary="One of it", responses=shaped(200, "The feedback", ShownFeedback))
    async def one(request: Request, feedback: str) -> Response:
        return await now(feedback, reader_of(identify(request)))

    @routes.post("/v1/feedbacks/{feedback}/answer", status_code=201, summary="Answer it, once; a merchant gets a notice",
                 openapi_extra=documented(FeedbackAnswerRequest, {"text": "It comes with the next release."}),
                 responses=shaped(201, "As it is now", ShownFeedback) | WRITES)
    async def answer(request: Request, feedback: str) -> Response:
        by, ident = ours(identify, request), identified("feedback", feedback)
        await parts.journey.feedback.answer(ident, (await body_of(request, FeedbackAnswerRequest)).text, by)
        return await now(feedback, by, 201)


def _ended() -> Problem:
    return Problem("invalid", "One or more fields are wrong; see errors.",
                   errors=[{"field": "ends_at", "rule": "after now and after starts_at, by at most 366 days", "type": "rule"}])
