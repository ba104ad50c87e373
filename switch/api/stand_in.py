"""Terms of standing in for an acquirer that cannot be reached, as operators read and set them."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.operators import operators, person
from switch.api.resolving import plain_text
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Currency, Model
from switch.callers import Caller
from switch.database import Pool
from switch.ids import show
from switch.merchants.stand_in import REASON_MAX, Day, Terms, end_stand_in, set_stand_in, stand_in_of

Minor = Annotated[int, Field(ge=1, le=999_999_999_999)]
Reason = Annotated[str, Field(min_length=1, max_length=REASON_MAX), AfterValidator(plain_text)]


class StandInRequest(Model):
    """Amounts are minor units; those of a day are of each merchant and brand, on the acquirer's business date. Without `merchant`: any."""

    merchant: Ident | None = None
    brand: Annotated[str, Field(max_length=20)] = "*"
    currency: Currency
    sale_amount: Minor
    day_amount: Minor
    day_count: Annotated[int, Field(ge=1, le=1_000_000)]
    entry_modes: Annotated[list[Literal["chip", "contactless"]], Field(min_length=1, max_length=2, default_factory=lambda: ["chip", "contactless"])]
    reason: Reason


class StandInEnd(Model):
    """`merchant` and `brand` as the terms were set."""

    merchant: Ident | None = None
    brand: Annotated[str, Field(max_length=20)] = "*"
    reason: Reason


MODELS = (StandInRequest, StandInEnd)


class ShownStandIn(Shape):
    acquirer: str
    merchant: str | None
    brand: str
    state: Literal["on", "off"]
    currency: str
    sale_amount: int
    day_amount: int
    day_count: int
    entry_modes: list[str]
    reason: str
    created_by: str
    created_at: str


class StandInDay(Shape):
    """What was approved and not reversed since."""

    merchant: str
    brand: str
    currency: str
    business_date: str
    amount: int
    count: int


class AllStandIn(Shape):
    """`days`: the latest 200 of merchants and brands."""

    items: list[ShownStandIn]
    next: None
    days: list[StandInDay]


def shown(terms: Terms) -> dict[str, Any]:
    row = asdict(terms)
    row.pop("number")
    merchant_id = row.pop("merchant_id")
    return {"acquirer": show("acquirer", row.pop("acquirer_id")), "merchant": None if merchant_id is None else show("merchant", merchant_id), **row,
            "created_at": stamp(terms.created_at)}


def _day(day: Day) -> dict[str, Any]:
    return {"merchant": show("merchant", day.merchant_id), "brand": day.brand, "currency": day.currency,
            "business_date": day.business_date.isoformat(), "amount": day.amount, "count": day.count}


def router(pool: Callable[[], Pool], identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(tags=["onboarding"], dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))

    @routes.put("/v1/acquirers/{acquirer}/stand-in", summary="Which sales are approved in its stead while it cannot be reached, from now on",
                openapi_extra=documented(StandInRequest, {"brand": "unionpay", "currency": "CNY", "sale_amount": 20_000, "day_amount": 500_000,
                                                          "day_count": 100, "entry_modes": ["chip"], "reason": "Agreement of 2026-11-20, section 4"}),
                responses=shaped(200, "As they are now", ShownStandIn) | refused(400, 409, 413, 415))
    async def put(request: Request, acquirer: str) -> Response:
        by, acquirer_id, wanted = person(identify(request)), identified("acquirer", acquirer), await body_of(request, StandInRequest)
        given = wanted.model_dump(exclude={"merchant", "brand"})
        merchant_id = None if wanted.merchant is None else identified("merchant", wanted.merchant)
        return said(shown(await set_stand_in(pool(), acquirer_id, merchant_id, wanted.brand, by=by, **given)))

    @routes.post("/v1/acquirers/{acquirer}/stand-in/off", summary="No more of these sales in its stead",
                 openapi_extra=documented(StandInEnd, {"brand": "unionpay", "reason": "Too many were declined afterwards"}),
                 responses=shaped(200, "As they are now", ShownStandIn) | refused(400, 413, 415))
    async def off(request: Request, acquirer: str) -> Response:
        by, acquirer_id, wanted = person(identify(request)), identified("acquirer", acquirer), await body_of(request, StandInEnd)
        merchant_id = None if wanted.merchant is None else identified("merchant", wanted.merchant)
        return said(shown(await end_stand_in(pool(), acquirer_id, merchant_id, wanted.brand, wanted.reason, by)))

    @routes.get("/v1/acquirers/{acquirer}/stand-in", summary="All terms of standing in for it, and what was taken of them",
                responses=shaped(200, "All of them", AllStandIn))
    async def get(acquirer: str) -> Response:
        terms, days = await stand_in_of(pool(), identified("acquirer", acquirer))
        return said({"items": [shown(each) for each in terms], "next": None, "days": [_day(day) for day in days]})

    return routes
