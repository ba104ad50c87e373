"""What follows an authorization: captures, increments, voids, tips, reversals and refunds, with their models."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, Protocol
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from switch.api import answers
from switch.api.documented import documented
from switch.api.merchant import may_see
from switch.api.shapes import FollowedUp, NotSold, refused, shaped
from switch.api.terminal import (
    ANSWER_HEADERS,
    REPLAY_HEADERS,
    Model,
    Text,
    canonical,
    check_content,
    idempotency_key,
    model_of,
    one_of_each,
    read_body,
    request_deadline,
)
from switch.callers import Caller, following_up
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import read
from switch.money import AMOUNT_MAX
from switch.payments.authorization import Door
from switch.payments.desk import Told
from switch.payments.follow_ups import FollowUps, Wanted
from switch.payments.history import History
from switch.payments.transaction import Transaction
from switch.security.vault import Vault

Amount = Annotated[int, Field(ge=1, le=AMOUNT_MAX)]


class CaptureRequest(Model):
    """Without `amount` all that is left; `final` gives back what is left after it."""

    amount: Amount | None = None
    final: bool = False
    reference: Text | None = None


class IncrementRequest(Model):
    """`amount` is added to what is authorised."""

    amount: Amount
    reference: Text | None = None


class VoidRequest(Model):
    reference: Text | None = None


class TipRequest(Model):
    """`tip_amount` is added to what is captured."""

    tip_amount: Amount
    reference: Text | None = None


MODELS = (CaptureRequest, IncrementRequest, VoidRequest, TipRequest)


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    history: History
    vault: Vault
    follow_ups: FollowUps

    def admit(self) -> None: ...


class Asked(NamedTuple):
    """A follow-up request that was read and checked, before its original is looked up."""

    caller: Caller
    owner: UUID  # of the key: a terminal, or the merchant
    key: str
    model: Any
    value: Any
    door: Door


async def asked(parts: Parts, request: Request, caller: Caller, model: type[Model], at: float) -> Asked:
    """Raises Problem: forbidden, idempotency_key_*, content_*, json_*, invalid, deadline_too_short, and what `admit` raises."""
    received_at = datetime.now(UTC)
    headers = one_of_each(request.scope["headers"])
    owner = following_up(parts.directory, caller)
    key = idempotency_key(headers.get(b"idempotency-key"))
    check_content(headers)
    deadline_s = request_deadline(headers.get(b"request-deadline"))
    checked, value = model_of(model, await read_body(headers, request.receive))
    parts.admit()
    return Asked(caller, owner, key, checked, value, Door(at, received_at, deadline_s))


async def visible(parts: Parts, caller: Caller, shown_id: str) -> Transaction:
    """Raises Problem not_found: foreign and absent are the same."""
    transaction_id = read("transaction", shown_id)
    row = await parts.history.transaction(transaction_id) if transaction_id is not None else None
    if row is None or not may_see(caller, row):
        raise Problem("not_found")
    return row


def answered(told: Told) -> Response:
    status, body = answers.follow_up(told.transaction)
    headers = REPLAY_HEADERS if told.replayed else ANSWER_HEADERS
    return Response(body, status, {name.decode(): value.decode() for name, value in headers})


KEY_HEADER = {"name": "Idempotency-Key", "in": "header", "required": True, "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{16,64}$"},
              "description": "Made and stored by the caller before it sends; the same key gives the same answer for ever."}
OUTCOMES = (shaped(201, "The outcome; a decline is an outcome. Replays byte for byte.", FollowedUp)
            | shaped(202, "No outcome yet: an advice is repeated until it is answered, a request in doubt is reversed", NotSold)
            | refused(400, 403, 404, 409, 413, 415))


def described(model: type[Model], example: dict[str, Any]) -> dict[str, Any]:
    return documented(model, example) | {"parameters": [KEY_HEADER]}


def router(parts: Parts, identify: Callable[[Request], Caller], now: Callable[[], float]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 422, 503), tags=["follow-ups"])

    async def follow(request: Request, authorization: str, model: type[Model], wanted: Callable[[Any], Wanted]) -> Response:
        told_of = await asked(parts, request, identify(request), model, now())
        original = await visible(parts, told_of.caller, authorization)
        order = wanted(told_of.model)
        fingerprint = parts.vault.fingerprint(order.route.encode() + original.transaction_id.bytes + canonical(told_of.value))
        return answered(await parts.follow_ups.follow(order, original, told_of.owner, told_of.key, fingerprint, told_of.door))

    @routes.post("/v1/authorizations/{authorization}/captures", summary="Take money that was authorised", status_code=201, responses=OUTCOMES,
                 openapi_extra=described(CaptureRequest, {"amount": 4000}))
    async def capture(request: Request, authorization: str) -> Response:
        return await follow(request, authorization, CaptureRequest, lambda body: Wanted("captures", body.amount, body.final, body.reference))

    @routes.post("/v1/authorizations/{authorization}/increments", summary="Raise what is authorised", status_code=201, responses=OUTCOMES,
                 openapi_extra=described(IncrementRequest, {"amount": 1000}))
    async def increment(request: Request, authorization: str) -> Response:
        return await follow(request, authorization, IncrementRequest, lambda body: Wanted("increments", body.amount, reference=body.reference))

    @routes.post("/v1/authorizations/{authorization}/voids", summary="Take all of it back before its day is closed", status_code=201,
                 responses=OUTCOMES, openapi_extra=described(VoidRequest, {}))
    async def void(request: Request, authorization: str) -> Response:
        return await follow(request, authorization, VoidRequest, lambda body: Wanted("voids", reference=body.reference))

    @routes.post("/v1/authorizations/{authorization}/tips", summary="Add a tip to what is captured", status_code=201, responses=OUTCOMES,
                 openapi_extra=described(TipRequest, {"tip_amount": 500}))
    async def tip(request: Request, authorization: str) -> Response:
        return await follow(request, authorization, TipRequest, lambda body: Wanted("tips", body.tip_amount, reference=body.reference))

    return routes
