"""Acceptance tests over HTTP: plans per model, tests of devices, transactions that show steps. Operators decide, terminals show, merchants read."""

import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.devices import Reason, operating, optional
from switch.api.documented import documented
from switch.api.heartbeats import visible
from switch.api.onboard import Ident, body_of, identified, said
from switch.api.resolving import plain_text
from switch.api.settlements import whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import show
from switch.terminals.acceptance import PAGE_MAX, Acceptance, Whole
from switch.terminals.acceptance_life import LIFE
from switch.terminals.acceptance_steps import RULES, USUAL, Printed
from switch.terminals.devices import By, Devices

StepName = Literal["chip", "swipe", "contactless", "manual", "qr", "decline", "timeout", "cancellation", "preauthorization", "capture", "void",
                   "refund", "receipt"]
assert set(StepName.__args__) == set(RULES)  # type: ignore[attr-defined]
State = Literal["open", "running", "passed", "failed", "repeated", "cancelled"]
Event = Literal["begin", "pass", "fail", "cancel", "repeat"]
assert set(Event.__args__) == set(LIFE.events)  # type: ignore[attr-defined]
Dialect = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,39}$")]
Words = Annotated[str, Field(min_length=1, max_length=140), AfterValidator(plain_text)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
DEVICE_MODEL = re.compile(r"[0-9A-Za-z][ 0-9A-Za-z._/+-]{0,39}")
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"


class WantedStep(Model):
    """`dialect`: only at acquirers that speak it, and only of tills that have one."""

    step: StepName
    dialect: Dialect | None = None


class Check(Model):
    """Something a person looks at before the device goes live, in English and Chinese."""

    code: Code
    en: Words
    zh: Words


class PlanRequest(Model):
    """All that a model asks for before its devices go live; empty lists ask for nothing. `roles`: who must be trained at the store.
    `after`: the version you have seen."""

    steps: Annotated[list[WantedStep], Field(max_length=60)]
    checks: Annotated[list[Check], Field(max_length=40, default_factory=list)]
    roles: Annotated[list[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{1,29}$")]], Field(max_length=10, default_factory=list)]
    reason: Reason
    after: Annotated[int, Field(ge=0, le=2**31 - 2)] | None = None

    @model_validator(mode="after")
    def _once(self) -> "PlanRequest":
        for name, each in (("steps", [(step.step, step.dialect) for step in self.steps]), ("checks", [check.code for check in self.checks]),
                           ("roles", self.roles)):
            if len(set(each)) != len(each):
                raise PydanticCustomError("twice", f"{name}: each once")
        return self


class TestRequest(Model):
    """A test by the plan in force."""

    __test__ = False  # to pytest this is no test
    reason: Reason


class TestMoveRequest(Model):
    """`begin`: its till sells from now on; `pass` is granted only by what was shown."""

    __test__ = False
    event: Event
    reason: Reason


class PrintedRequest(Model):
    """What stood on the paper, as it stood there. Of the card number four digits, the last."""

    masked_pan: Annotated[str, Field(min_length=4, max_length=32)]
    amount: Annotated[int, Field(ge=0, le=999_999_999_999)]
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    rrn: Annotated[str, Field(min_length=1, max_length=12)]
    approval_code: Annotated[str, Field(min_length=1, max_length=6)] | None = None
    stan: Annotated[str, Field(min_length=1, max_length=6)] | None = None


class ShowingRequest(Model):
    """The transaction that shows a step. `printed` is needed for `receipt` and compared wherever it is given."""

    step: StepName
    transaction: Ident
    printed: PrintedRequest | None = None


MODELS = (PlanRequest, TestRequest, TestMoveRequest, ShowingRequest)


class ShownStep(Shape):
    step: StepName
    dialect: str | None


class ShownCheck(Shape):
    code: str
    en: str
    zh: str


class ShownPlan(Shape):
    """One version of what a model asks for."""

    model: str
    version: int
    steps: list[ShownStep]
    checks: list[ShownCheck]
    roles: list[str]
    by: str
    reason: str
    created_at: str


class PlanPage(Shape):
    """The latest first; `next` goes into `after`, null at the end. A model without a version asks for nothing."""

    items: list[ShownPlan]
    next: str | None


class ShownTest(Shape):
    id: str
    device: str
    merchant: str
    store: str
    terminal: str
    plan_version: int
    repeats: str | None
    state: State
    since: str
    begun_at: str | None
    created_at: str


class TestPage(Shape):
    """Newest first; `next` goes into `after`, null at the end."""

    items: list[ShownTest]
    next: str | None


class Comparison(Shape):
    """One field as the paper, the books and the acquirer have it; null is what that one does not say."""

    field: str
    printed: str | None
    recorded: str | None
    booked: str | None
    booked_by: Literal["answer", "clearing_file"] | None
    same: bool


class Showing(Shape):
    """`findings`: why it does not show the step; empty when it does."""

    number: int
    at: str
    by: str
    step: StepName
    dialect: str
    transaction: str
    shown: bool
    findings: list[str]
    compared: list[Comparison]


class TestEvent(Shape):
    number: int
    at: str
    event: str
    was: State | None
    state: State
    by: str
    reason: str


class WholeTest(ShownTest):
    """With what it wants, what was shown, what is missing, and, while it runs, the payments that must still be undone."""

    steps: list[ShownStep]
    missing: list[ShownStep]
    standing: list[str]
    showings: list[Showing]
    events: list[TestEvent]


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    devices: Devices
    acceptance: Acceptance


def plan_shown(row: asyncpg.Record) -> dict[str, Any]:
    content = json.loads(row["content"])
    return {"model": row["model"], "version": row["version"], **{name: content[name] for name in ("steps", "checks", "roles")},
            "by": row["person"], "reason": row["reason"], "created_at": stamp(row["at"])}


def shown(row: asyncpg.Record) -> dict[str, Any]:
    place = {kind: show(kind, row[f"{kind}_id"]) for kind in ("device", "merchant", "store", "terminal")}
    return {"id": show("acceptance_test", row["test_id"]), **place,
            "plan_version": row["plan_version"], "repeats": None if row["repeats"] is None else show("acceptance_test", row["repeats"]),
            "state": row["state"], "since": stamp(row["state_since"]), "begun_at": stamp(row["begun_at"]), "created_at": stamp(row["created_at"])}


def _by(person: str, people: bool) -> str:
    """Who of the operator's people did it is not the merchant's concern."""
    return person if people or person.startswith("trm_") else "operator"


def _showing(row: asyncpg.Record, people: bool) -> dict[str, Any]:
    return {**{name: row[name] for name in ("number", "step", "dialect", "shown")}, "at": stamp(row["at"]), "by": _by(row["person"], people),
            "transaction": show("transaction", row["transaction_id"]), "findings": json.loads(row["findings"]),
            "compared": json.loads(row["compared"])}


def _whole(whole: Whole, people: bool) -> dict[str, Any]:
    return {**shown(whole.row), "steps": json.loads(whole.row["steps"]), "missing": whole.missing,
            "standing": [show("transaction", each) for each in whole.standing], "showings": [_showing(each, people) for each in whole.showings],
            "events": [{**{name: each[name] for name in ("number", "event", "was", "state", "reason")}, "at": stamp(each["at"]),
                        "by": _by(each["person"], people)} for each in whole.events]}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["devices"], responses=refused(401, 403, 404, 422, 503))
    _plans(routes, parts, identify)
    _reads(routes, parts, identify)
    _moves(routes, parts, identify)
    return routes


def _plans(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    example = {"steps": [{"step": each} for each in USUAL], "roles": ["cashier"], "reason": "New model", "after": 0,
               "checks": [{"code": "paper_loaded", "en": "Paper is loaded and prints", "zh": "打印纸已安装，打印正常"}]}

    @routes.put("/v1/acceptance-plans/{model}", summary="The next version of what a model asks for before its devices go live",
                responses=shaped(200, "The new version", ShownPlan) | refused(400, 409, 413, 415), openapi_extra=documented(PlanRequest, example))
    async def put(request: Request, model: str) -> Response:
        _, by = operating(identify, request)
        wanted = await body_of(request, PlanRequest)
        content = wanted.model_dump(include={"steps", "checks", "roles"})
        return said(plan_shown(await parts.acceptance.plan(model_named(model), content, wanted.after, by, wanted.reason)))

    @routes.get("/v1/acceptance-plans/{model}", summary="The versions of what a model asks for", responses=shaped(200, "One page", PlanPage))
    async def page(request: Request, model: str, limit: Limit = 50, after: Annotated[int | None, Query(ge=1, le=2**31 - 1)] = None) -> Response:
        caller = require(identify(request), "merchant", "operator")
        rows = await parts.acceptance.plans(model_named(model), after, limit + 1)
        items = [plan_shown(row) | {"by": _by(row["person"], caller.role == "operator")} for row in rows[:limit]]
        return said({"items": items, "next": str(rows[limit - 1]["version"]) if len(rows) > limit else None})


def model_named(text: str) -> str:
    """A model as devices name it. Raises Problem not_found: no device has one of another form."""
    if DEVICE_MODEL.fullmatch(text) is None:
        raise Problem("not_found")
    return text


def _reads(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/devices/{device}/acceptance-tests", summary="Tests of a device, newest first", responses=shaped(200, "One page", TestPage))
    async def page(request: Request, device: str, limit: Limit = 50, after: str | None = None) -> Response:
        merchant_id, device_id = whose(identify(request), None), identified("device", device)
        await parts.devices.one(device_id, merchant_id)
        rows = await parts.acceptance.page(device_id, merchant_id, optional("acceptance_test", after), limit + 1)
        return said({"items": [shown(row) for row in rows[:limit]],
                     "next": show("acceptance_test", rows[limit - 1]["test_id"]) if len(rows) > limit else None})

    @routes.get("/v1/acceptance-tests/{test}", summary="One test: what it wants, what was shown, what is missing",
                responses=shaped(200, "The test", WholeTest))
    async def one(request: Request, test: str) -> Response:
        caller = identify(request)
        whole = await parts.acceptance.one(identified("acceptance_test", test), caller.merchant_id, caller.terminal_id)
        return said(_whole(whole, caller.role == "operator"))

    @routes.get("/v1/terminals/{terminal}/acceptance-test", summary="The test of a till that is running",
                responses=shaped(200, "The test", WholeTest))
    async def running(request: Request, terminal: str) -> Response:
        caller = identify(request)
        known = visible(parts.directory, caller, terminal)
        return said(_whole(await parts.acceptance.running(known.terminal_id), caller.role == "operator"))


def _moves(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    async def now(test_id: UUID, status: int = 200) -> Response:
        return said(_whole(await parts.acceptance.one(test_id, None), True), status)

    @routes.post("/v1/devices/{device}/acceptance-tests", status_code=201, summary="Open a test of a device that is installed",
                 responses=shaped(201, "The test, open", WholeTest) | refused(400, 409, 413, 415),
                 openapi_extra=documented(TestRequest, {"reason": "Before the opening of the store"}))
    async def open_(request: Request, device: str) -> Response:
        _, by = operating(identify, request)
        device_id, wanted = identified("device", device), await body_of(request, TestRequest)
        return await now(await parts.acceptance.open(device_id, by, wanted.reason), 201)

    @routes.post("/v1/acceptance-tests/{test}/moves", summary="The next step of a test; `repeat` opens the next test",
                 responses=shaped(200, "The test that is in hand now", WholeTest) | refused(400, 409, 413, 415),
                 openapi_extra=documented(TestMoveRequest, {"event": "begin", "reason": "Chen Jie is at the till"}))
    async def move(request: Request, test: str) -> Response:
        _, by = operating(identify, request)
        test_id, wanted = identified("acceptance_test", test), await body_of(request, TestMoveRequest)
        return await now(await parts.acceptance.move(test_id, wanted.event, by, wanted.reason))

    @routes.post("/v1/acceptance-tests/{test}/showings", status_code=201, summary="Name the transaction that shows a step; the books decide",
                 responses=shaped(201, "What was found", Showing) | refused(400, 409, 413, 415), openapi_extra=documented(ShowingRequest, {
                     "step": "receipt", "transaction": f"txn_{_ID}", "printed": {
                         "masked_pan": "**** **** **** 0003", "amount": 12300, "currency": "CNY", "rrn": "632900000017", "approval_code": "A1B2C3"}}))
    async def showing(request: Request, test: str) -> Response:
        caller = require(identify(request), "terminal", "operator")
        till = caller.terminal_id
        by = operating(identify, request)[1] if till is None else By(show("terminal", till), caller.key_id)
        test_id, wanted = identified("acceptance_test", test), await body_of(request, ShowingRequest)
        printed = None if wanted.printed is None else Printed(**wanted.printed.model_dump())
        row = await parts.acceptance.show(test_id, caller.merchant_id, caller.terminal_id, wanted.step, identified("transaction", wanted.transaction),
                                          printed, by)
        return said(_showing(row, caller.role == "operator"), 201)
