"""What terminals post of sales that they approved offline, with its models."""

from collections.abc import Callable
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch.api import answers
from switch.api.follow_ups import Amount, asked, described, refuse_card_number
from switch.api.follow_ups import Parts as FollowUpParts
from switch.api.shapes import Accepted, NotSold, refused, shaped
from switch.api.terminal import ANSWER_HEADERS, REPLAY_HEADERS, CardNumber, Currency, Expiry, Model, Reference, canonical
from switch.callers import Caller, working
from switch.payments.offline import ROUTE, OfflineSales
from switch.payments.translation import Order


class OfflineCard(Model):
    """What is left of the card after the sale: no track, no PIN, no security code."""

    entry_mode: Literal["chip", "contactless", "magstripe", "manual", "fallback"]
    pan: CardNumber
    expiry: Expiry
    sequence_number: Annotated[str, Field(pattern=r"^[0-9]{1,3}$")] | None = None


class AdviceRequest(Model):
    """A sale that the terminal approved without asking; `approval_code` is the chip's or the voice's."""

    amount: Amount
    currency: Currency
    card: OfflineCard
    approval_code: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,6}$")]
    tip_amount: Amount | None = None
    terminal_trace: Annotated[str, Field(pattern=r"^[0-9A-Za-z]{1,12}$")] | None = None
    reference: Reference | None = None

    @model_validator(mode="after")
    def _sums(self) -> "AdviceRequest":
        if (self.tip_amount or 0) > self.amount:
            raise PydanticCustomError("amount", "tip_amount is a part of amount")
        return self


MODELS = (AdviceRequest,)
EXAMPLE = {"amount": 2500, "currency": "CNY", "approval_code": "Y1", "terminal_trace": "000018",
           "card": {"entry_mode": "chip", "pan": "6212345678900000003", "expiry": "3012"}}


class Parts(FollowUpParts, Protocol):
    """What these routes need of the switch."""

    offline: OfflineSales


def router(parts: Parts, identify: Callable[[Request], Caller], now: Callable[[], float]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 422, 503), tags=["follow-ups"])

    @routes.post("/v1/advices", summary="A sale approved offline: accepted when it is written down", status_code=201,
                 openapi_extra=described(AdviceRequest, EXAMPLE),
                 responses=shaped(201, "Written down; it will be said until it is answered. Replays byte for byte.", Accepted)
                 | shaped(202, "It has been cancelled since", NotSold) | refused(400, 403, 409, 413, 415))
    async def advise(request: Request) -> Response:
        told_of = await asked(parts, request, identify(request), AdviceRequest, now())
        seller, wanted = working(parts.directory, told_of.caller), told_of.model
        refuse_card_number(wanted.card, told_of.key, wanted.reference)
        sequence = wanted.card.sequence_number
        order = Order("offline_sale", wanted.amount, wanted.currency, "automatic", "refuse", wanted.tip_amount or 0, 0, wanted.card.entry_mode,
                      wanted.card.pan, wanted.card.expiry, None, sequence.zfill(3) if sequence else None, None, None, wanted.terminal_trace,
                      wanted.reference, None)
        fingerprint = parts.vault.fingerprint(ROUTE.encode() + canonical(told_of.value))
        told = await parts.offline.accept(order, seller, wanted.approval_code, told_of.key, fingerprint, told_of.door)
        status, body = answers.accepted(told.transaction)
        headers = REPLAY_HEADERS if told.replayed else ANSWER_HEADERS
        return Response(body, status, {name.decode(): value.decode() for name, value in headers})

    return routes
