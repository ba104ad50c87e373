"""Applications for reviewers: the queue, a look at each document, the score with its reasons, and the decision."""

from collections.abc import Callable
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from switch.api.applications import Parts, Reason, ShownApplication, State, WholeApplication, shown, whole_shown
from switch.api.devices import optional
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.operators import operators, person
from switch.api.resolving import EXAMPLES, shown_approval
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller
from switch.ids import show
from switch.merchants.applications.desk import PAGE_MAX, Wanted
from switch.merchants.applications.life import WAITS_FOR
from switch.merchants.applications.review import APPROVE, Decision
from switch.payments.resolution import Person

Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


class TakeRequest(Model):
    """From the queue; with `take_over` also from a colleague who has it, which stands in its story."""

    reason: Reason
    take_over: bool = False


class VerdictRequest(Model):
    """What you found of a document's newest version."""

    verdict: Literal["accepted", "refused"]
    reason: Reason


class DecisionRequest(Model):
    """`version`: of the application that you looked at. An approval that needs two people waits for the second one."""

    decision: Literal["approve", "refuse", "ask_more"]
    version: Annotated[int, Field(ge=1, le=2**31 - 2)]
    reason: Reason


class ApplicantKeyRequest(Model):
    """A new key; those before end."""


MODELS = (TakeRequest, VerdictRequest, DecisionRequest, ApplicantKeyRequest)


class ApplicationPage(Shape):
    """`next` goes into `after`, null at the end."""

    items: list[ShownApplication]
    next: str | None


class ShownReason(Shape):
    points: int
    rule: str
    words: str


class ShownScore(Shape):
    """As it would be decided about now: 0 to 100, from 100 on with the points of each reason. `two_people`: why two must agree."""

    application: str
    version: int
    score: int
    reasons: list[ShownReason]
    two_people: list[str]


class ShownApplicantKey(Shape):
    """The key is in this answer and nowhere else."""

    application: str
    key: str


WAITS: dict[int | str, dict[str, Any]] = {202: {"description": "It waits for a second person", "content": {"application/json": {
    "example": {**EXAMPLES["approval"], "kind": APPROVE, "object": f"apl_{EXAMPLES['approval']['id'][4:]}",
                "payload": {"version": 3, "score": 60, "why_two": ["The score is below 70."]}}}}}}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(tags=["reviews"], responses=refused(401, 403, 404, 422, 503))
    _queue(routes, parts, operator)
    _decisions(routes, parts, operator)
    return routes


def _paged(rows: list[Any], limit: int) -> Response:
    return said({"items": [shown(row, True) for row in rows[:limit]],
                 "next": show("application", rows[limit - 1]["application_id"]) if len(rows) > limit else None})


def _by(caller: Caller) -> Person:
    return Person(person(caller), caller.key_id)


def _queue(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any]) -> None:
    @routes.get("/v1/applications", summary="All applications, newest first", dependencies=[Depends(operator)],
                responses=shaped(200, "One page", ApplicationPage))
    async def page(limit: Limit = 50, after: str | None = None, state: State | None = None) -> Response:
        return _paged(await parts.desk_of_applications.page(state, optional("application", after), limit + 1), limit)

    @routes.get("/v1/reviews", summary="What waits, and for whom: the most urgent first", dependencies=[Depends(operator)],
                responses=shaped(200, "One page", ApplicationPage))
    async def queue(limit: Limit = 50, after: str | None = None, state: State | None = None,
                    waits_for: Literal["applicant", "reviewer"] | None = "reviewer", overdue: bool | None = None,
                    reviewer: Annotated[str | None, Query(max_length=140)] = None) -> Response:
        states = None if waits_for is None else [each for each, whom in WAITS_FOR.items() if whom == waits_for]
        wanted = Wanted(state, states, overdue, reviewer, optional("application", after))
        return _paged(await parts.desk_of_applications.queue(wanted, limit + 1), limit)

    @routes.get("/v1/applications/{application}/score", summary="The score with every reason and its points", dependencies=[Depends(operator)],
                responses=shaped(200, "As of now", ShownScore))
    async def score(application: str) -> Response:
        known, version = await parts.desk_of_applications.score(identified("application", application))
        return said({"application": application, "version": version, "score": known.score, "reasons": [each._asdict() for each in known.reasons],
                     "two_people": known.by_two})


def _decisions(routes: APIRouter, parts: Parts, operator: Callable[[Request], Any]) -> None:
    moves = shaped(200, "As it is now", WholeApplication) | refused(400, 409, 413, 415)

    async def now(application_id: UUID) -> Response:
        return said(whole_shown(await parts.desk_of_applications.one(application_id), True))

    @routes.post("/v1/applications/{application}/take", summary="Review it: from the queue, or from a colleague", responses=moves,
                 openapi_extra=documented(TakeRequest, {"reason": "Next in the queue"}))
    async def take(request: Request, application: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        identity, wanted = identified("application", application), await body_of(request, TakeRequest)
        await parts.review.take(identity, _by(caller), wanted.reason, wanted.take_over)
        return await now(identity)

    @routes.post("/v1/applications/{application}/documents/{document}/verdicts", summary="Accept or refuse a document", responses=moves,
                 openapi_extra=documented(VerdictRequest, {"verdict": "refused", "reason": "The stamp cannot be read"}))
    async def judge(request: Request, application: str, document: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        identity, wanted = identified("application", application), await body_of(request, VerdictRequest)
        await parts.papers.judge(identity, identified("document", document), wanted.verdict, wanted.reason, _by(caller))
        return await now(identity)

    @routes.post("/v1/applications/{application}/decisions", summary="Approve, refuse, or ask for more",
                 responses=moves | WAITS, openapi_extra=documented(DecisionRequest, {
                     "decision": "ask_more", "version": 3, "reason": "The licence is cut off at the right side"}))
    async def decide(request: Request, application: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        identity, wanted = identified("application", application), await body_of(request, DecisionRequest)
        parts.admit()
        decision = Decision(wanted.decision, wanted.version, wanted.reason)
        two = await parts.review.decide(identity, decision, _by(caller))
        if not two:
            return await now(identity)
        known, _ = await parts.desk_of_applications.score(identity)
        payload = {"version": wanted.version, "score": known.score, "why_two": two}
        approval = await parts.approvals.request(APPROVE, show("application", identity), payload, wanted.reason, _by(caller))
        return said(shown_approval(approval), 202)

    @routes.post("/v1/applications/{application}/keys", status_code=201, summary="A new key for an applicant who lost its own",
                 responses=shaped(201, "The key, shown once", ShownApplicantKey) | refused(400, 413, 415),
                 openapi_extra=documented(ApplicantKeyRequest, {}))
    async def key(request: Request, application: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        identity, _ = identified("application", application), await body_of(request, ApplicantKeyRequest)
        return said({"application": application, "key": await parts.review.key(identity)}, 201)
