"""A merchant's traffic, hour by hour."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.days import From, To
from switch.api.onboard import said
from switch.api.settlements import one_merchant
from switch.api.shapes import Shape, refused, shaped
from switch.callers import Caller
from switch.clock import clock
from switch.database import Pool
from switch.errors import Problem
from switch.ids import show
from switch.payments import traffic
from switch.payments.traffic import LONGEST

DAY = timedelta(days=1)


class TrafficHour(Shape):
    """`hour`: its beginning in UTC. `undone`: reversed, being reversed or never sent; `open`: no answer yet. `amount`: what was approved, in minor
    units. `terminals`: how many sold or refunded. `approval_rate`: basis points of the sales that were approved or declined; null when none was."""

    hour: str
    currency: str
    sales: int
    approved: int
    declined: int
    undone: int
    open: int
    amount: int
    refunds: int
    terminals: int
    approval_rate: int | None


class Traffic(Shape):
    """Newest first; hours without a sale are left out."""

    merchant: str
    since: str
    until: str
    items: list[TrafficHour]


class Parts(Protocol):
    """What this route needs of the switch."""

    readers: Pool


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["merchants"], responses=refused(401, 403, 404, 422, 503))

    @routes.get("/v1/traffic", summary="What a merchant sold hour by hour, of the last day or of at most seven",
                responses=shaped(200, "Hours with sales", Traffic))
    async def page(request: Request, merchant: Annotated[str | None, Query(max_length=64)] = None,
                   since: From = None, until: To = None) -> Response:
        of = one_merchant(identify(request), merchant)
        end = until or clock.now() + timedelta(seconds=1)
        begin = since or end - DAY
        if not begin < end <= begin + LONGEST:
            raise Problem("invalid", "One or more fields are wrong; see errors.", errors=[
                {"field": "from", "rule": f"before `to`, by at most {LONGEST.days} days", "type": "rule"}])
        rows = await traffic.hours(parts.readers, of, begin, end)
        return said({"merchant": show("merchant", of), "since": stamp(begin), "until": stamp(end), "items": [_hour(row) for row in rows]})

    return routes


def _hour(row: Any) -> dict[str, Any]:
    decided = row["approved"] + row["declined"]
    return {**dict(row), "hour": stamp(row["hour"]), "approval_rate": row["approved"] * 10_000 // decided if decided else None}
