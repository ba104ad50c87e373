"""Another acquirer, step by step: operators plan and move, merchants see their own."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import Day, Ident, body_of, identified, paged, said
from switch.api.resolving import plain_text
from switch.api.settlements import whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.ids import show
from switch.merchants.journey import Journey
from switch.merchants.moving.life import LIFE, Share
from switch.merchants.moving.moves import PAGE_MAX, Moved
from switch.merchants.moving.owed import KINDS
from switch.payments.resolution import Person

State = Literal["planned", "registering", "moving", "moved", "done", "rolled_back", "cancelled"]
Event = Literal["register", "share", "complete", "finish", "roll_back", "cancel"]
assert set(State.__args__) == set(LIFE.states) and set(Event.__args__) == set(LIFE.events)  # type: ignore[attr-defined]
Reason = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(plain_text)]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"


class PlanMoveRequest(Model):
    """Whose sales go from which acquirer to which. `planned_for`: the day people have agreed on; nothing happens by itself on it."""

    merchant: Ident
    from_acquirer: Ident
    to_acquirer: Ident
    planned_for: Day | None = None
    reason: Reason


class MoveStepRequest(Model):
    """`percent`, `stores` and `date_from` go with the event share: 1 to 100 per cent, of all stores unless named, at once unless a day is.
    `version`: that you looked at; another one is refused."""

    event: Event
    reason: Reason
    percent: Annotated[int, Field(ge=1, le=100)] | None = None
    stores: Annotated[list[Ident], Field(min_length=1, max_length=100)] | None = None
    date_from: Day | None = None
    version: int | None = None


MODELS = (PlanMoveRequest, MoveStepRequest)


class MoveShare(Shape):
    percent: int
    stores: list[str] | None
    date_from: str | None


class MoveEvent(Shape):
    number: int
    at: str
    event: str
    was: State | None
    state: State
    by: str
    reason: str
    share: MoveShare | None


class ShownMove(Shape):
    """`share`: in force now. `missing_numbers`: terminals that the new acquirer has no number for. `can`: the events that may follow."""

    id: str
    merchant: str
    from_acquirer: str
    to_acquirer: str
    state: State
    version: int
    since: str
    planned_for: str | None
    share: MoveShare | None
    missing_numbers: list[str]
    can: list[Event]
    events: list[MoveEvent]


class ListedMove(Shape):
    id: str
    merchant: str
    from_acquirer: str
    to_acquirer: str
    state: State
    version: int
    since: str
    planned_for: str | None


class MovePage(Shape):
    items: list[ListedMove]
    next: str | None


class Obligation(Shape):
    kind: str
    what: str
    currency: str
    count: int
    amount: int


class Obligations(Shape):
    """What is open at the acquirer that is left. `contract`: what is agreed about its end; empty while no contract is known."""

    move: str
    open: list[Obligation]
    contract: list[dict[str, Any]]


class Parts(Protocol):
    """What these routes need of the switch."""

    journey: Journey


PLAN = {"merchant": f"mer_{_ID}", "from_acquirer": f"acq_{_ID}", "to_acquirer": f"acq_{_ID.replace('c0de', 'c0df')}", "planned_for": "2026-12-01",
        "reason": "lower fees from December on"}
STEP = {"event": "share", "percent": 20, "stores": [f"sto_{_ID}"], "reason": "one store first"}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["moving"], responses=refused(401, 403, 404, 422, 503))
    changes = refused(400, 409, 413, 415)

    @routes.post("/v1/moves", status_code=201, summary="Plan that a merchant's sales go to another acquirer; nothing moves yet",
                 openapi_extra=documented(PlanMoveRequest, PLAN), responses=shaped(201, "The change", ShownMove) | changes)
    async def plan(request: Request) -> Response:
        by = operator_of(identify, request)
        wanted = await body_of(request, PlanMoveRequest)
        return said(shown(await parts.journey.moves.plan(
            identified("merchant", wanted.merchant), identified("acquirer", wanted.from_acquirer), identified("acquirer", wanted.to_acquirer),
            wanted.planned_for, by, wanted.reason)), 201)

    @routes.get("/v1/moves", summary="Changes of acquirer, newest first", responses=shaped(200, "One page", MovePage))
    async def page(request: Request, merchant: str | None = None, state: State | None = None, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
                   after: Annotated[str | None, Query(max_length=64)] = None) -> Response:
        of = whose(identify(request), merchant)
        rows = await parts.journey.moves.page(of, state, None if after is None else identified("move", after), limit)
        return paged([listed(row) for row in rows], limit)

    @routes.get("/v1/moves/{ident}", summary="One change with every step of it", responses=shaped(200, "The change", ShownMove))
    async def one(ident: str, request: Request) -> Response:
        of = whose(identify(request), None)
        return said(shown(await parts.journey.moves.get(identified("move", ident), of)))

    @routes.get("/v1/moves/{ident}/obligations", summary="What is open at the acquirer that is left",
                responses=shaped(200, "Open items, in minor units", Obligations))
    async def obligations(ident: str, request: Request) -> Response:
        of = whose(identify(request), None)
        found, terms = await parts.journey.moves.obligations(identified("move", ident), of)
        return said({"move": ident, "open": [{"kind": each.kind, "what": KINDS[each.kind], "currency": each.currency, "count": each.items,
                                              "amount": each.amount} for each in found], "contract": [dict(each) for each in terms]})

    @routes.post("/v1/moves/{ident}/steps", summary="The next step; roll_back gives everything back to the old acquirer in this one call",
                 openapi_extra=documented(MoveStepRequest, STEP),
                 responses=shaped(200, "The change; its rules are in force at every worker within a second", ShownMove) | changes)
    async def step(ident: str, request: Request) -> Response:
        by = operator_of(identify, request)
        wanted = await body_of(request, MoveStepRequest)
        share = None
        if wanted.percent is not None or wanted.stores is not None or wanted.date_from is not None:
            stores = None if wanted.stores is None else tuple(sorted({identified("store", each) for each in wanted.stores}))
            share = Share(100 if wanted.percent is None else wanted.percent, stores, wanted.date_from)
        return said(shown(await parts.journey.moves.step(identified("move", ident), wanted.event, share, by, wanted.reason, wanted.version)))

    return routes


def operator_of(identify: Callable[[Request], Caller], request: Request) -> Person:
    """The operator who writes here, logged. Raises Problem."""
    caller = require(identify(request), "operator")
    assert caller.person is not None
    logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
    return Person(caller.person, caller.key_id)


def listed(row: Any) -> dict[str, Any]:
    return {"id": show("move", row["move_id"]), "merchant": show("merchant", row["merchant_id"]),
            "from_acquirer": show("acquirer", row["from_acquirer"]), "to_acquirer": show("acquirer", row["to_acquirer"]), "state": row["state"],
            "version": row["version"], "since": stamp(row["state_since"]),
            "planned_for": None if row["planned_for"] is None else row["planned_for"].isoformat()}


def shown(moved: Moved) -> dict[str, Any]:
    events = [_event(each) for each in moved.events]
    shares = [each["share"] for each in events if each["share"] is not None]
    state = moved.row["state"]
    return {**listed(moved.row), "share": shares[-1] if shares and state in ("moving", "moved", "done") else None,
            "missing_numbers": [show("terminal", each["terminal_id"]) for each in moved.missing],
            "can": LIFE.following(state), "events": events}


def _event(row: Any) -> dict[str, Any]:
    detail = json.loads(row["detail"])
    return {"number": row["number"], "at": stamp(row["at"]), "event": row["event"], "was": row["was"], "state": row["state"], "by": row["person"],
            "reason": row["reason"], "share": {name: detail[name] for name in MoveShare.model_fields} if row["event"] == "share" else None}
