"""What follows an authorization: captures, increments, voids, tips, reversals and refunds, with their models."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, Protocol
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch.api import answers
from switch.api.documented import documented
from switch.api.merchant import may_see
from switch.api.onboard import said
from switch.api.shapes import FollowedUp, NotSold, TransactionNow, refused, shaped
from switch.api.terminal import (
    ANSWER_HEADERS,
    NOT_DIGIT,
    REPLAY_HEADERS,
    Card,
    Currency,
    Model,
    Reference,
    UndoReason,
    canonical,
    check_content,
    idempotency_key,
    model_of,
    one_of_each,
    read_body,
    request_deadline,
)
from switch.callers import Caller, following_up, working
from switch.clock import clock
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import read
from switch.money import AMOUNT_MAX
from switch.payments.asked import Door
from switch.payments.authorization import Authorizations
from switch.payments.cancellation import Cancellations
from switch.payments.desk import Told
from switch.payments.follow_ups import FollowUps, Wanted
from switch.payments.history import History
from switch.payments.transaction import REVERSING, SENT, Transaction
from switch.payments.translation import Order
from switch.security.vault import Vault

Amount = Annotated[int, Field(ge=1, le=AMOUNT_MAX)]


class CaptureRequest(Model):
    """Without `amount` what was authorised and is left, without the tolerance above it; `final` gives back what is left after it."""

    amount: Amount | None = None
    final: bool = False
    reference: Reference | None = None


class IncrementRequest(Model):
    """`amount` is added to what is authorised."""

    amount: Amount
    reference: Reference | None = None


class VoidRequest(Model):
    reference: Reference | None = None


class ReversalRequest(Model):
    """All of it is taken back. `reason`: chip_declined when the chip refused what was approved."""

    reason: UndoReason | None = None


class RefundRequest(Model):
    """Of an `authorization`, without `amount` all that is left; or, for merchants who may, to a `card` that nothing here was taken from."""

    authorization: Annotated[str, Field(max_length=64)] | None = None
    amount: Amount | None = None
    currency: Currency | None = None
    card: Card | None = None
    reference: Reference | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "RefundRequest":
        if (self.authorization is None) == (self.card is None):
            raise PydanticCustomError("authorization", "Send either authorization or card")
        if (self.card is None) != (self.currency is None) or (self.card is not None and self.amount is None):
            raise PydanticCustomError("currency", "card goes with amount and currency, authorization with neither currency nor card")
        return self


class TipRequest(Model):
    """`tip_amount` is added to what is captured."""

    tip_amount: Amount
    reference: Reference | None = None


MODELS = (CaptureRequest, IncrementRequest, VoidRequest, TipRequest, ReversalRequest, RefundRequest)


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    history: History
    vault: Vault
    follow_ups: FollowUps
    authorizations: Authorizations
    cancellations: Cancellations

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
    received_at = clock.now()
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

    @routes.post("/v1/authorizations/{authorization}/reversals", summary="Take back what this caller made; nothing may have followed it",
                 status_code=202, openapi_extra=described(ReversalRequest, {}),
                 responses=shaped(200, "Nothing stands any more", TransactionNow) | shaped(202, "It is being reversed", TransactionNow)
                 | refused(400, 403, 404, 409, 413, 415))
    async def reverse(request: Request, authorization: str) -> Response:
        told_of = await asked(parts, request, identify(request), ReversalRequest, now())
        original = await visible(parts, told_of.caller, authorization)
        fingerprint = parts.vault.fingerprint(b"reversals" + original.transaction_id.bytes + canonical(told_of.value))
        row = await parts.cancellations.reverse(original, told_of.owner, told_of.key, fingerprint, told_of.model.reason)
        duty = await parts.history.duty(row.transaction_id)
        return said(answers.current(row, duty), 202 if row.state in (REVERSING, SENT) else 200)

    @routes.post("/v1/refunds", summary="Give money back", status_code=201, responses=OUTCOMES,
                 openapi_extra=described(RefundRequest, {"authorization": "txn_0192f0c4-7c1e-7aaa-8bbb-1234567890ab", "amount": 1000}))
    async def refund(request: Request) -> Response:
        told_of = await asked(parts, request, identify(request), RefundRequest, now())
        wanted: RefundRequest = told_of.model
        if wanted.authorization is None:
            return answered(await unreferenced(told_of, wanted))
        original = await visible(parts, told_of.caller, wanted.authorization)
        fingerprint = parts.vault.fingerprint(b"refunds" + original.transaction_id.bytes + canonical(told_of.value))
        order = Wanted("refunds", wanted.amount, reference=wanted.reference)
        return answered(await parts.follow_ups.follow(order, original, told_of.owner, told_of.key, fingerprint, told_of.door))

    async def unreferenced(told_of: Asked, wanted: RefundRequest) -> Told:
        """To a card: a terminal's, since the acquirer knows it by number, and only where the merchant is permitted to."""
        seller, card = working(parts.directory, told_of.caller), wanted.card
        assert card is not None and wanted.amount is not None and wanted.currency is not None
        if not seller.merchant.unreferenced_refunds:
            raise Problem("forbidden", "This merchant may refund only what was sold here; name the authorization.")
        refuse_card_number(card, told_of.key, wanted.reference)
        order = Order("refund", wanted.amount, wanted.currency, None, "refuse", 0, 0, card.entry_mode, card.pan, card.expiry, card.track2,
                      card.sequence_number.zfill(3) if card.sequence_number else None, card.emv, card.pin.block if card.pin else None, None,
                      wanted.reference, None)
        fingerprint = parts.vault.fingerprint(b"refunds" + canonical(told_of.value))
        return await parts.authorizations.authorize(order, seller, told_of.key, fingerprint, told_of.door, "refunds")

    return routes


def refuse_card_number(card: Any, key: str, *texts: str | None) -> None:
    """Keys and references are stored and shown in clear. Raises Problem."""
    if card.pan.reveal() in key.replace("-", "").replace("_", ""):
        raise Problem("idempotency_key_malformed", "The key must not hold the card number: keys are stored in clear.")
    if any(text is not None and card.pan.reveal() in NOT_DIGIT.sub("", text) for text in texts):
        raise Problem("invalid", "A text must not hold the card number.",
                      errors=[{"field": "reference", "rule": "must not hold the card number", "type": "card_number"}])
