"""What operators do about rules: switch them on and off, ask why a sale goes where it goes, and try rules against sales that were made."""

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.responses import Response

from switch import logs
from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import Ident, Instant, body_of, identified, said, shown
from switch.api.shapes import Shape, Status, refused, shaped
from switch.api.terminal import Currency, Model
from switch.callers import Caller, require
from switch.database import Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import instant, show
from switch.merchants.onboarding import Onboarding
from switch.payments import explanation, rehearsal
from switch.payments.authorization import Authorizations
from switch.payments.drafts import new_id
from switch.payments.explanation import Judged
from switch.payments.history import History
from switch.payments.rehearsal import Moved, Rehearsal
from switch.payments.rerouting import ATTEMPTS_MAX
from switch.payments.routing import HealthOf, Sale, unmeasured
from switch.payments.transaction import STATUS, Transaction
from switch.records import Acquirer, Merchant, Route, Terminal

EntryMode = Literal["chip", "contactless", "magstripe", "manual", "fallback"]
SHOWN_DIGITS = 8  # of a card number
EXPLAINED_MAX = 1000  # rules in one answer
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"


class ExplainRequest(Model):
    """A sale that might be made. `bin`: the first digits of the card, never all. `transaction`: the id that draws where rules share; a new one
    when not given. `at`: now when not given."""

    terminal: Ident
    bin: Annotated[str, Field(pattern="^[0-9]{6,12}$")]
    amount: Annotated[int, Field(ge=0, le=999_999_999_999)]
    currency: Currency
    entry_mode: EntryMode = "chip"
    at: Instant | None = None
    transaction: Ident | None = None


class TryRequest(Model):
    """Rules to be tried: drafts that would be switched on, rules that would be switched off; against the sales of a period, `to` excluded,
    the newest `limit` of them, of one merchant or of all."""

    activate: Annotated[list[Ident], Field(max_length=50, default_factory=list)]
    retire: Annotated[list[Ident], Field(max_length=50, default_factory=list)]
    since: Annotated[Instant, Field(alias="from")]
    until: Annotated[Instant, Field(alias="to")]
    merchant: Ident | None = None
    limit: Annotated[int, Field(ge=1, le=rehearsal.SALES_MAX)] = 10_000


class ActivateRequest(Model):
    """`retires`: rules that this one takes the place of, in the same commit."""

    retires: Annotated[list[Ident], Field(max_length=50, default_factory=list)]


MODELS = (ExplainRequest, TryRequest, ActivateRequest)


class ExplainedSale(Shape):
    transaction: str
    merchant: str
    terminal: str
    mcc: str
    brand: str
    bin: str
    amount: int
    currency: str
    entry_mode: str
    at: str


class Alternative(Shape):
    """`asked` and `answered`: of this worker's last requests; null for a sale in the books, whose lines are not known any more."""

    place: int
    acquirer: str
    name: str
    route: str
    route_name: str | None
    why: list[str]
    line: str | None
    asked: int | None
    answered: int | None


class OtherRule(Shape):
    route: str
    name: str | None
    acquirer: str
    state: Literal["draft", "active", "retired"]
    priority: int
    why_not: list[str]


class Recorded(Shape):
    """What became of it. `attempt`: 1 is the first; `as_explained`: whether the first attempt went where the rules of then say. It may have
    gone elsewhere because a line was down, full or not well."""

    acquirer: str
    status: Status
    attempt: int
    as_explained: bool


class Explanation(Shape):
    sale: ExplainedSale
    alternatives: list[Alternative]
    others: list[OtherRule]
    recorded: Recorded | None


class Share(Shape):
    """Sales that an acquirer gets first; null: no rule leads anywhere. `share_basis_points`: in hundredths of a percent."""

    acquirer: str | None
    name: str | None
    sales: int
    share_basis_points: int


class MovedSale(Shape):
    transaction: str
    amount: int
    currency: str
    brand: str
    before: str | None
    after: str | None
    route: str | None


class Fired(Shape):
    route: str
    name: str | None
    sales: int


class Trial(Shape):
    """`whole`: false when the period has more sales than were looked at, which are the newest. Every acquirer counts as well, since its lines of
    then are not known; `recorded` is where the first attempts really went."""

    looked_at: int
    whole: bool
    recorded: list[Share]
    before: list[Share]
    after: list[Share]
    moved: int
    moved_basis_points: int
    fired: list[Fired]
    examples: list[MovedSale]


class ShownRoute(Shape):
    id: str
    acquirer: str
    merchant: str | None
    brand: str | None
    priority: int
    name: str | None
    bin_low: str | None
    bin_high: str | None
    amount_min: int | None
    amount_max: int | None
    currencies: list[str] | None
    mccs: list[str] | None
    entry_modes: list[str] | None
    weekdays: list[int] | None
    time_from: str | None
    time_until: str | None
    weight: int | None
    cost_basis_points: int | None
    cost_fixed: int | None
    healthy_percent: int | None
    stores: list[str] | None
    date_from: str | None
    date_until: str | None
    state: Literal["draft", "active", "retired"]
    created_by: str
    created_at: str
    activated_by: str | None
    activated_at: str | None
    retired_by: str | None
    retired_at: str | None


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    history: History
    readers: Pool
    onboarding: Onboarding
    authorizations: Authorizations


EXPLAIN = {"terminal": f"trm_{_ID}", "bin": "62123456", "amount": 25_000, "currency": "CNY", "entry_mode": "contactless",
           "at": "2026-03-01T04:10:00Z", "transaction": f"txn_{_ID}"}
TRY = {"activate": [f"rte_{_ID}"], "retire": [], "from": "2026-03-01T00:00:00Z", "to": "2026-03-02T00:00:00Z", "limit": 10_000}


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    async def operator(request: Request) -> Caller:
        caller = require(identify(request), "operator")
        if request.method != "GET":
            logs.info("operator", method=request.method, path=request.scope["route"].path, detail=caller.key_id)
        return caller

    routes = APIRouter(tags=["routing"], dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))

    @routes.get("/v1/routes/explain", summary="Why a transaction went where it went, by the rules of its time",
                responses=shaped(200, "Which rule fired, and what spoke against each other", Explanation) | refused(409))
    async def explain_recorded(transaction: Annotated[str, Query(max_length=64)]) -> Response:
        return said(await _recorded(parts, identified("transaction", transaction)))

    @routes.post("/v1/routes/explain", summary="Why a sale would go where it would go, now or at a time to come",
                 openapi_extra=documented(ExplainRequest, EXPLAIN),
                 responses=shaped(200, "Which rule fires, and what speaks against each other", Explanation) | refused(400, 413, 415))
    async def explain_sale(request: Request) -> Response:
        return said(_imagined(parts, await body_of(request, ExplainRequest)))

    @routes.post("/v1/routes/try", summary="Where the sales of a period would go by other rules; nothing is written",
                 openapi_extra=documented(TryRequest, TRY),
                 responses=shaped(200, "Counts before and after, and examples of what moves", Trial) | refused(400, 409, 413, 415))
    async def try_rules(request: Request) -> Response:
        return said(await _tried(parts, await body_of(request, TryRequest)))

    @routes.post("/v1/routes/{route}/activate", summary="Switch a draft on, and those off whose place it takes",
                 openapi_extra=documented(ActivateRequest, {"retires": [f"rte_{_ID}"]}),
                 responses=shaped(200, "The rule, in force at every worker within a second", ShownRoute) | refused(400, 409, 413, 415))
    async def activate(request: Request, route: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, ActivateRequest)
        retires = [identified("route", each) for each in wanted.retires]
        return said(shown(await parts.onboarding.switch_route(identified("route", route), str(caller.person), on=True, retires=retires)))

    @routes.post("/v1/routes/{route}/retire", summary="Switch a rule off for good; again changes nothing",
                 responses=shaped(200, "The rule, out of force at every worker within a second", ShownRoute))
    async def retire(route: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(shown(await parts.onboarding.switch_route(identified("route", route), str(caller.person), on=False)))

    return routes


def _imagined(parts: Parts, wanted: ExplainRequest) -> dict[str, Any]:
    directory = parts.directory
    terminal = directory.terminals.get(identified("terminal", wanted.terminal))
    if terminal is None:
        raise Problem("not_found")
    merchant = directory.merchants[terminal.merchant_id]
    identity = new_id() if wanted.transaction is None else identified("transaction", wanted.transaction)
    at = wanted.at or datetime.now(UTC)
    brand = directory.brand(wanted.bin.ljust(12, "0"))
    sale = Sale(merchant.merchant_id, merchant.mcc, brand.brand if brand is not None else "unknown", wanted.bin, wanted.amount, wanted.currency,
                wanted.entry_mode, at.astimezone(merchant.zone), identity, terminal.store_id)
    return _explained(parts, list(directory.routes.values()), sale, terminal, merchant, at, parts.authorizations.alternatives.health)


async def _recorded(parts: Parts, transaction_id: UUID) -> dict[str, Any]:
    row = await parts.history.transaction(transaction_id)
    directory = parts.directory
    if row is None:
        raise Problem("not_found")
    if row.original_id is not None:
        raise Problem("conflict", "A follow-up goes to the acquirer that authorised; ask about its original.")
    first, attempt = await _first_attempt(parts.history, row)
    terminal, merchant = directory.terminals[row.terminal_id], directory.merchants[row.merchant_id]
    sale = Sale(row.merchant_id, row.mcc, row.brand, row.masked_pan.partition("*")[0], row.amount, row.currency, row.entry_mode,
                row.received_at.astimezone(merchant.zone), first.transaction_id, row.store_id)
    rules = explanation.in_force(directory.routes.values(), instant(first.transaction_id))
    told = _explained(parts, rules, sale, terminal, merchant, row.received_at, None)
    led = [each["acquirer"] for each in told["alternatives"][:1]]
    return {**told, "recorded": {"acquirer": show("acquirer", row.acquirer_id), "status": STATUS[row.state], "attempt": attempt,
                                 "as_explained": led == [show("acquirer", first.acquirer_id)]}}


async def _first_attempt(history: History, row: Transaction) -> tuple[Transaction, int]:
    """What the key's first attempt was, and the how many-th this one is."""
    attempt = 1
    while row.attempt_of is not None and attempt < ATTEMPTS_MAX:
        before = await history.transaction(row.attempt_of)
        if before is None:
            break
        row, attempt = before, attempt + 1
    return row, attempt


def _explained(parts: Parts, rules: list[Route], sale: Sale, terminal: Terminal, merchant: Merchant, at: datetime,
               health: HealthOf | None) -> dict[str, Any]:
    acquirers = parts.directory.acquirers
    judged = explanation.explain(rules, sale, terminal.numbers, acquirers, health or unmeasured)
    return {
        "sale": {"transaction": show("transaction", sale.identity), "merchant": show("merchant", merchant.merchant_id),
                 "terminal": show("terminal", terminal.terminal_id), "mcc": sale.mcc, "brand": sale.brand, "bin": sale.bin[:SHOWN_DIGITS],
                 "amount": sale.amount, "currency": sale.currency, "entry_mode": sale.entry_mode, "at": stamp(at.astimezone(UTC))},
        "alternatives": [_alternative(parts, each, acquirers[each.route.acquirer_id], health) for each in judged if each.place is not None],
        "others": [{"route": show("route", each.route.route_id), "name": each.route.name, "acquirer": show("acquirer", each.route.acquirer_id),
                    "state": each.route.state, "priority": each.route.priority, "why_not": list(each.why)}
                   for each in judged if each.place is None][:EXPLAINED_MAX],
        "recorded": None,
    }


def _alternative(parts: Parts, judged: Judged, acquirer: Acquirer, health: HealthOf | None) -> dict[str, Any]:
    link = parts.authorizations.links.get(acquirer.acquirer_id)
    seen = None if health is None else health(acquirer.acquirer_id)
    return {"place": judged.place, "acquirer": show("acquirer", acquirer.acquirer_id), "name": acquirer.name,
            "route": show("route", judged.route.route_id), "route_name": judged.route.name, "why": list(judged.why),
            "line": None if seen is None else "absent" if link is None else link.state,
            "asked": None if seen is None else seen.asked, "answered": None if seen is None else seen.answered}


async def _tried(parts: Parts, wanted: TryRequest) -> dict[str, Any]:
    directory = parts.directory
    on, off = ({identified("route", each) for each in named} for named in (wanted.activate, wanted.retire))
    if not (on | off) <= directory.routes.keys():
        raise Problem("not_found")
    if any(directory.routes[each].state != "draft" for each in on) or any(directory.routes[each].state != "active" for each in off):
        raise Problem("conflict", "Only drafts can be tried as switched on, and only rules in force as switched off.")
    if wanted.until <= wanted.since:
        raise Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": "to", "rule": "later than from", "type": "rule"}])
    found = await rehearsal.rehearse(parts.readers, directory, rehearsal.changed(directory.routes.values(), on, off), wanted.since, wanted.until,
                                     None if wanted.merchant is None else identified("merchant", wanted.merchant), wanted.limit)
    return _rehearsed(found, directory)


def _rehearsed(found: Rehearsal, directory: Directory) -> dict[str, Any]:
    looked_at = found.looked_at
    return {
        "looked_at": looked_at, "whole": found.whole, "recorded": _shares(Counter(found.recorded), directory, looked_at),
        "before": _shares(found.before, directory, looked_at), "after": _shares(found.after, directory, looked_at),
        "moved": found.moved, "moved_basis_points": found.moved * 10_000 // max(1, looked_at),
        "fired": [{"route": show("route", route_id), "name": directory.routes[route_id].name, "sales": sales}
                  for route_id, sales in found.fired.most_common()],
        "examples": [_moved(each) for each in found.examples],
    }


def _shares(counts: Counter[Any], directory: Directory, of: int) -> list[dict[str, Any]]:
    named = directory.acquirers
    return [{"acquirer": None if each is None else show("acquirer", each), "name": named[each].name if each in named else None, "sales": sales,
             "share_basis_points": sales * 10_000 // max(1, of)} for each, sales in counts.most_common()]


def _moved(each: Moved) -> dict[str, Any]:
    before, after = (None if route is None else show("acquirer", route.acquirer_id) for route in (each.before, each.after))
    return {"transaction": show("transaction", each.transaction_id), "amount": each.amount, "currency": each.currency, "brand": each.brand,
            "before": before, "after": after, "route": None if each.after is None else show("route", each.after.route_id)}
