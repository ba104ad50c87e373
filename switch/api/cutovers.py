"""What operators do about business days: begin a cut-over, and see how it stands."""

from collections.abc import Callable
from datetime import date
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from switch import logs
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.ids import show
from switch.settlement.closing import Closing

PAGE_MAX = 200
BusinessDate = Annotated[str, Field(pattern="^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


class CutoverRequest(Model):
    """`business_date`: by default the oldest that is not finished."""

    business_date: BusinessDate | None = None


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


class Parts(Protocol):
    """What these routes need of the switch."""

    closing: Closing


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    async def operator(request: Request) -> Caller:
        caller = require(identify(request), "operator")
        if request.method != "GET":
            logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
        return caller

    routes = APIRouter(tags=["settlement"], dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))

    @routes.post("/v1/acquirers/{acquirer}/cutovers", status_code=202, summary="Cut a business day over: it runs on, and may be asked for again",
                 openapi_extra=documented(CutoverRequest, {"business_date": "2026-11-23"}),
                 responses=shaped(202, "It runs, or has ended; GET shows how it stands", Begun) | refused(400, 409, 413, 415))
    async def begin(request: Request, acquirer: str) -> Response:
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, CutoverRequest)
        day = await parts.closing.begin(acquirer_id, None if wanted.business_date is None else _date(wanted.business_date))
        return said({"acquirer": show("acquirer", acquirer_id), "business_date": day.isoformat()}, 202)

    @routes.get("/v1/acquirers/{acquirer}/cutovers", summary="Cut-overs of an acquirer with their steps, the latest day first",
                responses=shaped(200, "One page", CutoverPage))
    async def page(acquirer: str, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50, after: date | None = None,
                   business_date: date | None = None) -> Response:
        acquirer_id = identified("acquirer", acquirer)
        rows = await parts.closing.stands(acquirer_id, business_date, after, limit + 1)
        return said({"items": [{"acquirer": show("acquirer", acquirer_id), **row} for row in rows[:limit]],
                     "next": rows[limit - 1]["business_date"] if len(rows) > limit else None})

    return routes
