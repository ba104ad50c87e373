"""Choosing an acquirer: offers side by side with what was measured, ratings, and what a business needs."""

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, Field
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import Ident, body_of, identified, paged, said
from switch.api.operators import operators, person
from switch.api.resolving import plain_text
from switch.api.shapes import Shape, refused, shaped
from switch.api.terminal import Model
from switch.callers import Caller, require
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import show
from switch.merchants.choosing import needs
from switch.merchants.choosing.months import SALES_MAX, Month, Part, percentile
from switch.merchants.choosing.needs import Answers
from switch.merchants.choosing.offers import PAGE_MAX, Compared, total
from switch.merchants.journey import Journey
from switch.money import CURRENCIES
from switch.settlement.fees import wording
from switch.settlement.fees.bills import Bill

Name = Annotated[str, Field(min_length=1, max_length=120), AfterValidator(plain_text)]
Money = Annotated[int, Field(ge=1, le=10**14)]
Mcc = Annotated[str, Field(pattern="^[0-9]{4}$")]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$")]
Country = Annotated[str, Field(pattern="^[A-Z]{2}$")]
Count = Annotated[int, Field(ge=1, le=1000)]
Days = Annotated[int, Field(ge=1, le=90)]
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
MEASURED_DAYS = 30


class AcquirerOfferRequest(Model):
    """What an acquirer offers: `terms` is a document of fees as tariffs have it; `funding_days`: T+n in business days; `country`: null for any."""

    acquirer: Ident
    name: Name
    country: Country | None = None
    terms: dict[str, Any]
    funding_days: Annotated[int, Field(ge=0, le=60)]


class PartRequest(Model):
    """A part of the sales; `share` is its weight among all parts."""

    brand: Annotated[str, Field(pattern="^[a-z0-9_-]{1,40}$")] = "unionpay"
    card_type: Literal["debit", "credit", "prepaid", "unknown"] = "unknown"
    method: Literal["card", "qr"] = "card"
    share: Annotated[int, Field(ge=1, le=100)] = 1


class ComparisonRequest(Model):
    """A month to be priced under every offer. `days`: the window of what was measured."""

    country: Country | None = None
    mcc: Mcc
    currency: Currency
    monthly_volume: Money
    average_ticket: Money
    parts: Annotated[list[PartRequest], Field(min_length=1, max_length=20)]
    terminals: Count = 1
    stores: Count = 1
    days: Days = MEASURED_DAYS


class NeedsRequest(Model):
    """The questionnaire. `budget`: a month, in minor units; `membership` and `stock`: kept on the terminal."""

    country: Country
    mcc: Mcc
    currency: Currency
    monthly_volume: Money
    average_ticket: Money
    methods: Annotated[list[Literal["card", "qr", "register"]], Field(min_length=1, max_length=3)]
    place: Literal["counter", "table", "outdoors", "unattended"]
    stores: Count = 1
    terminals: Count = 1
    equipment: Literal["rent", "buy"] = "rent"
    membership: bool = False
    stock: bool = False
    budget: Money | None = None


class RatingRequest(Model):
    """1 to 5 stars. A later one takes the place of the one before, which is kept."""

    acquirer: Ident
    stars: Annotated[int, Field(ge=1, le=5)]
    words: Annotated[str, Field(max_length=500), AfterValidator(plain_text)] = ""


MODELS = (AcquirerOfferRequest, ComparisonRequest, PartRequest, NeedsRequest, RatingRequest)


class ShownOffer(Shape):
    id: str
    acquirer: str
    name: str
    country: str | None
    terms: dict[str, Any]
    funding_days: int
    state: Literal["draft", "active", "retired"]
    created_by: str
    created_at: str
    activated_by: str | None
    activated_at: str | None
    retired_by: str | None
    retired_at: str | None


class OfferPage(Shape):
    items: list[ShownOffer]
    next: str | None


class FeeOfMonth(Shape):
    rule: str
    what: str
    words: str
    count: int
    amount: int


class MonthlyCost(Shape):
    """`total` = fees + periodic + tax that comes on top. `net_of_sales`: what is left of the volume."""

    currency: str
    sales: int
    volume: int
    lines: list[FeeOfMonth]
    fees: int
    periodic: int
    tax: int
    total: int
    net_of_sales: int


class Measured(Shape):
    """Of recorded requests of whole UTC days; null where there was none. Rates in hundredths of a percent. `answered`: the host said yes or no;
    `uptime`: of the minutes in which it was asked, those in which it answered; `p50_ms`: so many were answered within that time, from
    the terminal's request to the outcome. `measured_at`: when the last of these days was summed up."""

    days: int
    measured_at: str | None
    asked: int
    approval_basis_points: int | None
    answered_basis_points: int | None
    uptime_basis_points: int | None
    p50_ms: int | None
    p95_ms: int | None


class Rating(Shape):
    count: int
    hundredths: int | None


class ComparedOffer(Shape):
    """`why_not`: why it has no price for the month."""

    offer: str
    name: str
    acquirer: str
    acquirer_name: str
    funding_days: int
    methods: list[str]
    verbs: list[str]
    measured: Measured
    rating: Rating
    cost: MonthlyCost | None
    why_not: str | None


class Comparison(Shape):
    """The cheapest first."""

    items: list[ComparedOffer]


class AdvisedTerminal(Shape):
    """`price`: to buy one, in CNY minor units; null when rented, which the plan's monthly cost has."""

    model: str
    what: str
    count: int
    why: str
    price: int | None


class SuggestedMethod(Shape):
    method: str
    why: str
    asked: bool


class Recommendation(Shape):
    """`plan`: the cheapest offer whose acquirer can all methods that were asked for; null when there is none."""

    terminal: AdvisedTerminal
    methods: list[SuggestedMethod]
    plan: ComparedOffer | None
    within_budget: bool | None
    others: list[ComparedOffer]


class ShownRating(Shape):
    acquirer: str
    number: int
    stars: int
    words: str
    at: str


class Parts(Protocol):
    """What these routes need of the switch."""

    journey: Journey
    directory: Directory


OFFER = {"acquirer": f"acq_{_ID}", "name": "Retail", "country": "CN", "funding_days": 1,
         "terms": {"name": "Retail", "currency": "CNY", "rules": [{"name": "All", "price": {"basis_points": 60}}],
                   "periodic": [{"name": "Terminal rent", "per": "terminal", "amount": 5000}]}}
COMPARE = {"country": "CN", "mcc": "5812", "currency": "CNY", "monthly_volume": 8_000_000, "average_ticket": 8_000, "days": 30,
           "parts": [{"brand": "unionpay", "card_type": "debit", "share": 2}, {"brand": "visa", "card_type": "credit", "share": 1}]}
NEEDS = {"country": "CN", "mcc": "5812", "currency": "CNY", "monthly_volume": 8_000_000, "average_ticket": 8_000, "methods": ["card", "qr"],
         "place": "table", "stores": 1, "terminals": 2, "equipment": "rent", "budget": 80_000}
RATING = {"acquirer": f"acq_{_ID}", "stars": 4, "words": "paid on time"}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    routes = APIRouter(tags=["choosing"], responses=refused(401, 403, 404, 422, 503))
    _offers(routes, parts, operators(identify))
    changes = refused(400, 409, 413, 415)

    @routes.post("/v1/offers/comparisons", summary="A month under every offer, side by side, with what was measured of each acquirer",
                 openapi_extra=documented(ComparisonRequest, COMPARE), responses=shaped(200, "The cheapest first", Comparison) | changes)
    async def compare(request: Request) -> Response:
        require(identify(request), "operator", "merchant", "applicant")
        wanted = await body_of(request, ComparisonRequest)
        month = _month(wanted, tuple(Part(each.brand, each.card_type, each.method, each.share) for each in wanted.parts), wanted.terminals)
        found = await parts.journey.offers.compare(month, wanted.country, wanted.days)
        return said({"items": [compared(each, month, wanted.days, parts.directory) for each in found]})

    @routes.post("/v1/recommendations", summary="Terminals, payment methods and a plan for a business, with every fee of a month",
                 openapi_extra=documented(NeedsRequest, NEEDS), responses=shaped(200, "By rules, each with its reason", Recommendation) | changes)
    async def recommend(request: Request) -> Response:
        require(identify(request), "operator", "merchant", "applicant")
        return said(await _recommended(parts, await body_of(request, NeedsRequest)))

    @routes.post("/v1/ratings", status_code=201, summary="Rate an acquirer that you sold through",
                 openapi_extra=documented(RatingRequest, RATING), responses=shaped(201, "The rating that counts from now on", ShownRating) | changes)
    async def rate(request: Request) -> Response:
        caller = require(identify(request), "merchant")
        assert caller.merchant_id is not None
        wanted = await body_of(request, RatingRequest)
        row = await parts.journey.offers.rate(caller.merchant_id, identified("acquirer", wanted.acquirer), wanted.stars, wanted.words,
                                              f"merchant key {caller.key_id}")
        return said({"acquirer": show("acquirer", row["acquirer_id"]), "number": row["number"], "stars": row["stars"], "words": row["words"],
                     "at": stamp(row["at"])}, 201)

    return routes


def _offers(routes: APIRouter, parts: Parts, operator: Any) -> None:
    changes = refused(400, 409, 413, 415)

    @routes.post("/v1/offers", status_code=201, summary="What an acquirer offers; a draft", openapi_extra=documented(AcquirerOfferRequest, OFFER),
                 responses=shaped(201, "The offer", ShownOffer) | changes)
    async def add(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, AcquirerOfferRequest)
        row = await parts.journey.offers.add(identified("acquirer", wanted.acquirer), wanted.name, wanted.country, wanted.terms,
                                             wanted.funding_days, person(caller))
        return said(shown(row), 201)

    @routes.get("/v1/offers", summary="All offers, newest first", responses=shaped(200, "One page", OfferPage), dependencies=[Depends(operator)])
    async def page(state: Literal["draft", "active", "retired"] | None = None, limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
                   after: Annotated[str | None, Query(max_length=64)] = None) -> Response:
        rows = await parts.journey.offers.page(None if after is None else identified("offer", after), state, limit)
        return paged([shown(row) for row in rows], limit)

    @routes.post("/v1/offers/{ident}/activate", summary="Show a draft to all", responses=shaped(200, "The offer", ShownOffer) | refused(409))
    async def activate(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(shown(await parts.journey.offers.switch(identified("offer", ident), person(caller), on=True)))

    @routes.post("/v1/offers/{ident}/retire", summary="Take an offer back for good; again changes nothing",
                 responses=shaped(200, "The offer", ShownOffer))
    async def retire(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(shown(await parts.journey.offers.switch(identified("offer", ident), person(caller), on=False)))


def shown(row: Any) -> dict[str, Any]:
    body = {"id": show("offer", row["offer_id"]), "acquirer": show("acquirer", row["acquirer_id"]), "name": row["name"], "country": row["country"],
            "terms": json.loads(row["terms"]), "funding_days": row["funding_days"], "state": row["state"], "created_by": row["created_by"],
            "created_at": stamp(row["created_at"])}
    for step in ("activated", "retired"):
        body |= {f"{step}_by": row[f"{step}_by"], f"{step}_at": stamp(row[f"{step}_at"])}
    return body


def _month(wanted: Any, parts: tuple[Part, ...], terminals: int) -> Month:
    """Raises Problem invalid."""
    month = Month(wanted.currency, wanted.monthly_volume, wanted.average_ticket, wanted.mcc, parts, terminals, wanted.stores)
    faults = [("currency", "an ISO 4217 alpha code")] if wanted.currency not in CURRENCIES else []
    if month.sales > SALES_MAX:
        faults.append(("average_ticket", f"so that the month has at most {SALES_MAX} sales; else ask with a list of sales at /v1/fees/estimates"))
    if faults:
        raise Problem("invalid", "One or more fields are wrong; see errors.",
                      errors=[{"field": field, "rule": rule, "type": "rule"} for field, rule in faults])
    return month


async def _recommended(parts: Parts, wanted: Any) -> dict[str, Any]:
    answers = Answers(wanted.country, wanted.mcc, wanted.currency, wanted.monthly_volume, wanted.average_ticket, frozenset(wanted.methods),
                      wanted.place, wanted.stores, wanted.terminals, wanted.equipment, wanted.membership, wanted.stock, wanted.budget)
    terminal, bought = needs.advice(answers), wanted.equipment == "buy"
    asked = [method for method in ("card", "qr") if method in answers.methods] or ["card"]  # a register's link is paid by card
    sold = tuple(Part("unionpay" if method == "card" else "wechat", "unknown", method, 1) for method in asked)
    month = _month(wanted, sold, 0 if bought else terminal.pieces)
    found = await parts.journey.offers.compare(month, wanted.country, MEASURED_DAYS)
    offers = [compared(each, month, MEASURED_DAYS, parts.directory) for each in found]
    fitting = [each for each in offers if each["cost"] is not None and set(asked) <= set(each["methods"])]
    plan = fitting[0] if fitting else None
    return {
        "terminal": {"model": terminal.model.name, "what": terminal.model.what, "count": terminal.pieces, "why": terminal.why,
                     "price": terminal.model.price if bought else None},
        "methods": [each._asdict() for each in needs.methods(answers)], "plan": plan,
        "within_budget": None if plan is None or wanted.budget is None else plan["cost"]["total"] <= wanted.budget,
        "others": [each for each in offers if each is not plan],
    }


def compared(each: Compared, month: Month, days: int, directory: Directory) -> dict[str, Any]:
    row = each.row
    acquirer = directory.acquirers.get(row["acquirer_id"])
    dialect = None if acquirer is None else acquirer.dialect
    modes = set() if dialect is None else set(dialect.entry_modes)
    rated = each.rating
    return {
        "offer": show("offer", row["offer_id"]), "name": row["name"], "acquirer": show("acquirer", row["acquirer_id"]),
        "acquirer_name": "" if acquirer is None else acquirer.name, "funding_days": row["funding_days"],
        "methods": [*(["card"] if modes - {"qr"} else []), *(["qr"] if "qr" in modes else [])],
        "verbs": [] if dialect is None else sorted({verb.partition(".")[0] for verb in dialect.messages}),
        "measured": _measured(each, days),
        "rating": {"count": rated["count"] if rated else 0, "hundredths": rated["stars"] * 100 // rated["count"] if rated else None},
        "cost": None if each.bill is None else _cost(each.bill, month), "why_not": each.why or None,
    }


def _measured(each: Compared, days: int) -> dict[str, Any]:
    figures = each.figures
    decided = figures["approved"] + figures["declined"] if figures else 0

    def of(part: int, whole: int) -> int | None:
        return part * 10_000 // whole if whole else None

    return {"days": days, "measured_at": stamp(figures["measured_at"]) if figures else None, "asked": figures["asked"] if figures else 0,
            "approval_basis_points": of(figures["approved"], decided) if figures else None,
            "answered_basis_points": of(decided, figures["asked"]) if figures else None,
            "uptime_basis_points": of(figures["minutes_answered"], figures["minutes"]) if figures else None,
            "p50_ms": percentile(each.times, 50), "p95_ms": percentile(each.times, 95)}


def _cost(bill: Bill, month: Month) -> dict[str, Any]:
    totals = bill.totals[month.currency]
    cost = total(bill, month.currency)
    return {"currency": month.currency, "sales": totals.sales_count, "volume": totals.sales,
            "lines": [{"rule": line.rule, "what": line.kind, "words": wording.summed(line), "count": line.times, "amount": line.amount}
                      for line in bill.lines],
            "fees": totals.fees, "periodic": totals.periodic, "tax": totals.tax, "total": cost, "net_of_sales": totals.sales - cost}
