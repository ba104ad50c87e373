"""What operators arrange about time and money: calendars, when a business day ends, a merchant's funding, and holds."""

from collections.abc import Callable
from dataclasses import asdict
from datetime import date
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.days import Day
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.operators import operators, person
from switch.api.resolving import plain_text
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller
from switch.errors import Problem
from switch.ids import show
from switch.money import AMOUNT_MAX
from switch.settlement.funding.arrangements import DAYS_MAX, PAGE_MAX, Arrangements, Ending, Funding, Hold

CalendarName = Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]{0,39}$")]
Named = Annotated[str, Path(pattern="^[a-z0-9][a-z0-9_-]{0,39}$")]


class FundingRequest(Model):
    """`funding_days`: T+n in business days of `calendar`. `minimum_payout`: minor units of each currency; less is carried. A reserve of
    `reserve_basis_points` of the sales is kept back for `reserve_days` calendar days."""

    calendar: CalendarName = "weekdays"
    funding_days: Annotated[int, Field(ge=0, le=60)] = 1
    minimum_payout: Annotated[int, Field(ge=0, le=AMOUNT_MAX)] = 0
    reserve_basis_points: Annotated[int, Field(ge=0, le=10_000)] = 0
    reserve_days: Annotated[int, Field(ge=1, le=730)] = 180


class EndingRequest(Model):
    """`cut_over_minute`: minutes of the wall clock in the acquirer's zone after the day's first midnight; 1440 is the next midnight."""

    calendar: CalendarName = "daily"
    cut_over_minute: Annotated[int, Field(ge=0, le=2879)] = 1440


class CalendarDay(Model):
    day: Day
    kind: Literal["holiday", "workday"]


class CalendarRequest(Model):
    """`weekend`: days off by their ISO numbers, 1 for Monday; `exceptions`: days that are off, or worked, in spite of it."""

    weekend: Annotated[list[Annotated[int, Field(ge=1, le=7)]], Field(max_length=6)]
    exceptions: Annotated[list[CalendarDay], Field(max_length=DAYS_MAX, default_factory=list)]


class HoldRequest(Model):
    """Without an amount all payouts in this currency wait."""

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    amount: Annotated[int, Field(ge=1, le=AMOUNT_MAX)] | None = None
    reason: Annotated[str, Field(min_length=10, max_length=500), AfterValidator(plain_text)]


MODELS = (FundingRequest, EndingRequest, CalendarRequest, HoldRequest)


class ShownFunding(Shape):
    merchant: str
    calendar: str
    funding_days: int
    minimum_payout: int
    reserve_basis_points: int
    reserve_days: int


class ShownEnding(Shape):
    acquirer: str
    calendar: str
    cut_over_minute: int


class ShownDay(Shape):
    day: str
    kind: Literal["holiday", "workday"]


class ShownCalendar(Shape):
    calendar: str
    weekend: list[int]
    exceptions: list[ShownDay]


class ShownHold(Shape):
    id: str
    merchant: str
    currency: str
    amount: int | None
    reason: str
    placed_by: str
    placed_at: str
    released_by: str | None
    released_at: str | None


class HoldPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownHold]
    next: str | None


class Parts(Protocol):
    """What these routes need of the switch."""

    arrangements: Arrangements


def _hold(hold: Hold) -> dict[str, Any]:
    return {"id": show("hold", hold.hold_id), "merchant": show("merchant", hold.merchant_id),
            **{name: getattr(hold, name) for name in ("currency", "amount", "reason", "placed_by", "released_by")},
            "placed_at": stamp(hold.placed_at), "released_at": stamp(hold.released_at)}


def _calendar(name: str, found: tuple[list[int], dict[date, str]]) -> dict[str, Any]:
    return {"calendar": name, "weekend": found[0], "exceptions": [{"day": day.isoformat(), "kind": kind} for day, kind in found[1].items()]}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(tags=["settlement"], dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))
    _terms(routes, parts)
    _calendars(routes, parts)
    _holds(routes, parts, operator)
    return routes


def _terms(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/v1/merchants/{merchant}/funding", summary="When a merchant is paid, and what is kept back",
                responses=shaped(200, "As it is now", ShownFunding))
    async def funding(merchant: str) -> Response:
        return said({"merchant": merchant, **asdict(await parts.arrangements.funding(identified("merchant", merchant)))})

    @routes.put("/v1/merchants/{merchant}/funding", summary="Arrange it anew, for settlements from now on",
                openapi_extra=documented(FundingRequest, {"calendar": "weekdays", "funding_days": 2, "minimum_payout": 10_000}),
                responses=shaped(200, "As it is now", ShownFunding) | refused(400, 413, 415))
    async def set_funding(request: Request, merchant: str) -> Response:
        merchant_id, wanted = identified("merchant", merchant), await body_of(request, FundingRequest)
        return said({"merchant": merchant, **asdict(await parts.arrangements.set_funding(merchant_id, Funding(**wanted.model_dump())))})

    @routes.get("/v1/acquirers/{acquirer}/business-day", summary="Which days an acquirer has, and when one ends",
                responses=shaped(200, "As it is now", ShownEnding))
    async def ending(acquirer: str) -> Response:
        return said({"acquirer": acquirer, **asdict(await parts.arrangements.ending(identified("acquirer", acquirer)))})

    @routes.put("/v1/acquirers/{acquirer}/business-day", summary="Arrange it anew, for cut-overs from now on",
                openapi_extra=documented(EndingRequest, {"calendar": "daily", "cut_over_minute": 1380}),
                responses=shaped(200, "As it is now", ShownEnding) | refused(400, 413, 415))
    async def set_ending(request: Request, acquirer: str) -> Response:
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, EndingRequest)
        return said({"acquirer": acquirer, **asdict(await parts.arrangements.set_ending(acquirer_id, Ending(**wanted.model_dump())))})


def _calendars(routes: APIRouter, parts: Parts) -> None:
    @routes.get("/v1/calendars/{calendar}", summary="A calendar: days off, and exceptions", responses=shaped(200, "The calendar", ShownCalendar))
    async def get(calendar: Named) -> Response:
        return said(_calendar(calendar, await parts.arrangements.calendar(calendar)))

    @routes.put("/v1/calendars/{calendar}", summary="Make a calendar, or replace all of it",
                openapi_extra=documented(CalendarRequest, {"weekend": [6, 7], "exceptions": [{"day": "2026-10-01", "kind": "holiday"}]}),
                responses=shaped(200, "The calendar", ShownCalendar) | refused(400, 409, 413, 415))
    async def put(request: Request, calendar: Named) -> Response:
        wanted = await body_of(request, CalendarRequest)
        exceptions = {each.day: each.kind for each in wanted.exceptions}
        if len(exceptions) != len(wanted.exceptions):
            raise Problem("invalid", "A day stands twice.", errors=[{"field": "exceptions", "rule": "each day once", "type": "rule"}])
        return said(_calendar(calendar, await parts.arrangements.set_calendar(calendar, wanted.weekend, exceptions)))


def _holds(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any]) -> None:
    @routes.get("/v1/merchants/{merchant}/holds", summary="What is kept back from a merchant, newest first",
                responses=shaped(200, "One page", HoldPage))
    async def page(merchant: str, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50, after: str | None = None) -> Response:
        before = None if after is None else identified("hold", after)
        holds = await parts.arrangements.holds(identified("merchant", merchant), before, limit + 1)
        return said({"items": [_hold(hold) for hold in holds[:limit]],
                     "next": show("hold", holds[limit - 1].hold_id) if len(holds) > limit else None})

    @routes.post("/v1/merchants/{merchant}/holds", status_code=201, summary="Keep an amount, or all payouts, back",
                 openapi_extra=documented(HoldRequest, {"currency": "CNY", "amount": 50_000, "reason": "Disputed delivery, case 4711"}),
                 responses=shaped(201, "The hold", ShownHold) | refused(400, 409, 413, 415))
    async def place(request: Request, merchant: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        merchant_id, wanted = identified("merchant", merchant), await body_of(request, HoldRequest)
        return said(_hold(await parts.arrangements.place(merchant_id, wanted.currency, wanted.amount, wanted.reason, person(caller))), 201)

    @routes.post("/v1/merchants/{merchant}/holds/{hold}/release", summary="Release it; again changes nothing",
                 responses=shaped(200, "The hold", ShownHold))
    async def release(merchant: str, hold: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(_hold(await parts.arrangements.release(identified("merchant", merchant), identified("hold", hold), person(caller))))
