"""The end of a merchant, step by step: operators move it on, merchants see their own."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.moves import Obligation, operator_of
from switch.api.onboard import Ident, body_of, identified, paged, said
from switch.api.resolving import plain_text
from switch.api.settlements import whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller
from switch.ids import show
from switch.merchants.journey import Journey
from switch.merchants.leaving.departures import PAGE_MAX, Leaving
from switch.merchants.leaving.life import LIFE
from switch.merchants.moving.owed import KINDS

State = Literal["noticed", "stopped", "returned", "settled", "closed", "withdrawn"]
Event = Literal["stop", "return", "settle", "close", "withdraw"]
assert set(State.__args__) == set(LIFE.states) and set(Event.__args__) == set(LIFE.events)  # type: ignore[attr-defined]
Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(plain_text)]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"


class LeavingRequest(Model):
    merchant: Ident
    reason: Reason


class LeavingStepRequest(Model):
    event: Event
    reason: Reason


MODELS = (LeavingRequest, LeavingStepRequest)


class ListedLeaving(Shape):
    id: str
    merchant: str
    state: State
    version: int
    since: str


class LeavingPage(Shape):
    items: list[ListedLeaving]
    next: str | None


class KeptUntil(Shape):
    what: str
    until: str
    source: str


class LeavingEvent(Shape):
    number: int
    at: str
    event: str
    was: State | None
    state: State
    by: str
    reason: str


class ShownLeaving(Shape):
    """`open`: in the way now. `kept`: what stays for how long, once it is closed; nothing is deleted before."""

    id: str
    merchant: str
    state: State
    version: int
    since: str
    can: list[Event]
    open: list[Obligation]
    kept: list[KeptUntil]
    events: list[LeavingEvent]


class Parts(Protocol):
    """What these routes need of the switch."""

    journey: Journey


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["leaving"], responses=refused(401, 403, 404, 422, 503))
    changes = refused(400, 409, 413, 415)

    @routes.post("/v1/leavings", status_code=201, summary="A merchant gives notice, or gets it; everything goes on as before",
                 openapi_extra=documented(LeavingRequest, {"merchant": f"mer_{_ID}", "reason": "the shop closes at the end of the year"}),
                 responses=shaped(201, "The leaving", ShownLeaving) | changes)
    async def begin(request: Request) -> Response:
        by = operator_of(identify, request)
        wanted = await body_of(request, LeavingRequest)
        return said(shown(await parts.journey.departures.begin(identified("merchant", wanted.merchant), by, wanted.reason)), 201)

    @routes.get("/v1/leavings", summary="Merchants who leave or left, newest first", responses=shaped(200, "One page", LeavingPage))
    async def page(request: Request, merchant: str | None = None, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
                   after: Annotated[str | None, Query(max_length=64)] = None) -> Response:
        of = whose(identify(request), merchant)
        rows = await parts.journey.departures.page(of, None if after is None else identified("leaving", after), limit)
        return paged([listed(row) for row in rows], limit)

    @routes.get("/v1/leavings/{ident}", summary="One with what is open and every step", responses=shaped(200, "The leaving", ShownLeaving))
    async def one(ident: str, request: Request) -> Response:
        of = whose(identify(request), None)
        return said(shown(await parts.journey.departures.get(identified("leaving", ident), of)))

    @routes.post("/v1/leavings/{ident}/steps", summary="The next step; refused by name while something is in its way",
                 openapi_extra=documented(LeavingStepRequest, {"event": "stop", "reason": "last day of business"}),
                 responses=shaped(200, "The leaving; a merchant that was stopped sells nothing within a second", ShownLeaving) | changes)
    async def step(ident: str, request: Request) -> Response:
        by = operator_of(identify, request)
        wanted = await body_of(request, LeavingStepRequest)
        return said(shown(await parts.journey.departures.step(identified("leaving", ident), wanted.event, by, wanted.reason)))

    return routes


def listed(row: Any) -> dict[str, Any]:
    return {"id": show("leaving", row["leaving_id"]), "merchant": show("merchant", row["merchant_id"]), "state": row["state"],
            "version": row["version"], "since": stamp(row["state_since"])}


def shown(found: Leaving) -> dict[str, Any]:
    ends = [json.loads(row["detail"])["kept"] for row in found.events if row["event"] == "close"]
    return {**listed(found.row), "can": LIFE.following(found.row["state"]),
            "open": [{"kind": each.kind, "what": KINDS[each.kind], "currency": each.currency, "count": each.items, "amount": each.amount}
                     for each in found.open],
            "kept": ends[0] if ends else [],
            "events": [{"number": row["number"], "at": stamp(row["at"]), "event": row["event"], "was": row["was"], "state": row["state"],
                        "by": row["person"], "reason": row["reason"]} for row in found.events]}
