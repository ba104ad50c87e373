"""What operators do about business days: begin a cut-over, and see how it stands."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.days import Day, DayText, day_of
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.operators import operators
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller
from switch.ids import show
from switch.settlement.cutover.closing import Closing

PAGE_MAX = 200

class CutoverRequest(Model):
    """`business_date`: by default the oldest that is not finished; one that has not begun must be named."""

    business_date: Day | None = None


class Step(Shape):
    step: Literal["open", "confirm", "wait", "take", "price", "post", "state"]
    state: Literal["running", "done"]
    started_at: str
    ended_at: str | None
    detail: dict[str, Any]


class ShownCutover(Shape):
    """A cut-over with its steps; `ended_at` is null while it is not finished."""

    acquirer: str
    business_date: str
    next_date: str
    started_at: str
    ended_at: str | None
    steps: list[Step]


class CutoverPage(Shape):
    """The latest day first; `next` goes into `after`, null at the end."""

    items: list[ShownCutover]
    next: str | None


class Begun(Shape):
    acquirer: str
    business_date: str


MODELS = (CutoverRequest,)


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**{name: row[name].isoformat() for name in ("business_date", "next_date")},
            **{name: stamp(row[name]) for name in ("started_at", "ended_at")}, "steps": [_step(step) for step in row["steps"]]}


def _step(step: dict[str, Any]) -> dict[str, Any]:
    times = {name: None if step[name] is None else stamp(datetime.fromisoformat(step[name])) for name in ("started_at", "ended_at")}
    return {**step, **times}


class Parts(Protocol):
    """What these routes need of the switch."""

    closing: Closing


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(tags=["settlement"], dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))

    @routes.post("/v1/acquirers/{acquirer}/cutovers", status_code=202, summary="Cut a business day over: it runs on, and may be asked for again",
                 openapi_extra=documented(CutoverRequest, {"business_date": "2026-11-23"}),
                 responses=shaped(202, "It runs, or has ended; GET shows how it stands", Begun) | refused(400, 409, 413, 415))
    async def begin(request: Request, acquirer: str) -> Response:
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, CutoverRequest)
        day = await parts.closing.begin(acquirer_id, wanted.business_date)
        return said({"acquirer": show("acquirer", acquirer_id), "business_date": day.isoformat()}, 202)

    @routes.get("/v1/acquirers/{acquirer}/cutovers", summary="Cut-overs of an acquirer with their steps, the latest day first",
                responses=shaped(200, "One page", CutoverPage))
    async def page(acquirer: str, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50, after: DayText = None,
                   business_date: DayText = None) -> Response:
        acquirer_id = identified("acquirer", acquirer)
        rows = await parts.closing.stands(acquirer_id, day_of("business_date", business_date), day_of("after", after), limit + 1)
        return said({"items": [{"acquirer": show("acquirer", acquirer_id), **_shown(row)} for row in rows[:limit]],
                     "next": rows[limit - 1]["business_date"].isoformat() if len(rows) > limit else None})

    return routes
