"""Receipts: a transaction on paper, as JSON, as the text that a printer takes, as image and as PDF."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Annotated, Literal, Protocol

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from switch.api.merchant import may_see
from switch.api.onboard import identified, said
from switch.api.shapes import Shape, Status, refused, shaped
from switch.callers import Caller
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import show
from switch.payments import receipts
from switch.payments.history import History
from switch.payments.receipts import Copy, Head, Language
from switch.payments.signatures import Signatures
from switch.payments.transaction import Transaction
from switch.settlement.exports.paper import Press
from switch.terminals.parameter_sets import ParameterSets

TEXT, PNG, PDF = "text/plain", "image/png", "application/pdf"
MEDIA: Mapping[str, str] = {"text": TEXT, "png": PNG, "pdf": PDF}


class ShownReceipt(Shape):
    """`amount` is what is charged or given back in minor units, 0 when it is not `paid`; `at` and `signed_at` are the store's
    wall clock. `signature`: a line to sign is on the paper; `signature_sha256` is that of what was signed on the screen. `original...`: of
    a follow-up (a refund, a void, ...) the sale that it belongs to."""

    transaction: str
    type: str
    status: Status | Literal["voided", "accepted"]
    title: str
    result: str
    paid: bool
    copy_for: Copy
    language: Language
    merchant: str
    store: str
    city: str
    acquirer: str
    card_acceptor: str
    card_acceptor_terminal: str
    masked_pan: str
    brand: str
    entry_mode: str
    amount: int
    asked: int
    tip_amount: int
    cashback_amount: int
    captured: int
    refunded: int
    currency: str
    amount_text: str
    approval_code: str | None
    response_code: str | None
    rrn: str
    stan: str
    reference: str | None
    at: str
    signature: bool
    signature_sha256: str | None
    signed_at: str | None
    original: str | None
    original_rrn: str | None
    original_at: str | None
    original_amount: int | None


class Parts(Protocol):
    """What this route needs of the switch."""

    directory: Directory
    history: History
    parameter_sets: ParameterSets
    signatures: Signatures
    press: Press


def _head(directory: Directory, row: Transaction) -> Head:
    store = directory.stores[row.store_id]
    return Head(directory.merchants[row.merchant_id].name, store.name, store.city, directory.acquirers[row.acquirer_id].name, store.zone)


def _wanted(request: Request) -> str:
    """What the Accept header names; JSON when it names none of them."""
    accepted = request.headers.get("accept", "").lower()
    return next((form for form, media in MEDIA.items() if media in accepted), "json")


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["merchants"], responses=refused(401, 404, 422, 501, 503))
    answers = shaped(200, "The receipt", ShownReceipt)
    binary = {"schema": {"type": "string", "format": "binary"}}
    answers[200]["content"] = {TEXT: {"schema": {"type": "string"}}, PNG: binary, PDF: binary}

    @routes.get("/v1/authorizations/{transaction}/receipt", responses=answers, summary="The receipt of a payment, as a terminal asks for it")
    @routes.get("/v1/transactions/{transaction}/receipt", responses=answers,
                summary="The receipt: JSON, text for a printer of 58 or 80 mm, PNG or PDF, by format or Accept")
    async def receipt(request: Request, transaction: str, language: Language | None = None, copy_for: Copy = "customer",
                      width: Annotated[Literal["58", "80"] | None, Query(description="Of the paper, in mm")] = None,
                      format_: Annotated[Literal["json", "text", "png", "pdf"] | None, Query(alias="format")] = None) -> Response:
        caller = identify(request)
        row = await parts.history.transaction(identified("transaction", transaction))
        if row is None or not may_see(caller, row):
            raise Problem("not_found")
        # What the terminal's parameters say of its paper; what the caller says comes first.
        found = (await parts.parameter_sets.of(row.merchant_id, row.store_id, row.terminal_id)).values
        head = _head(parts.directory, row)
        spoken: Language = language or found.get("receipt_language") or ("zh" if parts.directory.stores[row.store_id].country == "CN" else "en")
        signature = await parts.signatures.find(row.merchant_id, row.transaction_id)
        original = None if row.original_id is None else await parts.history.transaction(row.original_id)
        made = receipts.receipt(row, show("transaction", row.transaction_id), head, spoken, copy_for, signature.signed if signature else None,
                                original)
        setting = int(width or found.get("receipt_width_mm", 58)), found.get("receipt_header", ""), found.get("receipt_footer", "")
        wanted = format_ or _wanted(request)
        if wanted == "text":
            return Response(receipts.printed(made, *setting), 200, {"content-type": f"{TEXT}; charset=utf-8", "cache-control": "no-store"})
        if wanted in ("png", "pdf"):
            form: Literal["png", "pdf"] = "png" if wanted == "png" else "pdf"
            printed = await parts.press.of("receipt", form, receipts.sheet(made, *setting, signature.content if signature else None), "text")
            return Response(printed, 200, {"content-type": MEDIA[form], "cache-control": "no-store", "x-content-type-options": "nosniff",
                                           "content-disposition": f'inline; filename="receipt-{transaction}.{form}"'})
        return said(asdict(made))

    return routes
