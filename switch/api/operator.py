"""What operators do: onboard, route, watch the lines, and look at what waits for a person."""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from switch import alerts
from switch.api import raised, unmatched
from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import (
    MODELS,
    AcquirerChange,
    AcquirerRequest,
    KeyRequest,
    MerchantChange,
    MerchantRequest,
    NumbersRequest,
    OrganisationRequest,
    RouteRequest,
    StoreChange,
    StoreRequest,
    TerminalChange,
    TerminalRequest,
    body_of,
    identified,
    said,
    shown,
)
from switch.api.operators import operators
from switch.api.shapes import refused
from switch.callers import Caller, require
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import show
from switch.links import Link
from switch.links.roster import Roster
from switch.merchants import Acquirer, Key, Merchant, Numbers, Organisation, Route, Store, Terminal
from switch.merchants.catalogue import PAGE_MAX
from switch.merchants.onboarding import Onboarding
from switch.rights import PEOPLE

__all__ = ["EXAMPLES", "MODELS", "router"]

RECORDS: Mapping[str, type[Any]] = {"organisation": Organisation, "merchant": Merchant, "store": Store, "terminal": Terminal,
                                    "acquirer": Acquirer, "route": Route, "key": Key}
OWN = ("store", "terminal")  # what merchants and their staff read of their own
KEY_ID = re.compile("[!-~]{8,40}")
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]
Links = Callable[[], Mapping[UUID, Link]]

_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
_AT = "2026-03-01T02:03:04.000000Z"
_NUMBERS = {"acquirer": f"acq_{_ID}", "card_acceptor_terminal": "T0000001", "card_acceptor": "M00000000000001"}
_PLACE = {"latitude_e6": 31_230_416, "longitude_e6": 121_473_701}
# What is sent, and what is answered: a test holds both against the models and the real answers.
SENT: Mapping[str, dict[str, Any]] = {
    "organisation": {"name": "Harbour Group"},
    "merchant": {"organisation": f"org_{_ID}", "name": "Harbour Noodles", "mcc": "5812", "time_zone": "Asia/Shanghai", "duplicate_policy": "warn",
                 "undelivered": "alert"},
    "store": {"merchant": f"mer_{_ID}", "name": "Pier 3", "city": "Shanghai", "country": "CN", "time_zone": "Asia/Shanghai"},
    "terminal": {"store": f"sto_{_ID}", "name": "Till 1", "numbers": [_NUMBERS]},
    "acquirer": {"name": "harbour-bank", "dialect": "iso87_ascii", "message_mode": "single", "institution_code": "00010344",
                 "time_zone": "Asia/Shanghai", "answer_timeout_ms": 30_000, "reversal_grace_ms": 5_000, "min_in_flight": 16, "max_in_flight": 2048,
                 "max_links": 0,
                 "host": "10.0.0.5", "port": 5000, "reversal_codes": {"21": "acknowledged"}, "reversal_max_age_s": 259_200,
                 "reversals_per_second": 1000, "reversals_at_once": 200, "reversal_first": False, "reroute_codes": ["91"]},
    "route": {"acquirer": f"acq_{_ID}", "merchant": f"mer_{_ID}", "brand": "unionpay", "priority": 100, "name": "Large at lunch",
              "bin_low": "621234", "bin_high": "621299", "amount_min": 100_000, "amount_max": 999_999, "currencies": ["CNY"], "mccs": ["5812"],
              "entry_modes": ["chip", "contactless"], "weekdays": [1, 2, 3, 4, 5], "time_from": "11:00", "time_until": "14:30",
              "stores": [f"sto_{_ID}"], "date_from": "2026-12-01", "date_until": "2027-01-01", "weight": 70,
              "cost_basis_points": 35, "cost_fixed": 2, "healthy_percent": 90, "state": "active"},
    "key": {"role": "terminal", "terminal": f"trm_{_ID}", "expires_at": "2027-03-01T00:00:00Z"},
}
EXAMPLES: Mapping[str, dict[str, Any]] = {
    kind: {"id": f"{kind[:3]}_{_ID}", **sent, "created_at": _AT} for kind, sent in SENT.items()
} | {
    "merchant": {"id": f"mer_{_ID}", **SENT["merchant"], "status": "active", "unreferenced_refunds": False, "created_at": _AT},
    "store": {"id": f"sto_{_ID}", **SENT["store"], "created_at": _AT, "latitude_e6": None, "longitude_e6": None},
    "terminal": {"id": f"trm_{_ID}", "merchant": f"mer_{_ID}", **SENT["terminal"], "status": "active", "created_at": _AT},
    "acquirer": {"id": f"acq_{_ID}", **SENT["acquirer"], "status": "active", "business_date": "2026-03-01", "created_at": _AT},
    "route": {"id": f"rte_{_ID}", **SENT["route"], "created_by": "Li Wei", "created_at": _AT, "activated_by": "Li Wei", "activated_at": _AT,
              "retired_by": None, "retired_at": None},
    "key": {"id": "t0a1b2c3d4e5f607", **SENT["key"], "merchant": f"mer_{_ID}", "store": None, "person": None, "issued_by": "Li Wei",
            "created_at": _AT, "revoked_at": None},
    "line": {"acquirer": f"acq_{_ID}", "name": "harbour-bank", "host": "10.0.0.5", "port": 5000, "state": "up", "since": _AT, "pending": 3,
             "window": 2048, "sent": 1204, "answered": 1200, "timeouts": 1, "unmatched": 0, "late": 1, "undecodable": 0, "line_losses": 0,
             "reconnects": 0, "echo_failures": 0, "last_error": None, "last_answer_at": _AT, "breaker": "closed",
             "lines": [{"line": f"lin_{_ID}", "number": 1, "priority": 0, "host": "10.0.0.5", "port": 5000, "state": "up", "since": _AT, "pending": 3,
                        "last_error": None, "breaker": "closed", "breaker_since": _AT, "breaker_trips": 0, "tls": True, "certificate_ends_at": _AT}],
             "worker": 12, "machine": "till-host-1", "pid": 4711, "as_of": _AT, "age_ms": 1480},
    "alert": {"id": f"alr_{_ID}", "kind": "reversal_parked", "meaning": alerts.KINDS["reversal_parked"], "object": f"txn_{_ID}", "since": _AT,
              "last_at": _AT, "count": 1, "standing": None, "seen_at": None, "acknowledged_by": None, "acknowledged_at": None},
    "unmatched answer": {"id": 17, "acquirer": f"acq_{_ID}", "received_at": _AT, "reason": "late", "field": None, "detail": None,
                         "transaction": f"txn_{_ID}", "message": {"0": "0210", "11": "000123", "39": "00"}},
}


def _answered(kind: str, code: int = 200, /, **more: Any) -> dict[int | str, dict[str, Any]]:
    return {code: {"description": f"The {kind}", "content": {"application/json": {"example": {**EXAMPLES[kind], **more}}}}}


def _listed(kind: str, **more: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "One page", "content": {"application/json": {"example": {"items": [EXAMPLES[kind]], "next": None, **more}}}}}


WRITES = refused(400, 409, 413, 415)


def router(identify: Callable[[Request], Caller], onboarding: Onboarding, links: Links, pool: Pool,
           roster: Callable[[], Roster]) -> APIRouter:
    """All routes of operators. `pool` acts as `switch_writer`; `links`: this worker's lines by acquirer; `roster`: all workers'."""

    operator = operators(identify)
    routes = APIRouter(dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))
    for kind in RECORDS.keys() - OWN:
        _reads(routes, onboarding, kind, _all)
    shops = APIRouter(responses=refused(401, 403, 404, 422, 503))
    for kind in OWN:
        _reads(shops, onboarding, kind, owned_by(identify))
    _merchants(routes, onboarding)
    _terminals(routes, onboarding)
    _acquirers(routes, onboarding, operator)
    _keys(routes, onboarding, operator)
    _links(routes, onboarding, links, roster)
    raised.routes_of(routes, pool, operator, _listed("alert"), _answered("alert", acknowledged_by="Li Wei", acknowledged_at=_AT))
    unmatched.report(routes, pool, _listed("unmatched answer"))
    both = APIRouter()
    for each in (routes, shops):
        both.include_router(each)
    return both


def _ident(kind: str, text: str) -> UUID | str:
    """Raises Problem not_found for what is no id of that kind."""
    if kind != "key":
        return identified(kind, text)
    if not KEY_ID.fullmatch(text):
        raise Problem("not_found")
    return text


def _all() -> dict[str, UUID]:
    return {}


def owned_by(identify: Callable[[Request], Caller]) -> Callable[[Request], Awaitable[dict[str, UUID]]]:
    """The dependency of what merchants read of their own and operators of everybody: by whom a record must be owned. Raises Problem forbidden."""
    async def whose(request: Request) -> dict[str, UUID]:
        caller = require(identify(request), "merchant", "staff", "operator")
        return {name: ident for name, ident in (("merchant_id", caller.merchant_id), ("store_id", caller.store_id)) if ident is not None}

    return whose


def _of_merchant(merchant: Annotated[str | None, Query(description="mer_...")] = None) -> dict[str, UUID]:
    return {} if merchant is None else {"merchant_id": identified("merchant", merchant)}


def _of_store(of_merchant: Annotated[dict[str, UUID], Depends(_of_merchant)],
              store: Annotated[str | None, Query(description="sto_...")] = None) -> dict[str, UUID]:
    return of_merchant if store is None else {**of_merchant, "store_id": identified("store", store)}


WITHIN: Mapping[str, Callable[..., dict[str, UUID]]] = {"store": _of_merchant, "terminal": _of_store}


def _reads(routes: APIRouter, onboarding: Onboarding, kind: str, owner: Callable[..., Any]) -> None:
    record = RECORDS[kind]
    Own = Annotated[dict[str, UUID], Depends(owner)]

    @routes.get(f"/v1/{kind}s", tags=["onboarding"], summary=f"All {kind}s, newest first", responses=_listed(kind))
    async def page(own: Own, within: Annotated[dict[str, UUID], Depends(WITHIN.get(kind, _all))], limit: Limit = 50,
                   after: str | None = None) -> Response:
        if any(within.get(name, ident) != ident for name, ident in own.items()):
            raise Problem("not_found")
        if kind == "store" and "store_id" in own:
            return said({"items": [shown(await onboarding.get(record, own["store_id"]))], "next": None})
        found = await onboarding.page(record, limit, None if after is None else _ident(kind, after), **within | own)
        items = [shown(each) for each in found.items]
        return said({"items": items, "next": items[-1]["id"] if found.next is not None else None})

    @routes.get(f"/v1/{kind}s/{{ident}}", tags=["onboarding"], summary=f"One {kind}", responses=_answered(kind))
    async def one(own: Own, ident: str) -> Response:
        found = await onboarding.get(record, _ident(kind, ident))
        if any(getattr(found, name) != whose for name, whose in own.items()):
            raise Problem("not_found")
        return said(shown(found))


def _merchants(routes: APIRouter, onboarding: Onboarding) -> None:
    @routes.post("/v1/organisations", tags=["onboarding"], summary="Add an organisation, which owns merchants", status_code=201,
                 openapi_extra=documented(OrganisationRequest, SENT["organisation"]), responses=WRITES | _answered("organisation", 201))
    async def add_organisation(request: Request) -> Response:
        wanted = await body_of(request, OrganisationRequest)
        return said(shown(await onboarding.organisation(wanted.name)), 201)

    @routes.post("/v1/merchants", tags=["onboarding"], summary="Add a merchant to an organisation", status_code=201,
                 openapi_extra=documented(MerchantRequest, SENT["merchant"]), responses=WRITES | _answered("merchant", 201))
    async def add_merchant(request: Request) -> Response:
        wanted = await body_of(request, MerchantRequest)
        return said(shown(await onboarding.merchant(identified("organisation", wanted.organisation), wanted.name, wanted.mcc,
                                                    wanted.time_zone, wanted.duplicate_policy, wanted.undelivered)), 201)

    @routes.patch("/v1/merchants/{ident}", tags=["onboarding"],
                  summary="Suspend, reactivate or close a merchant; what happens to undelivered approvals",
                  openapi_extra=documented(MerchantChange, {"status": "suspended"}), responses=WRITES | _answered("merchant", status="suspended"))
    async def change_merchant(request: Request, ident: str) -> Response:
        wanted = await body_of(request, MerchantChange)
        merchant_id = identified("merchant", ident)
        if wanted.status is not None:
            await onboarding.merchant_status(merchant_id, wanted.status)
        if wanted.undelivered is not None:
            await onboarding.merchant_undelivered(merchant_id, wanted.undelivered)
        return said(shown(await onboarding.get(Merchant, merchant_id)))

    @routes.post("/v1/stores", tags=["onboarding"], summary="Add a store to a merchant", status_code=201,
                 openapi_extra=documented(StoreRequest, SENT["store"]), responses=WRITES | _answered("store", 201))
    async def add_store(request: Request) -> Response:
        wanted = await body_of(request, StoreRequest)
        return said(shown(await onboarding.store(identified("merchant", wanted.merchant), wanted.name, wanted.city, wanted.country,
                                                 wanted.time_zone)), 201)

    @routes.patch("/v1/stores/{ident}", tags=["onboarding"], summary="Say where a store is, which tells how far its terminals are from it",
                  openapi_extra=documented(StoreChange, _PLACE), responses=WRITES | _answered("store", **_PLACE))
    async def change_store(request: Request, ident: str) -> Response:
        wanted = await body_of(request, StoreChange)
        return said(shown(await onboarding.store_place(identified("store", ident), wanted.latitude_e6, wanted.longitude_e6)))


def _terminals(routes: APIRouter, onboarding: Onboarding) -> None:
    @routes.post("/v1/terminals", tags=["onboarding"], summary="Add a terminal to a store", status_code=201,
                 openapi_extra=documented(TerminalRequest, SENT["terminal"]), responses=WRITES | _answered("terminal", 201))
    async def add_terminal(request: Request) -> Response:
        wanted = await body_of(request, TerminalRequest)
        numbers = None if wanted.numbers is None else [
            Numbers(identified("acquirer", each.acquirer), each.card_acceptor_terminal, each.card_acceptor) for each in wanted.numbers]
        return said(shown(await onboarding.terminal(identified("store", wanted.store), wanted.name, numbers)), 201)

    @routes.patch("/v1/terminals/{ident}", tags=["onboarding"], summary="Suspend, reactivate or retire a terminal",
                  openapi_extra=documented(TerminalChange, {"status": "suspended"}), responses=WRITES | _answered("terminal", status="suspended"))
    async def change_terminal(request: Request, ident: str) -> Response:
        wanted = await body_of(request, TerminalChange)
        return said(shown(await onboarding.terminal_status(identified("terminal", ident), wanted.status)))

    @routes.post("/v1/terminals/{ident}/numbers", tags=["onboarding"], summary="Give a terminal its numbers at an acquirer", status_code=201,
                 openapi_extra=documented(NumbersRequest, _NUMBERS), responses=WRITES | _answered("terminal", 201))
    async def add_numbers(request: Request, ident: str) -> Response:
        wanted = await body_of(request, NumbersRequest)
        return said(shown(await onboarding.number(identified("terminal", ident), identified("acquirer", wanted.acquirer),
                                                  wanted.card_acceptor_terminal, wanted.card_acceptor)), 201)


def _acquirers(routes: APIRouter, onboarding: Onboarding, operator: Callable[[Request], Any]) -> None:
    @routes.post("/v1/acquirers", tags=["onboarding"], summary="Add an acquirer with its line", status_code=201,
                 openapi_extra=documented(AcquirerRequest, SENT["acquirer"]), responses=WRITES | _answered("acquirer", 201))
    async def add_acquirer(request: Request) -> Response:
        wanted = await body_of(request, AcquirerRequest)
        return said(shown(await onboarding.acquirer(**wanted.model_dump())), 201)

    @routes.patch("/v1/acquirers/{ident}", tags=["onboarding"], summary="Take an acquirer up or down on every worker, move or retime its line",
                  openapi_extra=documented(AcquirerChange, {"status": "draining"}), responses=WRITES | _answered("acquirer", status="draining"))
    async def change_acquirer(request: Request, ident: str) -> Response:
        wanted = await body_of(request, AcquirerChange)
        return said(shown(await onboarding.change_acquirer(identified("acquirer", ident), **wanted.model_dump())))

    @routes.post("/v1/routes", tags=["routing"], summary="Add a rule: which sales go to an acquirer; in force at once, or a draft",
                 status_code=201, openapi_extra=documented(RouteRequest, SENT["route"]), responses=WRITES | _answered("route", 201))
    async def add_route(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, RouteRequest)
        merchant_id = None if wanted.merchant is None else identified("merchant", wanted.merchant)
        return said(shown(await onboarding.route(identified("acquirer", wanted.acquirer), merchant_id, by=str(caller.person),
                                                 stores=None if wanted.stores is None else [identified("store", each) for each in wanted.stores],
                                                 **wanted.model_dump(exclude={"acquirer", "merchant", "stores"}))), 201)


def _keys(routes: APIRouter, onboarding: Onboarding, operator: Callable[[Request], Any]) -> None:
    def may(caller: Caller, role: str) -> Caller:
        if role in PEOPLE and caller.role_of_key != "administrator":
            raise Problem("forbidden", f"A key of the role {role} is given and revoked by an administrator.")
        return caller

    @routes.post("/v1/keys", tags=["onboarding"], summary="Issue a key; its text is in this answer and never again", status_code=201,
                 openapi_extra=documented(KeyRequest, SENT["key"]),
                 responses=WRITES | _answered("key", 201, key="tk_t0a1b2c3d4e5f607.(43 characters)"))
    async def issue_key(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, KeyRequest)
        issued = await onboarding.key(
            wanted.role, person=wanted.person, expires_at=wanted.expires_at, issued_by=may(caller, wanted.role).person,
            terminal_id=None if wanted.terminal is None else identified("terminal", wanted.terminal),
            store_id=None if wanted.store is None else identified("store", wanted.store),
            merchant_id=None if wanted.merchant is None else identified("merchant", wanted.merchant))
        return said({**shown(issued.key), "key": issued.text}, 201)

    @routes.post("/v1/keys/{ident}/revoke", tags=["onboarding"], summary="Revoke a key for ever", responses=_answered("key", revoked_at=_AT))
    async def revoke_key(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        key_id = str(_ident("key", ident))
        if key_id != caller.key_id:  # anybody may end their own
            may(caller, (await onboarding.get(Key, key_id)).role)
        return said(shown(await onboarding.revoke_key(key_id)))


def _line(snapshot: dict[str, Any]) -> dict[str, Any]:
    acquirer_id = UUID(snapshot.pop("acquirer_id"))
    times = {name: stamp(snapshot[name]) for name in ("since", "last_answer_at", "as_of")}
    return {"acquirer": show("acquirer", acquirer_id), **snapshot, **times, "lines": [_each(line) for line in snapshot["lines"]]}


def _each(line: dict[str, Any]) -> dict[str, Any]:
    times = {name: stamp(line[name]) for name in ("since", "breaker_since", "certificate_ends_at")}
    return {**line, **times, "line": show("line", UUID(line["line"])) if line["line"] else None}


STATUS_OF = {"drain": "draining", "down": "down", "up": "active"}  # of the acquirer, which every worker follows


def _links(routes: APIRouter, onboarding: Onboarding, links: Links, roster: Callable[[], Roster]) -> None:
    def own(link: Link) -> dict[str, Any]:
        return _line(roster().of(link))

    @routes.get("/v1/links", tags=["operations"], responses=_listed("line", complete=True),
                summary="The lines of all workers: those of the one that answers as they are, the others' as they wrote them down (as_of)")
    async def lines() -> Response:
        mine = [own(link) for link in links().values()]
        try:
            others = [_line(line) for line in await roster().others()]
        except UNKNOWN:  # what this worker sees is worth the more when the database is away
            return said({"items": mine, "next": None, "complete": False})
        return said({"items": sorted(mine + others, key=lambda line: (line["name"], line["worker"])), "next": None, "complete": True})

    @routes.post("/v1/links/{acquirer}/{verb}", tags=["operations"], responses=_answered("line") | refused(409),
                 summary="Drain, take down or up, or sign on an acquirer's line, at every worker; answers when this one's is done")
    async def act(acquirer: str, verb: Literal["drain", "down", "up", "sign-on"]) -> Response:
        acquirer_id = identified("acquirer", acquirer)
        link = links().get(acquirer_id)
        if link is None:
            raise Problem("not_found")
        if verb == "sign-on" and link.state in ("down", "draining"):
            raise Problem("conflict", "An operator has taken this line out; take it up first, then it signs on.")
        if verb == "sign-on":  # all workers hear of it by the directory, this one too
            await onboarding.change_acquirer(acquirer_id, sign_on=True)
            return said(own(link))
        changed = await onboarding.change_acquirer(acquirer_id, status=STATUS_OF[verb])
        if verb == "drain":  # whoever waits for an answer may wait as long as its timer says
            await link.drain(changed.answer_timeout_ms / 1000)
        elif verb == "down":
            await link.down()
        else:
            await link.up()
        return said(own(link))
