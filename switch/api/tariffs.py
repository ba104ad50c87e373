"""Tariffs of merchants and costs of acquirers: as operators agree them, and as a merchant reads its own."""

import re
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Annotated, Any, Protocol
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import show
from switch.merchants import BRANDS
from switch.settlement.fees import tariffs, wording
from switch.settlement.fees.tariffs import COSTS, TARIFF, Agreed, Kind
from switch.settlement.fees.terms import costs_from, tariff_from

ISO_DATE = re.compile("[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)


def _day(value: Any) -> date:
    try:
        if isinstance(value, str) and ISO_DATE.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise PydanticCustomError("date", "The date must be YYYY-MM-DD")


Day = Annotated[date, PlainValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Limit = Annotated[int, Query(ge=1, le=tariffs.PAGE_MAX)]
TARIFF_EXAMPLE = {
    "effective_from": "2030-01-01",
    "terms": {
        "name": "Retail", "currency": "CNY", "rounding": "half_even",
        "rules": [{"name": "All cards", "price": {"basis_points": 60, "minimum": 5}},
                  {"name": "UnionPay debit", "match": {"brand": "unionpay", "card_type": "debit"}, "price": {"basis_points": "38.25", "cap": 1800}}],
        "refunds": {"returns": "proportional"}, "periodic": [{"name": "Terminal rent", "per": "terminal", "amount": 5000}],
        "tax": {"name": "VAT", "basis_points": 600, "inclusive": False}},
}
COSTS_EXAMPLE = {
    "effective_from": "2030-01-01",
    "terms": {
        "name": "Harbour Bank", "currency": "CNY", "rounding": "half_even",
        "rules": [{"name": "All cards", "interchange": {"basis_points": 35}, "scheme": {"basis_points": "3.25"}, "acquirer": {"fixed": 2}}],
        "refunds": {"interchange": "proportional"}},
}


class TermsFrom(Model):
    """Terms from a business date on; docs/fees.md describes them. `replaces`: the id of what holds from the same date and shall no longer."""

    effective_from: Day
    terms: Annotated[dict[str, Any], Field(description="The document; every fault in it is named by its JSON pointer")]
    replaces: Ident | None = None


MODELS = (TermsFrom,)


class ShownTariff(Shape):
    id: str
    merchant: str
    effective_from: str
    version: int
    terms: dict[str, Any]
    in_words: list[str]
    created_by: str
    created_at: str


class ShownCosts(Shape):
    id: str
    acquirer: str
    effective_from: str
    version: int
    terms: dict[str, Any]
    in_words: list[str]
    created_by: str
    created_at: str


class TariffPage(Shape):
    """The latest first; of one date the highest version holds. `next` goes into `after`."""

    items: list[ShownTariff]
    next: str | None


class CostsPage(Shape):
    items: list[ShownCosts]
    next: str | None


class OwnTariff(Shape):
    id: str
    effective_from: str
    terms: dict[str, Any]
    in_words: list[str]


class OwnTariffs(Shape):
    """`in_force`: null when none is. `later`: agreed, and not in force on that day yet."""

    on: str
    in_force: OwnTariff | None
    later: list[OwnTariff]


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    writers: Pool
    readers: Pool


def in_words(kind: Kind, agreed: Agreed) -> list[str]:
    return wording.tariff(tariff_from(agreed.terms)) if kind is TARIFF else wording.costs(costs_from(agreed.terms))


def _shown(kind: Kind, agreed: Agreed) -> dict[str, Any]:
    return {"id": show(kind.ident, agreed.ident), kind.owner: show(kind.owner, agreed.owner_id), "effective_from": agreed.effective_from.isoformat(),
            "version": agreed.version, "terms": agreed.terms, "in_words": in_words(kind, agreed), "created_by": agreed.created_by,
            "created_at": stamp(agreed.created_at)}


def _own(agreed: Agreed) -> dict[str, Any]:
    return {"id": show("tariff", agreed.ident), "effective_from": agreed.effective_from.isoformat(), "terms": agreed.terms,
            "in_words": in_words(TARIFF, agreed)}


def router(parts: Callable[[], Parts], identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 403, 422, 503))
    _of_kind(routes, parts, identify, TARIFF, "/v1/merchants/{merchant}/tariffs", "a merchant's tariff", TARIFF_EXAMPLE, ShownTariff, TariffPage)
    _of_kind(routes, parts, identify, COSTS, "/v1/acquirers/{acquirer}/costs", "an acquirer's costs", COSTS_EXAMPLE, ShownCosts, CostsPage)

    @routes.get("/v1/tariffs", tags=["merchants"], summary="What you pay: your tariff in force, in words, and what is agreed for later",
                responses=shaped(200, "On that day", OwnTariffs))
    async def own(request: Request, on: Annotated[str | None, Query(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")] = None) -> Response:
        caller = require(identify(request), "merchant")
        assert caller.merchant_id is not None
        day = today(parts().directory, caller.merchant_id) if on is None else _parameter(on)
        try:
            async with parts().readers.acquire() as connection:
                found = await tariffs.holding(connection, TARIFF, caller.merchant_id)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        past, later = [each for each in found if each.effective_from <= day], [each for each in found if each.effective_from > day]
        return said({"on": day.isoformat(), "in_force": _own(past[-1]) if past else None, "later": [_own(each) for each in later]})

    return routes


def today(directory: Directory, merchant_id: UUID) -> date:
    """By the merchant's own clock."""
    return datetime.now(UTC).astimezone(directory.merchants[merchant_id].zone).date()


def _parameter(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise Problem("invalid", "One or more parameters are wrong; see errors.",
                      errors=[{"field": "query.on", "rule": "a date, YYYY-MM-DD", "type": "date"}]) from None


def _of_kind(routes: APIRouter, parts: Callable[[], Parts], identify: Callable[[Request], Caller], kind: Kind, path: str, what: str,
             example: dict[str, Any], one: type[Shape], many: type[Shape]) -> None:
    async def add(request: Request, owner: str) -> Response:
        caller = require(identify(request), "operator")
        logs.info("operator", method="POST", path=path, detail=caller.key_id)
        owner_id, wanted = identified(kind.owner, owner), await body_of(request, TermsFrom)
        replaces = None if wanted.replaces is None else identified(kind.ident, wanted.replaces)
        agreed = await tariffs.agree(parts().writers, kind, owner_id, wanted.effective_from, wanted.terms, str(caller.person), replaces=replaces,
                                     brands=BRANDS)
        return said(_shown(kind, agreed), 201)

    async def page(request: Request, owner: str, limit: int, after: str | None) -> Response:
        require(identify(request), "operator")
        found = await tariffs.page(parts().readers, kind, identified(kind.owner, owner), limit + 1,
                                   None if after is None else identified(kind.ident, after))
        items = [_shown(kind, each) for each in found[:limit]]
        return said({"items": items, "next": items[-1]["id"] if len(found) > limit else None})

    adding: dict[str, Any] = {"tags": ["onboarding"], "summary": f"Agree {what} from a date on; nothing is overwritten", "status_code": 201,
                              "openapi_extra": documented(TermsFrom, example),
                              "responses": shaped(201, "As agreed", one) | refused(400, 404, 409, 413, 415)}
    paging: dict[str, Any] = {"tags": ["onboarding"], "summary": f"{what[0].upper()}{what[1:]} by date, the latest first",
                              "responses": shaped(200, "One page", many) | refused(404)}
    if kind is TARIFF:
        @routes.post(path, **adding)
        async def add_tariff(request: Request, merchant: str) -> Response:
            return await add(request, merchant)

        @routes.get(path, **paging)
        async def page_of_tariffs(request: Request, merchant: str, limit: Limit = 50, after: str | None = None) -> Response:
            return await page(request, merchant, limit, after)
    else:
        @routes.post(path, **adding)
        async def add_costs(request: Request, acquirer: str) -> Response:
            return await add(request, acquirer)

        @routes.get(path, **paging)
        async def page_of_costs(request: Request, acquirer: str, limit: Limit = 50, after: str | None = None) -> Response:
            return await page(request, acquirer, limit, after)
