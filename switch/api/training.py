"""Training and check lists over HTTP: material per model and role, who was trained, what was checked, and what a device lacks before it goes live."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch.api.acceptance import Code, ShownCheck, ShownStep
from switch.api.answers import stamp
from switch.api.days import Day
from switch.api.devices import DeviceModel, Reason, operating, optional
from switch.api.disputes import plain_lines
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.resolving import plain_text
from switch.api.settlements import whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.clock import clock
from switch.ids import show
from switch.terminals.training import PAGE_MAX, Held, Training

Role = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,29}$", description="cashier, manager, engineer, ...")]
Line = Annotated[str, Field(min_length=1, max_length=140), AfterValidator(plain_text)]
Language = Literal["en", "zh"]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"


class MaterialRequest(Model):
    """The next version of material with this title: where it is, or the text itself."""

    model: DeviceModel
    role: Role
    language: Language
    title: Line
    address: Annotated[str, Field(pattern="^https://[!-~]+$", max_length=500)] | None = None
    content: Annotated[str, Field(min_length=1, max_length=8000), AfterValidator(plain_lines)] | None = None

    @model_validator(mode="after")
    def _one(self) -> "MaterialRequest":
        if (self.address is None) is (self.content is None):
            raise PydanticCustomError("material", "give address or content, not both")
        return self


class TrainingRequest(Model):
    """Somebody who was trained at a store."""

    store: Ident
    model: DeviceModel
    role: Role
    trainee: Line
    trainer: Line
    held_on: Day
    materials: Annotated[list[Ident], Field(max_length=50, default_factory=list)]


class CheckRequest(Model):
    """The latest word on a check counts; earlier ones stay."""

    check: Code
    done: bool
    reason: Reason


MODELS = (MaterialRequest, TrainingRequest, CheckRequest)


class ShownMaterial(Shape):
    id: str
    model: str
    role: str
    language: Language
    title: str
    version: int
    address: str | None
    content: str | None
    by: str
    created_at: str


class MaterialPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownMaterial]
    next: str | None


class ShownTraining(Shape):
    id: str
    merchant: str
    store: str
    model: str
    role: str
    trainee: str
    trainer: str
    held_on: str
    materials: list[str]
    by: str
    created_at: str


class TrainingPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownTraining]
    next: str | None


class Readiness(Shape):
    """What a device lacks before it goes live, by the plan of its model; version 0: there is none, and nothing is asked."""

    device: str
    model: str
    state: str
    plan_version: int
    ready: bool
    steps: list[ShownStep]
    checks: list[ShownCheck]
    roles: list[str]


class Parts(Protocol):
    """What these routes need of the switch."""

    training: Training


def _material(row: asyncpg.Record, people: bool) -> dict[str, Any]:
    plain = ("model", "role", "language", "title", "version", "address", "content")
    return {"id": show("material", row["material_id"]), **{name: row[name] for name in plain}, "by": row["person"] if people else "operator",
            "created_at": stamp(row["at"])}


def _training(row: asyncpg.Record, people: bool) -> dict[str, Any]:
    return {"id": show("training", row["training_id"]), "merchant": show("merchant", row["merchant_id"]), "store": show("store", row["store_id"]),
            **{name: row[name] for name in ("model", "role", "trainee", "trainer")}, "held_on": row["held_on"].isoformat(),
            "materials": [show("material", each) for each in row["materials"]], "by": row["person"] if people else "operator",
            "created_at": stamp(row["at"])}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["devices"], responses=refused(401, 403, 404, 422, 503))
    _materials(routes, parts, identify)
    _trainings(routes, parts, identify)
    _readiness(routes, parts, identify)
    return routes


def _materials(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/training-materials", status_code=201, summary="The next version of training material for a model and role",
                 responses=shaped(201, "The material", ShownMaterial) | refused(400, 409, 413, 415), openapi_extra=documented(MaterialRequest, {
                     "model": "PX7", "role": "cashier", "language": "zh", "title": "收银培训", "address": "https://files.example/px7-cashier-zh.pdf"}))
    async def add(request: Request) -> Response:
        _, by = operating(identify, request)
        wanted = await body_of(request, MaterialRequest)
        row = await parts.training.add_material(wanted.model, wanted.role, wanted.language, wanted.title, wanted.address, wanted.content, by)
        return said(_material(row, True), 201)

    @routes.get("/v1/training-materials", summary="Training material, newest first", responses=shaped(200, "One page", MaterialPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, model: Annotated[str | None, Query(max_length=40)] = None,
                   role: Annotated[str | None, Query(max_length=30)] = None, language: Language | None = None) -> Response:
        caller = require(identify(request), "merchant", "operator")
        rows = await parts.training.materials(model, role, language, optional("material", after), limit + 1)
        return said({"items": [_material(row, caller.role == "operator") for row in rows[:limit]],
                     "next": show("material", rows[limit - 1]["material_id"]) if len(rows) > limit else None})


def _trainings(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/trainings", status_code=201, summary="Record who was trained at a store, when and by whom",
                 responses=shaped(201, "The training", ShownTraining) | refused(400, 409, 413, 415), openapi_extra=documented(TrainingRequest, {
                     "store": f"sto_{_ID}", "model": "PX7", "role": "cashier", "trainee": "Wang Fang",
                     "trainer": "Chen Jie", "held_on": "2026-11-26"}))
    async def record(request: Request) -> Response:
        _, by = operating(identify, request)
        wanted = await body_of(request, TrainingRequest)
        held = Held(identified("store", wanted.store), wanted.model, wanted.role, wanted.trainee, wanted.trainer, wanted.held_on,
                    [identified("material", each) for each in wanted.materials])
        return said(_training(await parts.training.record(held, clock.now().date(), by), True), 201)

    @routes.get("/v1/trainings", summary="Who was trained, newest first; a merchant's are its own", responses=shaped(200, "One page", TrainingPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, merchant: str | None = None, store: str | None = None) -> Response:
        caller = identify(request)
        merchant_id = whose(caller, merchant)
        rows = await parts.training.trainings(merchant_id, optional("store", store), optional("training", after), limit + 1)
        return said({"items": [_training(row, caller.role == "operator") for row in rows[:limit]],
                     "next": show("training", rows[limit - 1]["training_id"]) if len(rows) > limit else None})


def _readiness(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def now(device: str, caller: Caller) -> Response:
        row, found = await parts.training.standing(identified("device", device), caller.merchant_id)
        return said({"device": device, "model": row["model"], "state": row["state"], "plan_version": found.plan.version, "ready": found.ready,
                     "steps": found.steps, "checks": found.checks, "roles": found.roles})

    @routes.get("/v1/devices/{device}/readiness", summary="What a device lacks before it goes live",
                responses=shaped(200, "What is missing", Readiness) | refused(409))
    async def readiness(request: Request, device: str) -> Response:
        return await now(device, require(identify(request), "merchant", "operator"))

    @routes.post("/v1/devices/{device}/checks", summary="Say that a check of the list was done, or was not",
                 responses=shaped(200, "What is missing now", Readiness) | refused(400, 409, 413, 415),
                 openapi_extra=documented(CheckRequest, {"check": "paper_loaded", "done": True, "reason": "Test print seen"}))
    async def check(request: Request, device: str) -> Response:
        caller, by = operating(identify, request)
        device_id, wanted = identified("device", device), await body_of(request, CheckRequest)
        await parts.training.check(device_id, wanted.check, wanted.done, wanted.reason, by)
        return await now(device, caller)
