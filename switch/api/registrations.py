"""Individuals who register themselves: the one way to an applicant's key that asks for none."""

from typing import Protocol

from fastapi import APIRouter, Request
from starlette.responses import Response

from switch.api.applications import PROFILE, BegunApplication, RegistrationRequest, plain_profile, whole_shown
from switch.api.documented import documented
from switch.api.heartbeats import client_of
from switch.api.onboard import body_of, said
from switch.api.shapes import refused, shaped
from switch.merchants.applications.desk import Desk
from switch.merchants.applications.registration import Registrations
from switch.settings import Settings


class Parts(Protocol):
    """What this route needs of the switch."""

    desk_of_applications: Desk
    registrations: Registrations
    settings: Settings

    def admit(self) -> None: ...


def router(parts: Parts) -> APIRouter:
    routes = APIRouter(tags=["applications"], responses=refused(401, 403, 404, 422, 503))

    @routes.post("/v1/registrations", status_code=201, summary="Apply as an individual without a key; the answer holds the applicant's, once",
                 responses=shaped(201, "A draft, and what it needs", BegunApplication) | refused(400, 413, 415, 429),
                 openapi_extra=documented(RegistrationRequest, {
                     "country": "CN", "profile": {**PROFILE, "name": "李娜", "monthly_volume": 1_000_000}}) | {"security": []})
    async def register(request: Request) -> Response:
        wanted = await body_of(request, RegistrationRequest)
        parts.admit()
        identity, key = await parts.registrations.register(wanted.country, plain_profile(wanted.profile), client_of(request, parts.settings))
        return said({**whole_shown(await parts.desk_of_applications.one(identity), False), "key": key}, 201)

    return routes
