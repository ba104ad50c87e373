"""Codes that a merchant shows and a payer scans: the EMVCo payload of a terminal, as text and as pictures. The door to segno."""

import asyncio
import base64
import io
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import segno
from fastapi import APIRouter, Request
from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from messages import emvco_qr
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, said
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Currency, Model, no_card_number
from switch.callers import Caller, TerminalCaller, following_up, selling
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import read, show
from switch.money import AMOUNT_MAX, CURRENCIES, decimal
from switch.payments.authorization import Authorizations
from switch.records import Acquirer

DRAWN_AT_ONCE = 4  # pictures, each in a thread
SCALE, BORDER = 8, 4  # pixels of a module; the quiet zone of ISO/IEC 18004
ACCEPTOR, TERMINAL = "01", "02"  # below the account's identifier: DE42 and DE41
Short = Annotated[str, Field(min_length=1, max_length=25, pattern=r"^[ -~]+$"), AfterValidator(no_card_number)]


class QrCodeRequest(Model):
    """Without `amount` the code is static: the payer enters it. `terminal`: for a merchant's key, which of its terminals; a terminal's key
    makes its own. `acquirer`: who takes the money, else the first of the terminal's that can."""

    currency: Currency
    amount: Annotated[int, Field(ge=1, le=AMOUNT_MAX)] | None = None
    terminal: Ident | None = None
    acquirer: Ident | None = None
    reference: Short | None = None
    bill: Short | None = None

    @model_validator(mode="after")
    def _of_one_sale(self) -> "QrCodeRequest":
        if self.amount is None and (self.reference is not None or self.bill is not None):
            raise PydanticCustomError("amount", "reference and bill are of one sale, so they go with amount")
        return self


class QrCode(Shape):
    """`payload` is what the code holds; `png` is base64, `svg` is text."""

    method: Literal["static", "dynamic"]
    payload: str
    png: str
    svg: str
    acquirer: str
    terminal: str


MODELS = (QrCodeRequest,)
EXAMPLE = {"amount": 1250, "currency": "CNY", "reference": "table 4"}


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    authorizations: Authorizations


def _shower(parts: Parts, caller: Caller, terminal: str | None) -> TerminalCaller:
    """The terminal whose code it is, with its records. Raises Problem: not_found (another merchant's too), forbidden, invalid."""
    following_up(parts.directory, caller)  # who may sell may show a code
    if caller.role == "terminal":
        own = selling(parts.directory, caller)
        if terminal not in (None, show("terminal", own.terminal.terminal_id)):
            raise Problem("not_found")
        return own
    if terminal is None:
        raise Problem("invalid", "A merchant's key must name the terminal.",
                      errors=[{"field": "terminal", "rule": "must be given", "type": "missing"}])
    identity = read("terminal", terminal)
    found = parts.directory.terminals.get(identity) if identity is not None else None
    if found is None or found.merchant_id != caller.merchant_id:
        raise Problem("not_found")
    return TerminalCaller(parts.directory.merchants[found.merchant_id], parts.directory.stores[found.store_id], found)


def _acquirer(parts: Parts, shower: TerminalCaller, wanted: str | None) -> Acquirer:
    for acquirer in parts.authorizations.alternatives.reach(shower.terminal, shower.merchant):
        if acquirer.options.get("qr_guid") and wanted in (None, show("acquirer", acquirer.acquirer_id)):
            return acquirer
    raise Problem("not_supported", "No acquirer of this terminal is set up for codes that merchants show (its option qr_guid).")


def payload(shower: TerminalCaller, acquirer: Acquirer, wanted: QrCodeRequest) -> str:
    """The text of the code. Raises Problem invalid."""
    store, numbers = shower.store, shower.terminal.numbers[acquirer.acquirer_id]
    additional = {emvco_qr.BILL: wanted.bill, emvco_qr.REFERENCE: wanted.reference, emvco_qr.TERMINAL: numbers[0].strip()}
    amount = decimal(wanted.amount, wanted.currency) if wanted.amount is not None else None
    try:
        return emvco_qr.payload(
            emvco_qr.Merchant(shower.merchant.name, store.city or store.name, store.country, shower.merchant.mcc),
            emvco_qr.Account(acquirer.options["qr_guid"], {ACCEPTOR: numbers[1].strip(), TERMINAL: numbers[0].strip()}),
            CURRENCIES[wanted.currency][0], amount, {tag: text for tag, text in additional.items() if text is not None})
    except emvco_qr.QrError as error:
        raise Problem("invalid", f"The code cannot hold that: tag {error}.") from None


def drawn(text: str) -> tuple[bytes, str]:
    """PNG and SVG of a text, error correction M."""
    code, png, svg = segno.make(text, error="m", micro=False), io.BytesIO(), io.BytesIO()
    code.save(png, kind="png", scale=SCALE, border=BORDER)
    code.save(svg, kind="svg", scale=SCALE, border=BORDER, xmldecl=False, svgclass=None, lineclass=None)
    return png.getvalue(), svg.getvalue().decode()


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 403, 422, 503), tags=["terminals"])
    places = asyncio.Semaphore(DRAWN_AT_ONCE)

    @routes.post("/v1/qr-codes", summary="A code that the merchant shows: EMVCo payload, PNG and SVG",
                 openapi_extra=documented(QrCodeRequest, EXAMPLE),
                 responses=shaped(200, "The code; asking again gives the same", QrCode) | refused(400, 404, 413, 415))
    async def make(request: Request) -> Response:
        caller = identify(request)
        wanted: QrCodeRequest = await body_of(request, QrCodeRequest)
        shower = _shower(parts, caller, wanted.terminal)
        acquirer = _acquirer(parts, shower, wanted.acquirer)
        text = payload(shower, acquirer, wanted)
        async with places:
            png, svg = await asyncio.to_thread(drawn, text)
        body: dict[str, Any] = {"method": "static" if wanted.amount is None else "dynamic", "payload": text,
                                "png": base64.b64encode(png).decode(), "svg": svg, "acquirer": show("acquirer", acquirer.acquirer_id),
                                "terminal": show("terminal", shower.terminal.terminal_id)}
        return said(body)

    return routes
