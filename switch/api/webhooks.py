"""Webhooks as merchants set them up and look after them; operators read them."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import asyncpg
from fastapi import APIRouter, Query, Request
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, paged, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.ids import show
from switch.notices.endpoints import PAGE_MAX, Endpoints
from switch.notices.webhooks import TYPES
from switch.security.pan import holds_card_number

EXAMPLE = {"url": "https://shop.example.com/webhooks", "types": ["transaction.approved", "transaction.reversed"], "description": "Back office"}
State = Literal["due", "delivered", "failed"]


def _known(types: list[str]) -> list[str]:
    if len(set(types)) != len(types) or not set(types) <= {*TYPES, "*"}:
        raise PydanticCustomError("types", "Each once, of the types in docs/webhooks.md, or * for all")
    return types


def _printable(text: str) -> str:
    if not text.isprintable():
        raise PydanticCustomError("description", "Printable characters")
    if holds_card_number(text):
        raise PydanticCustomError("card_number", "It must not hold a card number")
    return text


Url = Annotated[str, Field(min_length=8, max_length=500, description="https, public, without a user or fragment")]
Types = Annotated[list[Annotated[str, Field(max_length=60)]], Field(min_length=1, max_length=50), AfterValidator(_known)]
Description = Annotated[str, Field(max_length=200), AfterValidator(_printable)]


class WebhookRequest(Model):
    url: Url
    types: Types
    description: Description = ""


class WebhookChange(Model):
    """What is not said stays. `enabled` true tells the endpoint what happens from then on."""

    url: Url | None = None
    types: Types | None = None
    description: Description | None = None
    enabled: bool | None = None


MODELS = (WebhookRequest, WebhookChange)


class Webhook(Shape):
    id: str
    merchant: str
    url: str
    description: str
    types: list[str]
    state: Literal["enabled", "disabled"]
    disabled_reason: Literal["merchant", "gone", "failing"] | None
    disabled_at: str | None
    failing_since: str | None
    last_status: int | None
    last_fault: str | None
    old_secret_until: str | None
    per_second: int
    at_once: int
    created_at: str


class WebhookWithSecret(Webhook):
    """The secret is shown here and never again."""

    secret: str


class WebhookPage(Shape):
    items: list[Webhook]
    next: str | None


class Delivery(Shape):
    id: str
    type: str
    object: str
    state: State
    attempts: int
    next_attempt_at: str | None
    last_status: int | None
    last_fault: str | None
    happened_at: str
    created_at: str
    ended_at: str | None


class DeliveryPage(Shape):
    items: list[Delivery]
    next: str | None


class Attempt(Shape):
    """`answer`: the first characters of the answer, digits of possible card numbers replaced."""

    number: int
    ended_at: str
    duration_ms: int
    status: int | None
    fault: str | None
    answer: str | None


class DeliveryWithAttempts(Delivery):
    body: str
    log: list[Attempt]


class Parts(Protocol):
    webhooks: Endpoints


def _webhook(row: asyncpg.Record) -> dict[str, Any]:
    plain = ("url", "description", "types", "state", "disabled_reason", "last_status", "last_fault", "per_second", "at_once")
    times = ("disabled_at", "failing_since", "old_secret_until", "created_at")
    return {"id": show("webhook", row["endpoint_id"]), "merchant": show("merchant", row["merchant_id"]), **{name: row[name] for name in plain},
            **{name: stamp(row[name]) for name in times}}


def _delivery(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("webhook_event", row["event_id"]),
            **{name: row[name] for name in ("type", "object", "state", "attempts", "last_status", "last_fault")},
            "next_attempt_at": stamp(row["next_attempt_at"]) if row["state"] == "due" else None,
            **{name: stamp(row[name]) for name in ("happened_at", "created_at", "ended_at")}}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 403, 422, 503), tags=["webhooks"])
    _endpoints(routes, parts, identify)
    _deliveries(routes, parts, identify)
    return routes


def _owner(caller: Caller) -> Any:
    """The merchant who asks. Raises Problem forbidden: only a merchant's own key changes what it is told."""
    return require(caller, "merchant").merchant_id


def _endpoints(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/webhooks", summary="Be told of events at an address", status_code=201, openapi_extra=documented(WebhookRequest, EXAMPLE),
                 responses=shaped(201, "With the secret that signs, shown once", WebhookWithSecret) | refused(400, 409, 413, 415))
    async def create(request: Request) -> Response:
        merchant_id, wanted = _owner(identify(request)), await body_of(request, WebhookRequest)
        row, secret = await parts.webhooks.create(merchant_id, wanted.url, wanted.types, wanted.description)
        return said({**_webhook(row), "secret": secret}, 201)

    @routes.get("/v1/webhooks", summary="Endpoints, newest first; of all merchants for operators",
                responses=shaped(200, "One page", WebhookPage) | refused(404))
    async def page(request: Request, failing: bool = False, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
                   after: str | None = None) -> Response:
        caller = require(identify(request), "merchant", "operator")
        after_id = None if after is None else identified("webhook", after)
        rows = await parts.webhooks.page(caller.merchant_id, after_id, failing, limit + 1)
        return paged([_webhook(row) for row in rows], limit)

    @routes.get("/v1/webhooks/{webhook}", summary="One endpoint", responses=shaped(200, "As it is now", Webhook) | refused(404))
    async def get(request: Request, webhook: str) -> Response:
        caller = require(identify(request), "merchant", "operator")
        return said(_webhook(await parts.webhooks.get(caller.merchant_id, identified("webhook", webhook))))

    @routes.patch("/v1/webhooks/{webhook}", summary="Change an endpoint", openapi_extra=documented(WebhookChange, {"types": ["*"], "enabled": True}),
                  responses=shaped(200, "As it is now", Webhook) | refused(400, 404, 409, 413, 415))
    async def change(request: Request, webhook: str) -> Response:
        merchant_id = _owner(identify(request))
        endpoint_id, wanted = identified("webhook", webhook), await body_of(request, WebhookChange)
        return said(_webhook(await parts.webhooks.change(merchant_id, endpoint_id, **wanted.model_dump())))

    @routes.delete("/v1/webhooks/{webhook}", summary="Disable an endpoint; its log stays",
                   responses=shaped(200, "As it is now", Webhook) | refused(404))
    async def disable(request: Request, webhook: str) -> Response:
        merchant_id = _owner(identify(request))
        return said(_webhook(await parts.webhooks.change(merchant_id, identified("webhook", webhook), enabled=False)))

    @routes.post("/v1/webhooks/{webhook}/secret", summary="A new secret; the old one signs beside it for 24 hours",
                 responses=shaped(200, "With the new secret, shown once", WebhookWithSecret) | refused(404))
    async def rotate(request: Request, webhook: str) -> Response:
        merchant_id = _owner(identify(request))
        row, secret = await parts.webhooks.rotate(merchant_id, identified("webhook", webhook))
        return said({**_webhook(row), "secret": secret})


def _deliveries(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/webhooks/{webhook}/test", summary="Send a webhook.test to this endpoint", status_code=202,
                 responses=shaped(202, "Its delivery", Delivery) | refused(404, 409))
    async def test(request: Request, webhook: str) -> Response:
        merchant_id = _owner(identify(request))
        return said(_delivery(await parts.webhooks.test(merchant_id, identified("webhook", webhook))), 202)

    @routes.get("/v1/webhooks/{webhook}/deliveries", summary="What went to this endpoint, newest first",
                responses=shaped(200, "One page", DeliveryPage) | refused(404))
    async def page(request: Request, webhook: str, state: State | None = None, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
                   after: str | None = None) -> Response:
        caller = require(identify(request), "merchant", "operator")
        after_id = None if after is None else identified("webhook_event", after)
        rows = await parts.webhooks.deliveries(caller.merchant_id, identified("webhook", webhook), after_id, state, limit + 1)
        return paged([_delivery(row) for row in rows], limit)

    @routes.get("/v1/webhooks/{webhook}/deliveries/{event}", summary="One delivery with its body and each attempt",
                responses=shaped(200, "With its log", DeliveryWithAttempts) | refused(404))
    async def one(request: Request, webhook: str, event: str) -> Response:
        caller = require(identify(request), "merchant", "operator")
        endpoint_id, event_id = identified("webhook", webhook), identified("webhook_event", event)
        row = await parts.webhooks.delivery(caller.merchant_id, endpoint_id, event_id)
        attempts = await parts.webhooks.attempts(caller.merchant_id, endpoint_id, event_id)
        return said({**_delivery(row), "body": row["body"], "log": [{**dict(each), "ended_at": stamp(each["ended_at"])} for each in attempts]})

    @routes.post("/v1/webhooks/{webhook}/deliveries/{event}/redeliver", summary="Send it again, under the same webhook-id", status_code=202,
                 responses=shaped(202, "Its delivery", Delivery) | refused(404, 409))
    async def redeliver(request: Request, webhook: str, event: str) -> Response:
        merchant_id = _owner(identify(request))
        return said(_delivery(await parts.webhooks.redeliver(merchant_id, identified("webhook", webhook), identified("webhook_event", event))), 202)
