"""An acquirer's terms and a merchant's permissions, as operators read and set them."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.database import Pool
from switch.ids import show
from switch.merchants.terms import Terms, permit, set_terms, terms_of


class TermsRequest(Model):
    """The most particular terms hold for an authorization; the MCC goes before the brand."""

    mcc: Annotated[str, Field(pattern=r"^([0-9]{4}|[*])$")] = "*"
    brand: Annotated[str, Field(max_length=20)] = "*"
    completion_basis_points: Annotated[int, Field(ge=0, le=10_000)] = 0
    tip_basis_points: Annotated[int, Field(ge=0, le=10_000)] = 0
    valid_hours: Annotated[int, Field(ge=1, le=8784)] = 168


class PermissionsRequest(Model):
    """`unreferenced_refunds`: money may be given back that no sale here took."""

    unreferenced_refunds: bool


MODELS = (TermsRequest, PermissionsRequest)


class ShownTerms(Shape):
    acquirer: str
    mcc: str
    brand: str
    completion_basis_points: int
    tip_basis_points: int
    valid_hours: int


class AllTerms(Shape):
    items: list[ShownTerms]
    next: None


class Permissions(Shape):
    merchant: str
    unreferenced_refunds: bool


def _shown(terms: Terms) -> dict[str, Any]:
    shown = asdict(terms)
    return {"acquirer": show("acquirer", shown.pop("acquirer_id")), **shown}


def router(pool: Callable[[], Pool], identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 403, 404, 422, 503), tags=["onboarding"])

    @routes.put("/v1/acquirers/{acquirer}/terms", summary="Tolerance, tips and validity of authorizations from now on",
                openapi_extra=documented(TermsRequest, {"brand": "unionpay", "completion_basis_points": 1500, "valid_hours": 720}),
                responses=shaped(200, "As they are now", ShownTerms) | refused(400, 413, 415))
    async def put(request: Request, acquirer: str) -> Response:
        require(identify(request), "operator")
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, TermsRequest)
        return said(_shown(await set_terms(pool(), Terms(acquirer_id, **wanted.model_dump()))))

    @routes.get("/v1/acquirers/{acquirer}/terms", summary="All terms of an acquirer", responses=shaped(200, "All of them", AllTerms))
    async def get(request: Request, acquirer: str) -> Response:
        require(identify(request), "operator")
        return said({"items": [_shown(terms) for terms in await terms_of(pool(), identified("acquirer", acquirer))], "next": None})

    @routes.put("/v1/merchants/{merchant}/permissions", summary="What this merchant may do that others may not",
                openapi_extra=documented(PermissionsRequest, {"unreferenced_refunds": False}),
                responses=shaped(200, "As they are now", Permissions) | refused(400, 413, 415))
    async def permissions(request: Request, merchant: str) -> Response:
        require(identify(request), "operator")
        merchant_id, wanted = identified("merchant", merchant), await body_of(request, PermissionsRequest)
        await permit(pool(), merchant_id, wanted.unreferenced_refunds)
        return said({"merchant": show("merchant", merchant_id), "unreferenced_refunds": wanted.unreferenced_refunds})

    return routes
