"""What an applicant is told of its application, in words: read from the application's own history, since nobody is a merchant yet."""

from collections.abc import Callable
from typing import Literal

from fastapi import APIRouter, Request
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.applications import Parts, applying
from switch.api.notices import Language
from switch.api.onboard import said
from switch.api.shapes import Shape, refused, shaped
from switch.callers import Caller
from switch.notices.templates import OF_APPLICATION, written


class ApplicationNotice(Shape):
    kind: str
    language: Literal["en", "zh"]
    title: str
    text: str
    happened_at: str


class ApplicationNotices(Shape):
    """The oldest first."""

    items: list[ApplicationNotice]
    next: None


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["applications"], responses=refused(401, 403, 404, 422, 503))

    @routes.get("/v1/applications/{application}/notices", summary="What the applicant was told of it, in words",
                responses=shaped(200, "All", ApplicationNotices))
    async def page(request: Request, application: str, language: Language = "en") -> Response:
        _, identity, _ = applying(identify, request, application)
        events = (await parts.desk_of_applications.one(identity)).events
        items = []
        for event in events:
            kind = OF_APPLICATION.get(event["event"])
            if kind is not None:
                words = written(kind, language, {"id": application, "reason": event["reason"]})
                items.append({"kind": kind, "language": language, "title": words.title, "text": words.text, "happened_at": stamp(event["at"])})
        return said({"items": items, "next": None})

    return routes
