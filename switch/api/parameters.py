"""Parameters of terminals by level: written whole by operators, read with all their versions by the merchant whose they are."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.devices import Reason, operating
from switch.api.documented import documented
from switch.api.onboard import body_of, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.errors import Problem
from switch.ids import read, show
from switch.terminals.parameter_sets import NIL, ParameterSets

DEFAULT = "default"
Limit = Annotated[int, Query(ge=1, le=200)]


class ParametersRequest(Model):
    """All of this level: what is not in it does not hold here. null takes away what a farther level says. `after`: the version you have seen."""

    values: dict[str, Any]
    reason: Reason
    after: Annotated[int, Field(ge=0, le=2**31 - 2)] | None = None


MODELS = (ParametersRequest,)
EXAMPLE = {"values": {"heartbeat_interval_s": 300, "offline_allowed": True, "offline_amount_max": 20_000, "receipt_language": "zh",
                      "receipt_width_mm": 58, "batch_close_at": "23:30"}, "reason": "Opening of the store", "after": 0}


class ParameterSet(Shape):
    """One version of a level."""

    owner: str
    level: Literal["default", "merchant", "store", "terminal"]
    version: int
    values: dict[str, Any]
    by: str
    reason: str
    created_at: str


class ParameterSetPage(Shape):
    """The latest first; `next` goes into `after`, null at the end."""

    items: list[ParameterSet]
    next: str | None


class Parts(Protocol):
    """What these routes need of the switch."""

    parameter_sets: ParameterSets


def _owner(text: str) -> tuple[str, UUID]:
    """`default`, or the id of a merchant, store or terminal. Raises Problem not_found."""
    if text == DEFAULT:
        return DEFAULT, NIL
    for kind in ("merchant", "store", "terminal"):
        if (found := read(kind, text)) is not None:
            return kind, found
    raise Problem("not_found")


def _shown(row: asyncpg.Record, people: bool) -> dict[str, Any]:
    kind = row["owner_kind"]
    return {"owner": DEFAULT if kind == DEFAULT else show(kind, row["owner_id"]), "level": kind, "version": row["version"],
            "values": json.loads(row["content"]), "by": row["person"] if people else "operator", "reason": row["reason"],
            "created_at": stamp(row["created_at"])}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["devices"], responses=refused(401, 403, 404, 422, 503))

    @routes.put("/v1/parameters/{owner}", summary="The next version of a level: default, mer_..., sto_... or trm_...",
                responses=shaped(200, "The new version; terminals learn of it with their next heartbeat", ParameterSet) | refused(400, 409, 413, 415),
                openapi_extra=documented(ParametersRequest, EXAMPLE))
    async def put(request: Request, owner: str) -> Response:
        _, by = operating(identify, request)
        kind, owner_id = _owner(owner)
        wanted = await body_of(request, ParametersRequest)
        return said(_shown(await parts.parameter_sets.put(kind, owner_id, wanted.values, by.person, wanted.reason, wanted.after), True))

    @routes.get("/v1/parameters/{owner}", summary="The versions of a level", responses=shaped(200, "One page", ParameterSetPage))
    async def page(request: Request, owner: str, limit: Limit = 50, after: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None) -> Response:
        caller = require(identify(request), "merchant", "operator")
        kind, owner_id = _owner(owner)
        rows = await parts.parameter_sets.versions(kind, owner_id, caller.merchant_id, after, limit + 1)
        return said({"items": [_shown(row, caller.role == "operator") for row in rows[:limit]],
                     "next": str(rows[limit - 1]["version"]) if len(rows) > limit else None})

    return routes
