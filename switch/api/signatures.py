"""The cardholder's signature of a payment: uploaded once by the terminal that took it, shown to its merchant."""

from collections.abc import Callable
from typing import Any, Protocol

import asyncpg
from fastapi import APIRouter, Request
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.disputes import raw_body
from switch.api.merchant import may_see
from switch.api.onboard import identified, said
from switch.api.shapes import Shape, refused, shaped
from switch.callers import Caller, require
from switch.errors import Problem
from switch.ids import show
from switch.payments.history import History
from switch.payments.signatures import SHEET, Signatures
from switch.payments.transaction import Transaction

PNG = "image/png"
_FILE: dict[str, Any] = {PNG: {"schema": {"type": "string", "format": "binary"}}}


class ShownSignature(Shape):
    """`sha256` is that of the bytes as they were uploaded; the receipt says the same."""

    transaction: str
    width: int
    height: int
    size: int
    sha256: str
    signed_at: str


class Parts(Protocol):
    """What these routes need of the switch."""

    history: History
    signatures: Signatures

    def admit(self) -> None: ...


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    return {"transaction": show("transaction", row["transaction_id"]), **{name: row[name] for name in ("width", "height", "size")},
            "sha256": row["sha256"].hex(), "signed_at": stamp(row["signed_at"])}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 404, 422, 503))

    async def visible(caller: Caller, shown_id: str) -> Transaction:
        row = await parts.history.transaction(identified("transaction", shown_id))
        if row is None or not may_see(caller, row):
            raise Problem("not_found")
        return row

    @routes.post("/v1/authorizations/{authorization}/signature", tags=["terminals"], status_code=201,
                 summary="The cardholder's signature: one PNG per payment; the same bytes again are the same",
                 responses=shaped(200, "It was there", ShownSignature) | shaped(201, "It is kept", ShownSignature) | refused(400, 403, 409, 413, 415),
                 openapi_extra={"requestBody": {"required": True, "content": _FILE, "description":
                                                f"A PNG of {SHEET}."}})
    async def upload(request: Request, authorization: str) -> Response:
        caller = identify(request)
        row = await visible(caller, authorization)
        require(caller, "terminal", "merchant")
        if request.headers.get("content-type", "").strip().lower() != PNG:
            raise Problem("content_type", f"Send the signature with the Content-Type {PNG}.")
        content = await raw_body(request, SHEET.bytes_max, "body_too_large")
        parts.admit()
        by = show("terminal", caller.terminal_id) if caller.terminal_id is not None else show("merchant", row.merchant_id)
        kept, new = await parts.signatures.add(row, content, by)
        return said(_shown(kept), 201 if new else 200)

    @routes.get("/v1/transactions/{transaction}/signature", tags=["merchants"], summary="Download the signature of a payment",
                response_class=Response, responses={200: {"description": "The PNG as it was uploaded, as an attachment", "content": _FILE}})
    async def download(request: Request, transaction: str) -> Response:
        row = await visible(identify(request), transaction)
        found = await parts.signatures.find(row.merchant_id, row.transaction_id)
        if found is None:
            raise Problem("not_found", "This payment has no signature.")
        # Never shown inline, whatever a browser thinks of its bytes; the name is ours.
        return Response(found.content, 200, {
            "content-type": PNG, "content-disposition": f'attachment; filename="signature-{transaction}.png"', "x-content-type-options": "nosniff",
            "content-security-policy": "default-src 'none'; sandbox", "cache-control": "no-store"})

    return routes
