"""Estimates of fees: what transactions cost or would cost, by the very calculation that settles them."""

import asyncio
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, TypeVar
from uuid import UUID

from fastapi import APIRouter, Request
from pydantic import Field, ValidationError
from starlette.responses import Response

from switch.api import problems
from switch.api.documented import documented
from switch.api.onboard import Ident, Instant, identified
from switch.api.shapes import Shape, refused, shaped
from switch.api.strict import StrictError
from switch.api.strict import parse as parse_json
from switch.api.tariffs import Day, Parts
from switch.api.terminal import Model, check_content, one_of_each, read_body
from switch.callers import Caller, require
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import read, show
from switch.money import AMOUNT_MAX, CURRENCIES
from switch.payments import routing
from switch.settlement.fees import tariffs, wording
from switch.settlement.fees.bills import Bill, Totals, bill
from switch.settlement.fees.charges import Original, Priced, Sale
from switch.settlement.fees.terms import CARD_TYPES, ENTRY_MODES

TRANSACTIONS_MAX = 10_000
BODY_MAX = 4 << 20
AT_ONCE = 4  # estimates of one worker at work, each of another merchant: they take threads, and memory for their bodies
VOLUME_MAX = 10**15 - 1
ERRORS_MAX = 20
UNNAMED = 2**128 - TRANSACTIONS_MAX  # what has no id comes after what has one, in the order of the list: a refund after its sale

Amount = Annotated[int, Field(ge=1, le=AMOUNT_MAX)]
Money = Annotated[int, Field(ge=0, le=AMOUNT_MAX)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]


class EstimatedOriginal(Model):
    """The sale that a refund gives back: what it paid, and what was refunded of it before."""

    amount: Amount
    fee: Annotated[int, Field(ge=-AMOUNT_MAX, le=AMOUNT_MAX)]
    refunded: Money = 0


class EstimatedTransaction(Model):
    """A transaction that was made, by its facts, or one that might be made. Those of the same `captured_at` go by id, those without an id in
    their order. `settled_on`: the business date whose settlement has it, where that is not the day on which it was captured. A refund names its
    sale in the same list as `refund_of`, or describes it as `original`."""

    id: Annotated[str, Field(max_length=64)] | None = None
    kind: Literal["sale", "refund"] = "sale"
    amount: Amount
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")]
    captured_at: Instant | None = None
    business_date: Day | None = None
    settled_on: Day | None = None
    brand: Annotated[str, Field(pattern="^[a-z0-9_-]{1,40}$")] = "unknown"
    card_type: Literal["debit", "credit", "prepaid", "unknown"] = "unknown"
    method: Literal["card", "qr"] = "card"
    entry_mode: Literal["chip", "contactless", "magstripe", "manual", "fallback", "qr"] = "chip"
    mcc: Annotated[str, Field(pattern="^[0-9]{4}$")] | None = None
    acquirer: Ident | None = None
    refund_of: Ident | None = None
    original: EstimatedOriginal | None = None


class Equipment(Model):
    """What is charged by the month is part of the estimate when this is given."""

    terminals: Count = 0
    stores: Count = 0


class EstimateRequest(Model):
    """`month_to_date`: the volume of the month's sales before these, by currency. `merchant`: for operators alone."""

    transactions: Annotated[list[EstimatedTransaction], Field(max_length=TRANSACTIONS_MAX)]
    month_to_date: dict[str, Annotated[int, Field(ge=0, le=VOLUME_MAX)]] = Field(default_factory=dict)
    periodic: Equipment | None = None
    merchant: Ident | None = None


MODELS = (EstimateRequest,)
assert set(CARD_TYPES) == {"debit", "credit", "prepaid", "unknown"}
assert set(ENTRY_MODES) == {"chip", "contactless", "magstripe", "manual", "fallback", "qr"}


class ShownLine(Shape):
    what: str
    words: str
    amount: int


class Costing(Shape):
    """For operators alone."""

    interchange: int
    scheme_fee: int
    acquirer_fee: int
    margin: int
    rule: str


class ShownPriced(Shape):
    id: str | None
    kind: Literal["sale", "refund"]
    currency: str
    gross: int
    fee: int
    net: int
    tariff: str | None
    rule: str
    lines: list[ShownLine]
    costs: Costing | None = None


class ShownTax(Shape):
    name: str
    basis_points: str
    inclusive: bool
    base: int
    amount: int


class ShownTotals(Shape):
    """net = sales - refunds - fees - periodic - taxes that are not contained in them."""

    currency: str
    sales_count: int
    sales: int
    refunds_count: int
    refunds: int
    fees: int
    periodic: int
    taxes: list[ShownTax]
    net: int


class ShownFeeLine(Shape):
    currency: str
    rule: str
    what: str
    words: str
    count: int
    amount: int


class Estimate(Shape):
    """In the order in which the transactions came. `month_to_date`: after them."""

    transactions: list[ShownPriced]
    fee_lines: list[ShownFeeLine]
    totals: list[ShownTotals]
    month_to_date: dict[str, int]


EXAMPLE = {"transactions": [{"amount": 10000, "currency": "CNY", "brand": "unionpay", "card_type": "debit", "captured_at": "2026-03-01T12:00:00Z"}],
           "month_to_date": {"CNY": 2500000}, "periodic": {"terminals": 1, "stores": 1}}


class Asked(NamedTuple):
    """A checked estimate: facts in the order of the request."""

    merchant_id: UUID
    ids: list[str | None]  # as they came
    sales: list[Sale]
    month_to_date: Mapping[str, int]
    counts: Mapping[str, int] | None


def _fault(place: str, rule: str) -> dict[str, str]:
    return {"field": place, "rule": rule, "type": "rule"}


def _refuse(faults: list[dict[str, str]]) -> None:
    if faults:
        raise Problem("invalid", "One or more fields are wrong; see errors.", errors=faults[:ERRORS_MAX])


M = TypeVar("M", bound=Model)


def _checked_model(model: type[M], value: Any, place: tuple[str | int, ...], faults: list[Any]) -> M | None:
    try:
        return model.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_input=False, include_context=False, include_url=False)
        faults += [{**fault, "loc": (*place, *fault["loc"])} for fault in found]
        return None


def _model(body: bytes) -> tuple[EstimateRequest, list[EstimatedTransaction]]:
    """The request and its transactions, which are checked one by one, since one call would hold the interpreter. Raises Problem: json_*, invalid."""
    try:
        value = parse_json(body)
    except StrictError as error:
        raise Problem(error.code, error.detail) from None
    given = value.get("transactions") if isinstance(value, dict) else None
    in_turn = given if isinstance(given, list) and len(given) <= TRANSACTIONS_MAX else []
    faults, checked = list[Any](), list[EstimatedTransaction]()
    wanted = _checked_model(EstimateRequest, {**value, "transactions": []} if in_turn else value, (), faults)
    for at, each in enumerate(in_turn):
        transaction = _checked_model(EstimatedTransaction, each, ("transactions", at), faults)
        if transaction is not None:
            checked.append(transaction)
        elif len(faults) >= ERRORS_MAX:
            break
    if wanted is None or faults:
        raise Problem("invalid", "One or more fields are wrong; see errors.", errors=problems.field_errors(faults))
    return wanted, checked


def _asked(body: bytes, caller: Caller, directory: Directory, now: datetime) -> Asked:
    """Raises Problem: json_*, invalid, not_found, forbidden."""
    wanted, transactions = _model(body)
    if caller.role == "operator":
        _refuse([] if wanted.merchant is not None else [_fault("merchant", "for which merchant: an operator says it")])
        merchant_id = identified("merchant", str(wanted.merchant))
    else:
        if caller.merchant_id is None or (wanted.merchant is not None and identified("merchant", wanted.merchant) != caller.merchant_id):
            raise Problem("not_found")
        merchant_id = caller.merchant_id
    if merchant_id not in directory.merchants:
        raise Problem("not_found")
    merchant = directory.merchants[merchant_id]
    zone, faults, sales, seen = merchant.zone, list[dict[str, str]](), list[Sale](), set[UUID]()
    routed = {None: None} | {each.brand: _routed(directory, merchant_id, each.brand) for each in transactions}
    for at, each in enumerate(transactions):
        ident = UUID(int=UNNAMED + at) if each.id is None else read("transaction", each.id)
        refund_of = None if each.refund_of is None else read("transaction", each.refund_of)
        for name, text, found in (("id", each.id, ident), ("refund_of", each.refund_of, refund_of)):
            if text is not None and found is None:
                faults.append(_fault(f"transactions.{at}.{name}", "txn_ and a UUID; of a transaction that might be made, one of your own making"))
        if ident is None:
            continue
        if ident in seen:
            faults.append(_fault(f"transactions.{at}.id", "each transaction once"))
        seen.add(ident)
        faults += _odd(at, each)
        captured_at = each.captured_at or now
        original = each.original
        sales.append(Sale(
            ident, captured_at, each.amount, each.kind, each.currency, each.brand, each.card_type, each.method, each.entry_mode,
            each.mcc or merchant.mcc, each.business_date or captured_at.astimezone(zone).date(),
            routed[each.brand] if each.acquirer is None else identified("acquirer", each.acquirer),
            refund_of,
            None if original is None else Original(original.amount, original.fee, refunded=original.refunded),
            each.settled_on or captured_at.astimezone(zone).date()))
    faults += [_fault("month_to_date", "ISO 4217 alpha codes with whole numbers of minor units")] if wanted.month_to_date.keys() - CURRENCIES else []
    _refuse(faults)
    counts = None if wanted.periodic is None else {"terminal": wanted.periodic.terminals, "store": wanted.periodic.stores}
    return Asked(merchant_id, [each.id for each in transactions], sales, wanted.month_to_date, counts)


def _odd(at: int, each: EstimatedTransaction) -> list[dict[str, str]]:
    """What no transaction can be."""
    faults = []
    if each.currency not in CURRENCIES:
        faults.append(_fault(f"transactions.{at}.currency", "an ISO 4217 alpha code"))
    if each.settled_on is not None and each.business_date is not None and each.settled_on < each.business_date:
        faults.append(_fault(f"transactions.{at}.settled_on", "the business date, or one after it"))
    if each.kind == "sale" and (each.refund_of is not None or each.original is not None):
        faults.append(_fault(f"transactions.{at}.kind", "a refund, since it names a sale"))
    if each.refund_of is not None and each.original is not None:
        faults.append(_fault(f"transactions.{at}.original", "left out beside refund_of"))
    return faults


def _routed(directory: Directory, merchant_id: UUID, brand: str) -> UUID | None:
    """Where a sale would go first, by the rules that look at no more of it than its merchant and brand; by any if there is no such."""
    mcc = directory.merchants[merchant_id].mcc
    fitting = [route for route in directory.ordered_routes if route.merchant_id in (None, merchant_id) and route.brand in (None, brand)
               and (route.mccs is None or mcc in route.mccs)]
    return next((route.acquirer_id for route in sorted(fitting, key=routing.varies)), None)


def _checked(estimate: Bill, asked: Asked) -> None:
    """No number is better than a wrong one. Raises Problem invalid."""
    places = {sale.transaction_id: at for at, sale in enumerate(asked.sales)}
    faults = [(places[ident], "no tariff is in force for it on its business date, or none of its rules is for its currency")
              for ident in estimate.unpriced]
    faults += [(places[each.transaction_id], "interchange is passed on for it, and none is known: the operator has to agree the acquirer's costs")
               for each in estimate.priced if not each.cost_rule and any(line.kind == "interchange" for line in each.lines)]
    _refuse([_fault(f"transactions.{at}", rule) for at, rule in sorted(faults)])


def _shown(priced: Priced, sale: Sale, ident: str | None, costs: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": ident, "kind": sale.kind, "currency": sale.currency, "gross": priced.gross,
        "fee": priced.fee, "net": priced.gross - priced.fee, "tariff": None if priced.tariff_id is None else show("tariff", priced.tariff_id),
        "rule": priced.rule,
        "lines": [{"what": line.kind, "words": wording.line(line, sale.currency), "amount": line.amount} for line in priced.lines]}
    if costs:
        found["costs"] = {"interchange": priced.interchange, "scheme_fee": priced.scheme_fee, "acquirer_fee": priced.acquirer_fee,
                          "margin": priced.margin, "rule": priced.cost_rule}
    return found


def _totals(currency: str, of: Totals) -> dict[str, Any]:
    taxes = [{"name": each.tax.name, "basis_points": wording.basis_points(each.tax.rate), "inclusive": each.tax.inclusive, "base": each.base,
              "amount": each.amount} for each in of.taxes]
    return {"currency": currency, "sales_count": of.sales_count, "sales": of.sales, "refunds_count": of.refunds_count, "refunds": of.refunds,
            "fees": of.fees, "periodic": of.periodic, "taxes": taxes, "net": of.net}


def _told(estimate: Bill, asked: Asked, costs: bool) -> bytes:
    """The answer, written transaction by transaction: all in one call would hold the interpreter."""
    by_id = {priced.transaction_id: priced for priced in estimate.priced}
    transactions = ", ".join(json.dumps(_shown(by_id[sale.transaction_id], sale, ident, costs))
                             for ident, sale in zip(asked.ids, asked.sales, strict=True))
    rest = json.dumps({
        "fee_lines": [{"currency": each.currency, "rule": each.rule, "what": each.kind, "words": wording.summed(each), "count": each.times,
                       "amount": each.amount} for each in estimate.lines],
        "totals": [_totals(currency, of) for currency, of in sorted(estimate.totals.items())],
        "month_to_date": dict(sorted(estimate.month_to_date.items()))})
    return f'{{"transactions": [{transactions}], {rest[1:]}'.encode()


def router(parts: Callable[[], Parts], identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(responses=refused(401, 403, 422, 503))
    at_work: set[UUID | None] = set()

    @routes.post("/v1/fees/estimates", tags=["merchants"], summary="What up to 10,000 transactions cost, line by line, to the last minor unit",
                 openapi_extra=documented(EstimateRequest, EXAMPLE),
                 responses=shaped(200, "By the calculation that settles them", Estimate) | refused(400, 404, 413, 415))
    async def estimate(request: Request) -> Response:
        caller = require(identify(request), "merchant", "operator")
        headers = one_of_each(request.scope["headers"])
        check_content(headers)
        if caller.merchant_id in at_work or len(at_work) >= AT_ONCE:
            raise Problem("overloaded", "Another estimate is at work. Try again after Retry-After.", retry_after=1)
        at_work.add(caller.merchant_id)
        try:  # in threads: a long list must not keep payments waiting
            body, directory = await read_body(headers, request.receive, BODY_MAX), parts().directory
            asked = await asyncio.to_thread(_asked, body, caller, directory, datetime.now(UTC))
            acquirers = {sale.acquirer_id for sale in asked.sales if sale.acquirer_id is not None}
            if not acquirers <= directory.acquirers.keys():
                raise Problem("not_found", "There is no such acquirer.")
            prices = await tariffs.prices(parts().readers, asked.merchant_id, acquirers)
            return await asyncio.to_thread(_answer, prices, asked, caller.role == "operator")
        finally:
            at_work.discard(caller.merchant_id)

    return routes


def _answer(prices: tuple[list[Any], dict[UUID | None, list[Any]]], asked: Asked, costs: bool) -> Response:
    estimated = bill(prices[0], prices[1], asked.sales, asked.month_to_date, asked.counts)
    _checked(estimated, asked)
    return Response(_told(estimated, asked, costs), media_type="application/json", headers={"cache-control": "no-store"})
