"""Software of devices: releases that there are, and their roll-out in stages. For operators alone."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.devices import DeviceModel, Reason, operating, optional
from switch.api.disputes import plain_lines
from switch.api.documented import documented
from switch.api.heartbeats import Version
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.errors import Problem
from switch.ids import show
from switch.terminals.releases import PAGE_MAX, Progress, Releases

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
OfModel = Annotated[str | None, Query(max_length=40)]
Percent = Annotated[int, Field(ge=0, le=100)]
Stage = Literal["running", "paused", "rolled_back"]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"


class ReleaseRequest(Model):
    """The file stays where it is; the device compares it with `sha256` and `size`."""

    model: DeviceModel
    version: Version
    url: Annotated[str, Field(pattern=r"^https://[!-~]+$", max_length=500)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=1, le=10**12)]
    notes: Annotated[str, Field(max_length=2000), AfterValidator(lambda text: plain_lines(text) if text else text)] = ""


class RolloutRequest(Model):
    """`back_to`: what devices get that have `version` when it is rolled back. `stores`: only there; all when not given."""

    model: DeviceModel
    version: Version
    back_to: Version
    percent: Percent
    stores: Annotated[list[Ident], Field(max_length=1000)] | None = None
    reason: Reason


class RolloutChange(Model):
    """`percent` with advance, more than before; a smaller one is a pause or a roll-back."""

    event: Literal["advance", "pause", "resume", "roll_back"]
    percent: Percent | None = None
    reason: Reason


MODELS = (ReleaseRequest, RolloutRequest, RolloutChange)


class ShownRelease(Shape):
    id: str
    model: str
    version: str
    url: str
    sha256: str
    size: int
    notes: str
    by: str
    created_at: str


class ReleasePage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownRelease]
    next: str | None


class ShownRollout(Shape):
    id: str
    model: str
    version: str
    back_to: str
    state: Stage
    percent: int
    stores: list[str] | None
    created_at: str


class RolloutPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownRollout]
    next: str | None


class RolloutEvent(Shape):
    at: str
    event: str
    state: Stage
    percent: int
    by: str
    reason: str


class WholeRollout(ShownRollout):
    """Over the devices of the model that are bound to a till now: how many, how many are chosen, how many have the version."""

    devices: int
    chosen: int
    installed: int
    events: list[RolloutEvent]


class Parts(Protocol):
    """What these routes need of the switch."""

    releases: Releases


def _release(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("release", row["release_id"]), **{name: row[name] for name in ("model", "version", "url", "sha256", "size", "notes")},
            "by": row["person"], "created_at": stamp(row["created_at"])}


def _rollout(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("rollout", row["rollout_id"]), **{name: row[name] for name in ("model", "version", "back_to", "state", "percent")},
            "stores": None if row["stores"] is None else [show("store", each) for each in row["stores"]], "created_at": stamp(row["created_at"])}


def _whole(progress: Progress) -> dict[str, Any]:
    events = [{"at": stamp(each["at"]), **{name: each[name] for name in ("event", "state", "percent", "reason")}, "by": each["person"]}
              for each in progress.events]
    return {**_rollout(progress.row), "devices": progress.devices, "chosen": progress.chosen, "installed": progress.installed, "events": events}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["devices"], responses=refused(401, 403, 404, 422, 503))
    _releases(routes, parts, identify)
    _rollouts(routes, parts, identify)
    return routes


def _releases(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/releases", status_code=201, summary="Add a version of a model's software",
                 responses=shaped(201, "It is there; it goes nowhere by itself", ShownRelease) | refused(400, 409, 413, 415),
                 openapi_extra=documented(ReleaseRequest, {"model": "PX7", "version": "4.3.0", "url": "https://files.example/px7-4.3.0.bin",
                                                           "sha256": "ab" * 32, "size": 18_350_080, "notes": "Faster printing"}))
    async def add(request: Request) -> Response:
        _, by = operating(identify, request)
        wanted = await body_of(request, ReleaseRequest)
        return said(_release(await parts.releases.add(**wanted.model_dump(), person=by.person)), 201)

    @routes.get("/v1/releases", summary="Versions of software, newest first", responses=shaped(200, "One page", ReleasePage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, model: OfModel = None) -> Response:
        require(identify(request), "operator")
        rows = await parts.releases.releases(model, optional("release", after), limit + 1)
        return said({"items": [_release(row) for row in rows[:limit]],
                     "next": show("release", rows[limit - 1]["release_id"]) if len(rows) > limit else None})


def _rollouts(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/rollouts", status_code=201, summary="Begin a roll-out: a percentage of a model's devices, in all stores or some",
                 responses=shaped(201, "It runs", WholeRollout) | refused(400, 409, 413, 415),
                 openapi_extra=documented(RolloutRequest, {"model": "PX7", "version": "4.3.0", "back_to": "4.2.0", "percent": 5,
                                                           "stores": [f"sto_{_ID}"], "reason": "First stage, two stores"}))
    async def begin(request: Request) -> Response:
        _, by = operating(identify, request)
        wanted = await body_of(request, RolloutRequest)
        stores = None if wanted.stores is None else [identified("store", each) for each in wanted.stores]
        rollout_id = await parts.releases.begin(wanted.model, wanted.version, wanted.back_to, wanted.percent, stores, by.person, wanted.reason)
        return said(_whole(await parts.releases.progress(rollout_id)), 201)

    @routes.post("/v1/rollouts/{rollout}/changes", summary="Advance, pause, resume or roll it back",
                 responses=shaped(200, "As it is now", WholeRollout) | refused(400, 409, 413, 415),
                 openapi_extra=documented(RolloutChange, {"event": "advance", "percent": 25, "reason": "No complaints for two days"}))
    async def change(request: Request, rollout: str) -> Response:
        _, by = operating(identify, request)
        rollout_id, wanted = identified("rollout", rollout), await body_of(request, RolloutChange)
        if (wanted.percent is not None) != (wanted.event == "advance"):
            raise Problem("invalid", errors=[{"field": "percent", "rule": "given to advance, and only then", "type": "rule"}])
        await parts.releases.change(rollout_id, wanted.event, wanted.percent, by.person, wanted.reason)
        return said(_whole(await parts.releases.progress(rollout_id)))

    @routes.get("/v1/rollouts", summary="Roll-outs, newest first", responses=shaped(200, "One page", RolloutPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, model: OfModel = None) -> Response:
        require(identify(request), "operator")
        rows = await parts.releases.page(model, optional("rollout", after), limit + 1)
        return said({"items": [_rollout(row) for row in rows[:limit]],
                     "next": show("rollout", rows[limit - 1]["rollout_id"]) if len(rows) > limit else None})

    @routes.get("/v1/rollouts/{rollout}", summary="One roll-out with how far it has come", responses=shaped(200, "The roll-out", WholeRollout))
    async def one(request: Request, rollout: str) -> Response:
        require(identify(request), "operator")
        return said(_whole(await parts.releases.progress(identified("rollout", rollout))))
