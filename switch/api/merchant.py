"""What merchants and terminals read: transactions, their list and story; and cancelling by key."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from switch.api import answers, story
from switch.api.days import From, To, in_order
from switch.api.documented import documented
from switch.api.download import Download, Places, books
from switch.api.onboard import said
from switch.api.shapes import Burnt, PaymentStatus, Status, Story, TransactionNow, TransactionPage, refused, shaped
from switch.api.terminal import CancellationRequest, check_content, idempotency_key, model_of, one_of_each, read_body
from switch.callers import Caller, working
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import read, show
from switch.payments.cancellation import Cancellations
from switch.payments.history import PAGE_MAX, Filter, History
from switch.payments.transaction import REVERSING, SENT, STATE_OF, Transaction
from switch.payments.undelivered import Undelivered
from switch.settlement.exports import files
from switch.settlement.exports.cells import MEDIA
from switch.settlement.exports.files import Connect

Type = Literal["purchase", "preauthorization", "cash_advance", "balance_inquiry", "account_verification", "capture", "increment", "void",
               "tip", "refund", "offline_sale"]

_PAGE_OR_FILE: dict[int | str, dict[str, Any]] = {200: {
    "description": "One page, or with format=csv all of them", "model": TransactionPage, "content": {"text/csv": {"schema": {"type": "string"}}}}}
NOW = shaped(200, "As it stands now", TransactionNow) | refused(404)


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    history: History
    cancellations: Cancellations
    undelivered: Undelivered
    places: Places

    def reader(self) -> Connect: ...


def _identified(kind: str, text: str | None) -> UUID | None:
    """Raises Problem not_found: an id of another form is as absent as one that does not exist."""
    if text is None:
        return None
    found = read(kind, text)
    if found is None:
        raise Problem("not_found")
    return found


def may_see(caller: Caller, row: Transaction) -> bool:
    """Terminals and staff see what their store made, a merchant all of the merchant's, an operator all."""
    if caller.role == "operator":
        return True
    return row.merchant_id == caller.merchant_id and caller.store_id in (None, row.store_id)


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 422, 503))

    async def visible(request: Request, shown_id: str) -> Transaction:
        caller, transaction_id = identify(request), _identified("transaction", shown_id)
        row = await parts.history.transaction(transaction_id) if transaction_id is not None else None
        if row is None or not may_see(caller, row):
            raise Problem("not_found")
        return row

    @routes.post("/v1/cancellations", tags=["terminals"], summary="Undo by key: the terminal lost the answer", status_code=202,
                 responses=shaped(200, "Nothing stands under this key", TransactionNow | Burnt) | shaped(202, "It is being reversed", TransactionNow)
                 | refused(400, 403, 409, 413, 415),
                 openapi_extra=documented(CancellationRequest, {"idempotency_key": "0192f0c4-7c1e-7aaa-8bbb-1234567890ab"}))
    async def cancel(request: Request) -> Response:
        caller = identify(request)
        seller = working(parts.directory, caller)
        headers = one_of_each(request.scope["headers"])
        if b"idempotency-key" in headers:  # not needed: a cancellation may be repeated as it is
            idempotency_key(headers[b"idempotency-key"])
        check_content(headers)
        wanted, _ = model_of(CancellationRequest, await read_body(headers, request.receive))
        row = await parts.cancellations.cancel(seller.merchant.merchant_id, seller.terminal.terminal_id, wanted.idempotency_key, wanted.reason)
        if row is None:
            return said({"id": None, "status": "cancelled", "advice": "new_payment_allowed"})
        duty = await parts.history.duty(row.transaction_id)
        return said(answers.current(row, duty), 202 if row.state in (REVERSING, SENT) else 200)

    @routes.get("/v1/authorizations/{authorization}", tags=["terminals"], summary="One authorization as it stands now", responses=NOW)
    @routes.get("/v1/transactions/{authorization}", tags=["merchants"], summary="One transaction as it stands now", responses=NOW)
    async def one(request: Request, authorization: str) -> Response:
        row = await visible(request, authorization)
        parts.undelivered.heard(row, identify(request).role)
        return said(answers.current(row, await parts.history.duty(row.transaction_id)))

    @routes.get("/v1/authorizations", tags=["terminals"], summary="Ask by your own key, after a lost answer", responses=NOW | refused(403, 409))
    async def by_key(request: Request, idempotency_key: Annotated[str, Query(pattern=r"^[A-Za-z0-9_-]{16,64}$")]) -> Response:
        caller = identify(request)
        if caller.merchant_id is None:
            raise Problem("forbidden", "A key belongs to the terminal or the merchant that made it.")
        known = await parts.history.key(caller.merchant_id, caller.terminal_id or caller.merchant_id, idempotency_key)
        if known is None:
            raise Problem("not_found", "This key was never used; the sale was not made.")
        if known.transaction_id is None:
            raise Problem("cancelled_by_terminal")
        row = await parts.history.sale(known.transaction_id)
        if row is None:
            raise Problem("not_found")
        parts.undelivered.heard(row)
        return said(answers.current(row, await parts.history.duty(row.transaction_id)))

    @routes.get("/v1/transactions/{transaction}/story", tags=["merchants"], summary="Everything that happened to one transaction",
                responses=shaped(200, "The story", Story) | refused(404))
    async def the_story(request: Request, transaction: str) -> Response:
        row = await visible(request, transaction)
        return said(await story.tell(row, parts.history, parts.directory))

    _list(routes, parts, identify)
    return routes


def _list(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller]) -> None:
    @routes.get("/v1/transactions", tags=["merchants"], summary="Transactions, newest first",
                responses=_PAGE_OR_FILE | refused(404))
    async def transactions(
        request: Request,
        since: From = None, until: To = None,
        status: Status | None = None, payment_status: PaymentStatus | None = None,
        type_: Annotated[Type | None, Query(alias="type")] = None,
        store: str | None = None, terminal: str | None = None, acquirer: str | None = None,
        rrn: Annotated[str | None, Query(pattern=r"^[0-9]{12}$")] = None, stan: Annotated[str | None, Query(pattern=r"^[0-9]{6}$")] = None,
        approval_code: Annotated[str | None, Query(pattern=r"^[ -~]{1,6}$")] = None,
        reference: Annotated[str | None, Query(pattern=r"^[ -~]{1,64}$")] = None,
        last4: Annotated[str | None, Query(pattern=r"^[0-9]{4}$")] = None, token: Annotated[str | None, Query(pattern=r"^[0-9a-f]{64}$")] = None,
        min_: Annotated[int | None, Query(alias="min", ge=0, le=10**12)] = None,
        max_: Annotated[int | None, Query(alias="max", ge=0, le=10**12)] = None,
        limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50, after: str | None = None,
        format_: Annotated[Literal["json", "csv"], Query(alias="format", description="csv: all of them as one file, without pages")] = "json",
        bom: bool = False,
    ) -> Response:
        caller = identify(request)
        in_order(since, until)
        if min_ is not None and max_ is not None and min_ > max_:
            raise Problem("invalid", "One or more parameters are wrong; see errors.",
                          errors=[{"field": "query.min", "rule": "at most max", "type": "order"}])
        acquirer_id = _identified("acquirer", acquirer)
        wanted = Filter(
            merchant_id=caller.merchant_id, store_id=_store(caller, _identified("store", store)), terminal_id=_identified("terminal", terminal),
            # an RRN is looked up in the acquirers' index, so all of them are named
            acquirer_ids=(acquirer_id,) if acquirer_id else tuple(parts.directory.acquirers) if rrn else None,
            since=since, until=until, states=(STATE_OF[status],) if status else None, payment_status=payment_status, type=type_,
            rrn=rrn, stan=stan, approval_code=approval_code, reference=reference, last4=last4, token=bytes.fromhex(token) if token else None,
            amount_min=min_, amount_max=max_, before=_identified("transaction", after))
        if format_ == "csv":
            return _as_csv(parts, caller, wanted, bom)
        rows = await parts.history.page(wanted, limit + 1)
        more = len(rows) > limit
        return said({"items": [answers.current(row) for row in rows[:limit]],
                     "next": show("transaction", rows[limit - 1].transaction_id) if more else None})


def _as_csv(parts: Parts, caller: Caller, wanted: Filter, bom: bool) -> Response:
    """All that the filter lets through, streamed; times in the merchant's zone, for operators in UTC."""
    merchant = parts.directory.merchants.get(caller.merchant_id) if caller.merchant_id is not None else None
    zone, connect = ZoneInfo(merchant.zone.key if merchant is not None else "UTC"), parts.reader()

    @asynccontextmanager
    async def opened() -> AsyncIterator[AsyncIterator[bytes]]:
        async with parts.places.place(caller), books(connect) as connection:
            yield files.csv(files.of_transactions(connection, wanted, zone), bom)

    return Download(opened(), MEDIA["csv"], "transactions.csv")


def _store(caller: Caller, store_id: UUID | None) -> UUID | None:
    """The list of terminals and staff ends at their store. Raises Problem not_found for another one."""
    if caller.store_id is None:
        return store_id
    if store_id not in (None, caller.store_id):
        raise Problem("not_found")
    return caller.store_id
