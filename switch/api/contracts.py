"""Contracts: operators draw up, offer and countersign; merchants, and applicants whose merchant is made, read, sign, refuse and give notice."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from switch import logs
from switch.api.contract_shapes import (
    EXAMPLE,
    SHA256,
    ContractPage,
    ContractRequest,
    EndRequest,
    OfferRequest,
    RefusalRequest,
    RevisionRequest,
    State,
    WholeContract,
    WithdrawalRequest,
    plain,
    shown,
    whole_shown,
)
from switch.api.devices import optional
from switch.api.disputes import raw_body
from switch.api.documented import documented
from switch.api.download import attachment
from switch.api.onboard import body_of, identified, said
from switch.api.operators import operators, person
from switch.api.resolving import EXAMPLES, shown_approval
from switch.api.shapes import refused, shaped
from switch.api.terminal import one_of_each
from switch.callers import Caller, require
from switch.errors import Problem
from switch.ids import show
from switch.merchants.approvals import Approvals
from switch.merchants.contracts.life import MERCHANT, PROVIDER
from switch.merchants.contracts.reads import Reads
from switch.merchants.contracts.signing import SHEET, Contracts, Hand
from switch.merchants.contracts.standard import OFFER
from switch.payments.resolution import Person
from switch.settlement.exports.paper import Press

PAGE_MAX = 200
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Number = Annotated[int, Query(ge=1, le=100)]
PNG = "image/png"
BELOW = "It is below the standard terms, and waits for a second person"
WAITS: dict[int | str, dict[str, Any]] = {202: {"description": BELOW, "content": {"application/json": {
    "example": {**EXAMPLES["approval"], "kind": OFFER, "object": f"con_{EXAMPLES['approval']['id'][4:]}",
                "payload": {"version": 1, "below_standard": ["Some sale costs less than by the standard tariff."]}}}}}}


class Parts(Protocol):
    """What these routes need of the switch."""

    contracts: Contracts
    contract_reads: Reads
    approvals: Approvals
    press: Press

    def admit(self) -> None: ...


class Desk:
    """Who may do what with which contract."""

    def __init__(self, parts: Parts, identify: Callable[[Request], Caller]) -> None:
        self.parts, self.identify = parts, identify

    async def whose(self, request: Request) -> tuple[Caller, UUID | None]:
        """The caller, and whose contracts are its own; None: an operator's are all. Raises Problem: unauthenticated, forbidden, not_found."""
        caller = require(self.identify(request), "merchant", "operator", "applicant")
        if caller.role == "applicant":
            assert caller.application_id is not None
            return caller, await self.parts.contract_reads.merchant_of(caller.application_id)
        return caller, caller.merchant_id

    async def at(self, request: Request, contract: str) -> tuple[Caller, UUID, str, Person]:
        """The caller at a contract that it may see, for which side, and who it is."""
        caller, merchant_id = await self.whose(request)
        identity = identified("contract", contract)
        await self.parts.contract_reads.one(identity, merchant_id)
        if caller.role == "operator":
            if request.method != "GET":
                logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
            return caller, identity, PROVIDER, Person(person(caller), caller.key_id)
        return caller, identity, MERCHANT, Person(caller.role, caller.key_id)

    async def now(self, contract_id: UUID, caller: Caller, status: int = 200) -> Response:
        """As it is now; read again by the role alone, since who may see it was asked before."""
        return said(whole_shown(await self.parts.contract_reads.one(contract_id, None), caller.role == "operator"), status)


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator, desk = operators(identify), Desk(parts, identify)
    routes = APIRouter(tags=["contracts"], responses=refused(401, 403, 404, 422, 503))
    _drawn_up(routes, parts, desk, operator)
    _reads(routes, parts, desk)
    _signed(routes, parts, desk)
    _ended(routes, parts, desk, operator)
    return routes


def _by(caller: Caller) -> Person:
    return Person(person(caller), caller.key_id)


def _drawn_up(routes: APIRouter, parts: Parts, desk: Desk, operator: Callable[[Request], Any]) -> None:
    moves = shaped(200, "As it is now", WholeContract) | refused(400, 409, 413, 415)

    @routes.post("/v1/merchants/{merchant}/contracts", status_code=201, summary="Draw up a contract; it amends the one in force",
                 responses=shaped(201, "A draft", WholeContract) | refused(400, 409, 413, 415),
                 openapi_extra=documented(ContractRequest, {"terms": EXAMPLE}))
    async def draw_up(request: Request, merchant: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        merchant_id, wanted = identified("merchant", merchant), await body_of(request, ContractRequest)
        parts.admit()
        return await desk.now(await parts.contracts.draw_up(merchant_id, plain(wanted.terms), _by(caller)), caller, 201)

    @routes.put("/v1/contracts/{contract}/terms", summary="A new document, to be offered and signed anew", responses=moves,
                openapi_extra=documented(RevisionRequest, {"terms": EXAMPLE, "reason": "The merchant asked for another day"}))
    async def revise(request: Request, contract: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        identity, wanted = identified("contract", contract), await body_of(request, RevisionRequest)
        parts.admit()
        await parts.contracts.revise(identity, plain(wanted.terms), _by(caller), wanted.reason)
        return await desk.now(identity, caller)

    @routes.post("/v1/contracts/{contract}/offer", summary="Offer it to the merchant; below the standard terms two people do",
                 responses=moves | WAITS, openapi_extra=documented(OfferRequest, {"version": 1, "reason": "As agreed on the phone"}))
    async def offer(request: Request, contract: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        identity, wanted = identified("contract", contract), await body_of(request, OfferRequest)
        parts.admit()
        below = await parts.contracts.offer(identity, wanted.version, _by(caller), wanted.reason)
        if not below:
            return await desk.now(identity, caller)
        payload = {"version": wanted.version, "below_standard": below}
        return said(shown_approval(await parts.approvals.request(OFFER, show("contract", identity), payload, wanted.reason, _by(caller))), 202)


def _reads(routes: APIRouter, parts: Parts, desk: Desk) -> None:
    @routes.get("/v1/contracts", summary="Contracts, newest first: a merchant's own, or all for operators",
                responses=shaped(200, "One page", ContractPage))
    async def page(request: Request, limit: Limit = 50, after: str | None = None, state: State | None = None,
                   merchant: str | None = None) -> Response:
        caller, own = await desk.whose(request)
        wanted = optional("merchant", merchant)
        if own is not None and wanted not in (None, own):
            raise Problem("not_found")
        rows = await parts.contract_reads.page(own or wanted, state, optional("contract", after), limit + 1, drafts=caller.role == "operator")
        return said({"items": [shown(row) for row in rows[:limit]],
                     "next": show("contract", rows[limit - 1]["contract_id"]) if len(rows) > limit else None})

    @routes.get("/v1/contracts/{contract}", summary="A contract with its terms, documents, signatures, and all that happened",
                responses=shaped(200, "As it is now", WholeContract))
    async def one(request: Request, contract: str) -> Response:
        caller, identity, _, _ = await desk.at(request, contract)
        return await desk.now(identity, caller)

    @routes.get("/v1/contracts/{contract}/document", summary="The document as it is signed (HTML for print), or as PDF", response_class=Response,
                responses={200: {"description": "HTML: exactly the bytes whose hash is signed; PDF: the same texts", "content": {
                    "text/html": {"schema": {"type": "string"}},
                    "application/pdf": {"schema": {"type": "string", "format": "binary"}}}}, **refused(501)})
    async def printed(request: Request, contract: str, number: Number | None = None, format: Literal["html", "pdf"] = "html") -> Response:
        _, identity, _, _ = await desk.at(request, contract)
        whole = await parts.contract_reads.one(identity, None)
        row = await parts.contract_reads.document(identity, number or whole.row["document"])
        name = f"{contract}-{row['number']}.{format}"
        if format == "html":
            return attachment(row["html"].encode(), "text/html; charset=utf-8", name)
        return attachment(await parts.press.pdf(await parts.contract_reads.texts(identity, row["number"])), "application/pdf", name)

    @routes.get("/v1/contracts/{contract}/signatures/{side}", summary="The image of a signature: of the merchant, or the provider",
                response_class=Response, responses={200: {"description": "A PNG, as an attachment", "content": {
                    PNG: {"schema": {"type": "string", "format": "binary"}}}}})
    async def image(request: Request, contract: str, side: str, number: Number | None = None) -> Response:
        _, identity, _, _ = await desk.at(request, contract)
        if side not in (MERCHANT, PROVIDER):
            raise Problem("not_found")
        whole = await parts.contract_reads.one(identity, None)
        content = await parts.contract_reads.image(identity, number or whole.row["document"], side)
        return attachment(content, PNG, f"{contract}-{side}.png")


def _signed(routes: APIRouter, parts: Parts, desk: Desk) -> None:
    @routes.post("/v1/contracts/{contract}/signature", summary="Sign the newest document by its hash: first the merchant, then the provider",
                 responses=shaped(200, "As it is now; the same signature again changes nothing", WholeContract) | refused(400, 409, 413, 415),
                 openapi_extra={"requestBody": {"required": True, "description": f"The hand's signature, a PNG of {SHEET}.",
                                                "content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}})
    async def sign(request: Request, contract: str, sha256: Annotated[str | None, Query(pattern=SHA256)] = None,
                   name: Annotated[str | None, Query(min_length=1, max_length=120)] = None) -> Response:
        caller, identity, side, by = await desk.at(request, contract)
        if sha256 is None or name is None:  # asked after the key
            raise Problem("invalid", errors=[{"field": f"query.{each}", "rule": "The document's hash, and the name of who signs", "type": "missing"}
                                             for each, value in (("sha256", sha256), ("name", name)) if value is None])
        if one_of_each(request.scope["headers"]).get(b"content-type", b"").decode("latin-1").strip().lower() != PNG:
            raise Problem("content_type", f"Send the image with the Content-Type {PNG}.")
        if not name.isprintable() or name != name.strip():
            raise Problem("invalid", errors=[{"field": "query.name", "rule": "printable characters, no space at either end", "type": "rule"}])
        image = await raw_body(request, SHEET.bytes_max, "body_too_large")
        parts.admit()
        await parts.contracts.sign(identity, side, Hand(bytes.fromhex(sha256), name, image), by)
        return await desk.now(identity, caller)

    @routes.post("/v1/contracts/{contract}/refuse", summary="The merchant does not sign it",
                 openapi_extra=documented(RefusalRequest, {"reason": "Too dear"}),
                 responses=shaped(200, "As it is now", WholeContract) | refused(400, 409, 413, 415))
    async def refuse(request: Request, contract: str) -> Response:
        caller, identity, side, by = await desk.at(request, contract)
        wanted = await body_of(request, RefusalRequest)
        if side != MERCHANT:
            raise Problem("forbidden", "The merchant refuses; the provider withdraws.")
        await parts.contracts.refuse(identity, by, wanted.reason)
        return await desk.now(identity, caller)


def _ended(routes: APIRouter, parts: Parts, desk: Desk, operator: Callable[[Request], Any]) -> None:
    moves = shaped(200, "As it is now", WholeContract) | refused(400, 409, 413, 415)

    @routes.post("/v1/contracts/{contract}/withdraw", summary="Take it back before it is in force", responses=moves,
                 openapi_extra=documented(WithdrawalRequest, {"reason": "Drawn up twice"}))
    async def withdraw(request: Request, contract: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        identity, wanted = identified("contract", contract), await body_of(request, WithdrawalRequest)
        await parts.contracts.withdraw(identity, _by(caller), wanted.reason)
        return await desk.now(identity, caller)

    @routes.post("/v1/contracts/{contract}/end", summary="Give notice; the provider may end it at once", responses=moves,
                 openapi_extra=documented(EndRequest, {"last_day": "2030-06-30", "reason": "We close the shop"}))
    async def end(request: Request, contract: str) -> Response:
        caller, identity, side, by = await desk.at(request, contract)
        wanted = await body_of(request, EndRequest)
        if side == MERCHANT and wanted.last_day is None:
            raise Problem("invalid", errors=[{"field": "last_day", "rule": "the last day on which is sold", "type": "missing"}])
        parts.admit()
        await parts.contracts.end(identity, side, wanted.last_day, by, wanted.reason)
        return await desk.now(identity, caller)
