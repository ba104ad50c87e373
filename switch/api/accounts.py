"""How operators set an acquirer up: the options of its plug-in and the secret that signs what we say to it."""

from collections.abc import Callable
from typing import Annotated, Protocol

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.ids import show
from switch.merchants.accounts import Accounts, Set

EXAMPLE = {"options": {"client": "shop-0042", "pay_within_s": "90", "qr_guid": "com.example.wallet"}, "secret": "as-agreed-with-the-wallet-0001"}


class AccountRequest(Model):
    """`options` replace all that stand. Without `secret` the one that stands stays; it is never shown."""

    options: Annotated[dict[Annotated[str, Field(max_length=40)], Annotated[str, Field(max_length=200)]], Field(max_length=32)]
    secret: Annotated[str, Field(min_length=1, max_length=512)] | None = None


class AccountShape(Shape):
    acquirer: str
    dialect: str
    options: dict[str, str]
    secret_at: str | None


MODELS = (AccountRequest,)


class Parts(Protocol):
    """What these routes need of the switch."""

    accounts: Accounts


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 403, 404, 422, 503), tags=["onboarding"])

    def shown(acquirer: str, account: Set) -> Response:
        return said({"acquirer": acquirer, **account._asdict(), "secret_at": stamp(account.secret_at)})

    @routes.get("/v1/acquirers/{acquirer}/account", summary="How an acquirer is set up; never its secret",
                responses=shaped(200, "The account", AccountShape))
    async def get(request: Request, acquirer: str) -> Response:
        require(identify(request), "operator")
        acquirer_id = identified("acquirer", acquirer)
        return shown(show("acquirer", acquirer_id), await parts.accounts.get(acquirer_id))

    @routes.put("/v1/acquirers/{acquirer}/account", summary="Set an acquirer up: options of its plug-in, and its secret",
                openapi_extra=documented(AccountRequest, EXAMPLE),
                responses=shaped(200, "The account as it stands now", AccountShape) | refused(400, 413, 415))
    async def put(request: Request, acquirer: str) -> Response:
        require(identify(request), "operator")
        acquirer_id = identified("acquirer", acquirer)
        wanted: AccountRequest = await body_of(request, AccountRequest)
        return shown(show("acquirer", acquirer_id), await parts.accounts.set(acquirer_id, wanted.options, wanted.secret))

    return routes
