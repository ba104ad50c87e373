"""Help articles: searched and read by everybody with a key, in either language; written by support and operators."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.disputes import plain_lines
from switch.api.documented import documented
from switch.api.notices import Language
from switch.api.onboard import body_of, said
from switch.api.resolving import plain_text
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.errors import Problem
from switch.ids import show
from switch.merchants.journey import Journey
from switch.merchants.support.announcements import ROLES, Reader
from switch.merchants.support.articles import PAGE_MAX, TOPICS, Draft, Wanted, words_of

SLUG = r"[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?"
OURS = ("support", "operator")
Slug = Annotated[str, Query(max_length=60, pattern=f"^{SLUG}$")]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


def _topic(text: str) -> str:
    if text not in TOPICS:
        raise PydanticCustomError("topic", "A category of tickets, a kind of suggested cause, or a problem code")
    return text


class Words(Model):
    """In one language."""

    title: Annotated[str, Field(min_length=1, max_length=120), AfterValidator(plain_text)]
    text: Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(plain_lines)]


class HelpArticleRequest(Model):
    """The next version, whole. `topics`: categories of tickets, kinds of suggested causes, problem codes. `withdrawn`: it is found no more."""

    topics: Annotated[list[Annotated[str, AfterValidator(_topic)]], Field(max_length=20, default_factory=list)]
    en: Words
    zh: Words
    withdrawn: bool = False


MODELS = (HelpArticleRequest,)


class ShownHelpArticle(Shape):
    """`version`: those before stay in the database."""

    id: str
    version: int
    topics: list[str]
    language: Literal["en", "zh"]
    title: str
    text: str
    withdrawn: bool
    written_at: str


class HelpArticlePage(Shape):
    """By their ids; `next` goes into `after`, null at the end."""

    items: list[ShownHelpArticle]
    next: str | None


class Parts(Protocol):
    """What these routes need of the switch."""

    journey: Journey


def reader_of(caller: Caller) -> Reader:
    """Everybody with a key: under which name, and whether it is one of ours. Raises Problem forbidden."""
    require(caller, *ROLES, "staff")
    if caller.role in OURS:
        return Reader(caller.person or "", caller.role, None, True)
    kind, ident = {"merchant": ("merchant", caller.merchant_id), "terminal": ("terminal", caller.terminal_id), "staff": ("store", caller.store_id),
                   "applicant": ("application", caller.application_id)}[caller.role]
    assert ident is not None
    return Reader(show(kind, ident), "terminal" if caller.role == "staff" else caller.role, caller.merchant_id, False)  # what a shop is told


def ours(identify: Callable[[Request], Caller], request: Request) -> Reader:
    """Somebody of support or an operator, who writes; logged by their key. Raises Problem forbidden."""
    caller = require(identify(request), *OURS)
    logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
    return reader_of(caller)


def shown(row: asyncpg.Record, language: str) -> dict[str, Any]:
    return {"id": row["slug"], "version": row["number"], "topics": row["topics"], "language": language, **words_of(row, language),
            "withdrawn": row["withdrawn"], "written_at": stamp(row["written_at"])}


EXAMPLE = {"topics": ["terminal", "paper_out"], "en": {"title": "The printer has no paper", "text": "Put a new roll in."},
           "zh": {"title": "打印机缺纸", "text": "请更换纸卷。"}}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["support"], responses=refused(401, 403, 404, 422, 503))

    @routes.get("/v1/help-articles", summary="Help articles by words and topic", responses=shaped(200, "One page", HelpArticlePage))
    async def page(request: Request, q: Annotated[str, Query(max_length=100)] = "", topic: Annotated[str | None, Query(max_length=60)] = None,
                   language: Language = "en", limit: Limit = 20, after: Slug | None = None) -> Response:
        reader = reader_of(identify(request))
        wanted = Wanted(None if topic is None else [topic], q, reader.ours, after)
        rows = await parts.journey.articles.page(wanted, limit + 1)
        return said({"items": [shown(row, language) for row in rows[:limit]], "next": rows[limit - 1]["slug"] if len(rows) > limit else None})

    @routes.get("/v1/help-articles/{article}", summary="One help article", responses=shaped(200, "The article", ShownHelpArticle))
    async def one(request: Request, article: str, language: Language = "en") -> Response:
        reader = reader_of(identify(request))
        return said(shown(await parts.journey.articles.one(article[:60], reader.ours), language))

    @routes.put("/v1/help-articles/{article}", summary="Write the next version of a help article",
                openapi_extra=documented(HelpArticleRequest, EXAMPLE),
                responses=shaped(200, "As it is now", ShownHelpArticle) | refused(400, 413, 415))
    async def write(request: Request, article: str) -> Response:
        by = ours(identify, request)
        _slug(article)
        wanted = await body_of(request, HelpArticleRequest)
        draft = Draft(sorted(set(wanted.topics)), wanted.en.model_dump(), wanted.zh.model_dump(), wanted.withdrawn)
        return said(shown(await parts.journey.articles.write(article, draft, by.name), "en"))

    return routes


def _slug(article: str) -> None:
    if re.fullmatch(SLUG, article, re.ASCII) is None:
        raise Problem("invalid", "One or more fields are wrong; see errors.",
                      errors=[{"field": "article", "rule": "lower-case letters, digits and hyphens, at most 60", "type": "rule"}])
