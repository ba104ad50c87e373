"""Notices for merchants: what happened, in words of their language, unread or read, and how each went out."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg
from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.devices import optional
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, paged, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.ids import show
from switch.notices.inbox import PAGE_MAX, Inbox
from switch.notices.templates import written

Language = Literal["en", "zh"]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


class LanguageRequest(Model):
    """In which language notices are shown when none is asked for."""

    language: Language


MODELS = (LanguageRequest,)


class ShownNotice(Shape):
    """`object` with `kind` is what it is about; a notice is one of each."""

    id: str
    kind: str
    object: str
    language: Language
    title: str
    text: str
    happened_at: str
    read_at: str | None


class NoticePage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownNotice]
    next: str | None


class NoticeDelivery(Shape):
    """One webhook endpoint; its attempts are in GET /v1/webhooks/{webhook}/deliveries/{event}."""

    webhook: str
    event: str
    state: Literal["due", "delivered", "failed"]
    attempts: int
    last_status: int | None
    last_fault: str | None
    created_at: str
    ended_at: str | None


class NoticeWithDeliveries(ShownNotice):
    deliveries: list[NoticeDelivery]


class ShownLanguage(Shape):
    language: Language


class Parts(Protocol):
    """What these routes need of the switch."""

    inbox: Inbox


def _notice(row: asyncpg.Record, language: str, zone: ZoneInfo) -> dict[str, Any]:
    words = written(row["kind"], language, json.loads(row["data"]), zone)
    return {"id": show("notice", row["notice_id"]), "kind": row["kind"], "object": row["object"], "language": language, "title": words.title,
            "text": words.text, "happened_at": stamp(row["happened_at"]), "read_at": stamp(row["read_at"])}


def _delivery(row: asyncpg.Record) -> dict[str, Any]:
    return {"webhook": show("webhook", row["endpoint_id"]), "event": show("webhook_event", row["event_id"]),
            **{name: row[name] for name in ("state", "attempts", "last_status", "last_fault")},
            **{name: stamp(row[name]) for name in ("created_at", "ended_at")}}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["notices"], responses=refused(401, 403, 404, 422, 503))

    def owner(request: Request) -> UUID:
        merchant_id = require(identify(request), "merchant").merchant_id
        assert merchant_id is not None
        return merchant_id

    async def whole(merchant_id: UUID, notice: str, language: Language | None) -> Response:
        row, own, deliveries = await parts.inbox.one(merchant_id, identified("notice", notice))
        return said({**_notice(row, language or own.language, own.zone), "deliveries": [_delivery(each) for each in deliveries]})

    @routes.get("/v1/notices", summary="What happened, newest first", responses=shaped(200, "One page", NoticePage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, unread: bool | None = None,
                   language: Language | None = None) -> Response:
        rows, own = await parts.inbox.page(owner(request), unread, optional("notice", after), limit + 1)
        return paged([_notice(row, language or own.language, own.zone) for row in rows], limit)

    @routes.put("/v1/notice-language", summary="Choose the language of notices",
                openapi_extra=documented(LanguageRequest, {"language": "zh"}),
                responses=shaped(200, "As it is now", ShownLanguage) | refused(400, 413, 415))
    async def speak(request: Request) -> Response:
        merchant_id = owner(request)
        wanted = await body_of(request, LanguageRequest)
        await parts.inbox.speak(merchant_id, wanted.language, show("merchant", merchant_id))
        return said({"language": wanted.language})

    @routes.get("/v1/notices/{notice}", summary="One notice, with its deliveries", responses=shaped(200, "The notice", NoticeWithDeliveries))
    async def one(request: Request, notice: str, language: Language | None = None) -> Response:
        return await whole(owner(request), notice, language)

    @routes.post("/v1/notices/{notice}/read", summary="It was read; again changes nothing",
                 responses=shaped(200, "As it is now", NoticeWithDeliveries))
    async def read(request: Request, notice: str) -> Response:
        merchant_id = owner(request)
        await parts.inbox.read(merchant_id, identified("notice", notice), show("merchant", merchant_id))
        return await whole(merchant_id, notice, None)

    return routes
