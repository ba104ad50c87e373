"""Bank accounts over HTTP: asked for by one operator, agreed by another; shown with the last four characters of their numbers."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, said
from switch.api.operators import operators, person
from switch.api.resolving import EXAMPLES, plain_text, shown_approval
from switch.api.settlements import whose
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.errors import Problem
from switch.ids import show
from switch.merchants.approvals import Approvals
from switch.payments.resolution import Person
from switch.settlement.payouts.bank_accounts import BankAccounts
from switch.settlement.payouts.banking import BankAccount, masked

AGREE = "agree_bank_account"
EXAMPLE = {"currency": "EUR", "holder": "Harbour Bakery GmbH", "country": "DE", "iban": "DE89370400440532013000", "bic": "COBADEFFXXX",
           "reason": "Signed letter of 1 March, checked by telephone"}


class BankAccountRequest(Model):
    """`iban`, or `account_number` with the `bank_code` of its country. `country`: of the bank, ISO 3166. What was asked for takes effect when
    another person has approved it."""

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    holder: Annotated[str, Field(min_length=1, max_length=70)]
    country: Annotated[str, Field(pattern="^[A-Z]{2}$")]
    iban: Annotated[str, Field(min_length=15, max_length=34)] | None = None
    account_number: Annotated[str, Field(min_length=3, max_length=34)] | None = None
    bank_code: Annotated[str, Field(min_length=2, max_length=28)] | None = None
    bic: Annotated[str, Field(min_length=8, max_length=11)] | None = None
    reason: Annotated[str, Field(min_length=10, max_length=500), AfterValidator(plain_text)]


class AgreementRequest(Model):
    """The newest account of the currency that nobody has agreed yet."""

    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    reason: Annotated[str, Field(min_length=10, max_length=500), AfterValidator(plain_text)]


MODELS = (BankAccountRequest, AgreementRequest)


class ShownBankAccount(Shape):
    """`suspended`: a payout to it came back; nothing is paid there until it has been agreed anew."""

    id: str
    merchant: str | None
    currency: str
    holder: str
    number: str
    iban: bool
    bank_code: str | None
    bic: str | None
    country: str
    state: Literal["asked", "active", "suspended", "replaced"]
    requested_by: str
    approved_by: str | None
    active_at: str | None


class BankAccountList(Shape):
    items: list[ShownBankAccount]


class Parts(Protocol):
    bank_accounts: BankAccounts
    approvals: Approvals


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("bank_account", row["bank_account_id"]), "merchant": show("merchant", row["merchant_id"]) if row["merchant_id"] else None,
            "number": masked(row["last4"]), "active_at": stamp(row["active_at"]),
            **{name: row[name] for name in ("currency", "holder", "iban", "bank_code", "bic", "country", "state", "requested_by", "approved_by")}}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)

    async def ask(request: Request, merchant_id: UUID | None, caller: Caller) -> Response:
        wanted = await body_of(request, BankAccountRequest)
        if (wanted.iban is None) == (wanted.account_number is None):
            raise Problem("invalid", errors=[{"field": "iban", "rule": "either this or account_number", "type": "rule"}])
        account = BankAccount(wanted.holder, wanted.iban or wanted.account_number, wanted.iban is not None, wanted.bank_code, wanted.bic,
                              wanted.country)
        row = await parts.bank_accounts.ask(merchant_id, wanted.currency, account, person(caller))
        return await _waits(parts, row, wanted.reason, caller)

    routes = APIRouter(tags=["settlement"], responses=refused(401, 403, 404, 422, 503))
    _routes(routes, parts, identify, operator, ask)
    return routes


async def _waits(parts: Parts, row: asyncpg.Record, reason: str, caller: Caller) -> Response:
    """Asks a second person to agree an account."""
    whose_ = show("merchant", row["merchant_id"]) if row["merchant_id"] else "switch"
    payload = {"bank_account": show("bank_account", row["bank_account_id"]), "number": masked(row["last4"]),
               **{name: row[name] for name in ("currency", "holder", "bank_code", "bic", "country")}}
    approval = await parts.approvals.request(AGREE, f"{whose_} {row['currency']}", payload, reason, Person(person(caller), caller.key_id))
    return said(shown_approval(approval), 202)


WAITS: dict[int | str, dict[str, Any]] = {202: {"description": "It waits for a second person", "content": {"application/json": {
    "example": {**EXAMPLES["approval"], "kind": AGREE, "object": f"mer_{EXAMPLES['approval']['id'][4:]} EUR", "payload": {"number": "****3000"}}}}}}


def _routes(routes: APIRouter, parts: Parts, identify: Callable[[Request], Caller], operator: Callable[[Request], Any],
            ask: Callable[[Request, UUID | None, Caller], Any]) -> None:
    @routes.get("/v1/merchants/{merchant}/bank-account", summary="Where a merchant's payouts go, for each currency",
                responses=shaped(200, "As agreed now", BankAccountList))
    async def of_merchant(request: Request, merchant: str) -> Response:
        caller = require(identify(request), "merchant", "operator")
        identified("merchant", merchant)
        return said({"items": [_shown(row) for row in await parts.bank_accounts.page(whose(caller, merchant))]})

    @routes.put("/v1/merchants/{merchant}/bank-account", summary="Ask a second person to agree where a merchant's payouts go", status_code=202,
                openapi_extra=documented(BankAccountRequest, EXAMPLE), responses=WAITS | refused(400, 409, 413, 415))
    async def set_of_merchant(request: Request, merchant: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return await ask(request, identified("merchant", merchant), caller)  # type: ignore[no-any-return]

    @routes.post("/v1/merchants/{merchant}/bank-account/agreement", summary="Ask a second person to agree the account that an applicant named",
                 status_code=202, openapi_extra=documented(AgreementRequest, {"currency": "CNY", "reason": "The applicant's own, by its statement"}),
                 responses=WAITS | refused(400, 409, 413, 415))
    async def agree(request: Request, merchant: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        merchant_id, wanted = identified("merchant", merchant), await body_of(request, AgreementRequest)
        return await _waits(parts, await parts.bank_accounts.asked(merchant_id, wanted.currency), wanted.reason, caller)

    @routes.get("/v1/payouts/bank-account", summary="Our accounts, which payouts are paid from", dependencies=[Depends(operator)],
                responses=shaped(200, "As agreed now", BankAccountList))
    async def ours() -> Response:
        return said({"items": [_shown(row) for row in await parts.bank_accounts.page(None)]})

    @routes.put("/v1/payouts/bank-account", summary="Ask a second person to agree which account payouts are paid from", status_code=202,
                openapi_extra=documented(BankAccountRequest, {**EXAMPLE, "holder": "Payment Service"}), responses=WAITS | refused(400, 409, 413, 415))
    async def set_ours(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return await ask(request, None, caller)  # type: ignore[no-any-return]
