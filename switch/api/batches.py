"""Terminals close their batch with what they counted; the switch says whether its books agree, and which transactions differ."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from fastapi import APIRouter, Query, Request
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.disputes import answered, asked_json
from switch.api.documented import documented
from switch.api.follow_ups import described
from switch.api.heartbeats import visible
from switch.api.onboard import body_of, identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Currency, Model
from switch.callers import Caller, require, working
from switch.database import Connection, Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import read, show
from switch.money import AMOUNT_MAX
from switch.security.vault import Vault
from switch.settlement.batches.counts import PAGE_MAX, Batches, Closed, Counted
from switch.settlement.batches.forwarding import Forwarding
from switch.settlement.batches.totals import Sums

LISTED_MAX = 1000
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Sum = Annotated[int, Field(ge=0, le=99 * AMOUNT_MAX)]
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


class CountedTotals(Model):
    """What the terminal counted in one currency since its last close, minor units. What was voided counts as nothing."""

    currency: Currency
    sales_count: Count
    sales: Sum
    refunds_count: Count
    refunds: Sum


class CountedTransaction(Model):
    """`amount` is negative for a refund."""

    transaction: Annotated[str, Field(max_length=64)]
    amount: Annotated[int, Field(ge=-AMOUNT_MAX, le=AMOUNT_MAX)]


class BatchRequest(Model):
    """`transactions`: each of them, if the terminal keeps a list; then the answer names exactly those that differ."""

    totals: Annotated[list[CountedTotals], Field(max_length=20)]
    transactions: Annotated[list[CountedTransaction], Field(max_length=LISTED_MAX)] | None = None

    @model_validator(mode="after")
    def _each_once(self) -> "BatchRequest":
        if len({each.currency for each in self.totals}) < len(self.totals):
            raise PydanticCustomError("totals", "Each currency once")
        if self.transactions is not None and len({each.transaction.lower() for each in self.transactions}) < len(self.transactions):
            raise PydanticCustomError("transactions", "Each transaction once")
        return self


class BatchTermsRequest(Model):
    """Whether the acquirer gets the totals of its terminals' batches (0500), if its dialect has the message."""

    forward: bool


MODELS = (BatchRequest, BatchTermsRequest)


class ShownSums(Shape):
    sales_count: int
    sales: int
    refunds_count: int
    refunds: int


class ShownTotals(Shape):
    """`difference` is what the terminal counted less what the books say."""

    currency: str
    terminal: ShownSums
    books: ShownSums
    difference: ShownSums


class ShownDifference(Shape):
    """`only_terminal`, `only_books`, `amount`: by the terminal's list. `suspect`: no list was given, and its amount alone explains the difference."""

    kind: Literal["only_terminal", "only_books", "amount", "suspect"]
    transaction: str
    terminal_amount: int | None
    books_amount: int | None


class AcquirerTotals(Shape):
    """Our figures for one acquirer and currency, and what it says of them; `waiting` until it has answered. `upload`: whether the transactions that
    it did not agree with have been told, and taken; null where nothing is."""

    acquirer: str
    currency: str
    sales_count: int
    sales: int
    refunds_count: int
    refunds: int
    state: Literal["not_forwarded", "waiting", "in_balance", "out_of_balance", "refused"]
    code: str | None
    answered_at: str | None
    upload: Literal["waiting", "accepted", "refused"] | None


class Batch(Shape):
    """A closed batch. In balance or not, the next one begins at `closed_at`."""

    id: str
    terminal: str
    number: int
    opened_at: str | None
    closed_at: str
    in_balance: bool
    totals: list[ShownTotals]
    differences: list[ShownDifference]
    acquirers: list[AcquirerTotals]


class BatchPage(Shape):
    """The latest first; `next` goes into `after`, null at the end."""

    items: list[Batch]
    next: str | None


class BatchTerms(Shape):
    acquirer: str
    forward: bool


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    writers: Pool
    vault: Vault
    batches: Batches
    forwarding: Forwarding

    def admit(self) -> None: ...


def _shown(closed: Closed) -> dict[str, Any]:
    row = closed.row
    acquirers = [{"acquirer": show("acquirer", each["acquirer_id"]), "answered_at": stamp(each["answered_at"]),
                  **{name: each[name] for name in ("currency", "sales_count", "sales", "refunds_count", "refunds", "state", "code", "upload")}}
                 for each in closed.acquirers]
    return {"id": show("batch", row["batch_id"]), "terminal": show("terminal", row["terminal_id"]), "number": row["number"],
            **{name: stamp(row[name]) for name in ("opened_at", "closed_at")}, "in_balance": row["in_balance"],
            **{name: json.loads(row[name]) for name in ("totals", "differences")}, "acquirers": acquirers}


def _counted(body: BatchRequest) -> Counted:
    """Raises Problem invalid: an id in the list is none."""
    sums = {each.currency: Sums(each.sales_count, each.sales, each.refunds_count, each.refunds) for each in body.totals}
    if body.transactions is None:
        return Counted(sums, None)
    listed = {}
    for place, each in enumerate(body.transactions):
        identity = read("transaction", each.transaction)
        if identity is None:
            raise Problem("invalid", "An id is none.", errors=[{"field": f"transactions.{place}", "rule": "txn_...", "type": "rule"}])
        listed[identity] = each.amount
    return Counted(sums, listed)


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["batches"], responses=refused(401, 403, 404, 422, 503))
    _batches(routes, parts, identify)
    _terms(routes, parts, identify)
    return routes


def _visible(parts: Parts, caller: Caller, shown_id: str) -> tuple[UUID, UUID | None]:
    """The terminal, and whose it must be. Raises Problem not_found."""
    return visible(parts.directory, caller, shown_id).terminal_id, caller.merchant_id


def _batches(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.post("/v1/terminals/{terminal}/batches", status_code=201, summary="Close the terminal's batch with what it counted",
                 responses=shaped(201, "It is closed; `in_balance` says whether the books agree", Batch) | refused(400, 409, 413, 415),
                 openapi_extra=described(BatchRequest, {"totals": [
                     {"currency": "CNY", "sales_count": 2, "sales": 15_000, "refunds_count": 1, "refunds": 2500}]}))
    async def close(request: Request, terminal: str) -> Response:
        caller = require(identify(request), "terminal")
        seller, (terminal_id, _) = working(parts.directory, caller), _visible(parts, caller, terminal)
        asked, body = await asked_json(parts, request, caller, "batches", BatchRequest)
        asked, counted = asked._replace(caller=show("terminal", terminal_id)), _counted(body)

        async def work(connection: Connection) -> dict[str, Any]:
            return _shown(await parts.batches.close(connection, seller.merchant.merchant_id, terminal_id, counted))

        response = await answered(parts, asked, 201, work)
        parts.forwarding.asked.set()
        return response

    @routes.get("/v1/terminals/{terminal}/batches", summary="A terminal's batches, the latest first", responses=shaped(200, "One page", BatchPage))
    async def page(request: Request, terminal: str, limit: Limit = 50, after: str | None = None) -> Response:
        terminal_id, merchant_id = _visible(parts, identify(request), terminal)
        found = await parts.batches.page(terminal_id, merchant_id, None if after is None else identified("batch", after), limit + 1)
        return said({"items": [_shown(each) for each in found[:limit]],
                     "next": show("batch", found[limit - 1].row["batch_id"]) if len(found) > limit else None})

    @routes.get("/v1/terminals/{terminal}/batches/{batch}", summary="One batch, with what its acquirers say",
                responses=shaped(200, "The batch", Batch))
    async def one(request: Request, terminal: str, batch: str) -> Response:
        terminal_id, merchant_id = _visible(parts, identify(request), terminal)
        return said(_shown(await parts.batches.one(identified("batch", batch), terminal_id, merchant_id)))


def _terms(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/acquirers/{acquirer}/batch-terms", summary="Whether an acquirer gets the totals of terminals",
                responses=shaped(200, "As it is now", BatchTerms))
    async def get(request: Request, acquirer: str) -> Response:
        require(identify(request), "operator")
        return said({"acquirer": acquirer, "forward": await parts.batches.forward(identified("acquirer", acquirer))})

    @routes.put("/v1/acquirers/{acquirer}/batch-terms", summary="Arrange it, for batches from now on",
                openapi_extra=documented(BatchTermsRequest, {"forward": True}),
                responses=shaped(200, "As it is now", BatchTerms) | refused(400, 413, 415))
    async def put(request: Request, acquirer: str) -> Response:
        caller = require(identify(request), "operator")
        acquirer_id, wanted = identified("acquirer", acquirer), await body_of(request, BatchTermsRequest)
        logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
        return said({"acquirer": acquirer, "forward": await parts.batches.set_forward(acquirer_id, wanted.forward)})
