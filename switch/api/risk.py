"""What operators do about risk: rules, merchants' limits and lists, trying a rule on what was sold, and the review of what sales hit."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, Protocol
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, paged, said
from switch.api.operators import operators, person
from switch.api.risk_shapes import (
    CONFIRM,
    ENTRY,
    HIT,
    LIMIT,
    MODELS,
    RULE,
    TRY,
    ActivateRiskRequest,
    EntryRequest,
    LimitRequest,
    RiskDecisionRequest,
    RiskRuleRequest,
    ShownEntry,
    ShownHit,
    ShownLimit,
    ShownRiskRule,
    ShownTrial,
    TryRiskRequest,
)
from switch.api.shapes import refused, shaped
from switch.callers import Caller
from switch.clock import clock
from switch.database import Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import show
from switch.merchants.risk_rules import RiskRules
from switch.payments import risk_trial
from switch.payments.away import TRIED, nearest_m
from switch.payments.reviews import Reviews
from switch.payments.risk_trial import RiskTrial
from switch.payments.transaction import STATUS

__all__ = ["MODELS", "router"]

Limit = Annotated[int, Query(ge=1, le=200)]
Ident = Annotated[str | None, Query(max_length=64)]
WRITES = refused(400, 409, 413, 415)


class Protection(Protocol):
    """Rules, limits and lists, and the review of hits."""

    @property
    def rules(self) -> RiskRules: ...
    @property
    def reviews(self) -> Reviews: ...


class Parts(Protocol):
    """What these routes need of the switch."""

    directory: Directory
    readers: Pool

    @property
    def protection(self) -> Protection: ...


def router(parts: Parts, identify: Callable[[Request], Caller]) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(tags=["risk"], dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))
    _rules(routes, parts, operator)
    _limits(routes, parts, operator)
    _lists(routes, parts, operator)
    _hits(routes, parts, operator)
    return routes


def _one_page(example: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "One page", "content": {"application/json": {"example": {"items": [example], "next": None}}}}}


def _kept(routes: APIRouter, parts: Parts, path: str, kind: str, model: type[Any], what: str) -> None:
    """Reading what is written once: a page of all, and one."""
    @routes.get(f"/v1/{path}", summary=f"All {what}s, newest first", responses=_one_page(_EXAMPLES[kind]))
    async def page(limit: Limit = 50, after: Ident = None) -> Response:
        rows = await parts.protection.rules.page(kind, limit, None if after is None else identified(kind, after))
        return paged([shown(kind, row) for row in rows], limit)

    @routes.get(f"/v1/{path}/{{ident}}", summary=f"One {what}", responses=shaped(200, f"The {what}", model))
    async def one(ident: str) -> Response:
        return said(shown(kind, await parts.protection.rules.get(kind, identified(kind, ident))))


def _rules(routes: APIRouter, parts: Parts, operator: Any) -> None:
    @routes.post("/v1/risk-rules", status_code=201, summary="Write a risk rule; a draft, unless it says otherwise",
                 openapi_extra=documented(RiskRuleRequest, RULE), responses=shaped(201, "The rule", ShownRiskRule) | WRITES)
    async def add(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = (await body_of(request, RiskRuleRequest)).model_dump()
        state, merchant = wanted.pop("state"), wanted.pop("merchant")
        merchant_id = None if merchant is None else identified("merchant", merchant)
        return said(shown("risk_rule", await parts.protection.rules.rule(state, person(caller), merchant_id, **wanted)), 201)

    @routes.post("/v1/risk-rules/try", summary="What rules would have hit among the sales of a period; nothing is written",
                 openapi_extra=documented(TryRiskRequest, TRY),
                 responses=shaped(200, "Counts before and after, by rule, and examples", ShownTrial) | WRITES)
    async def tried(request: Request) -> Response:
        return said(await _tried(parts, await body_of(request, TryRiskRequest)))

    _kept(routes, parts, "risk-rules", "risk_rule", ShownRiskRule, "risk rule")
    _switched(routes, parts, operator, "risk-rules", "risk_rule", ShownRiskRule)


def _switched(routes: APIRouter, parts: Parts, operator: Any, path: str, kind: str, model: type[Any]) -> None:
    example = {"retires": [_EXAMPLES[kind]["id"]]}

    @routes.post(f"/v1/{path}/{{ident}}/activate", summary="Switch a draft on, and those off whose place it takes",
                 openapi_extra=documented(ActivateRiskRequest, example),
                 responses=shaped(200, "In force at every worker within a second", model) | WRITES)
    async def activate(ident: str, request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, ActivateRiskRequest)
        retires = tuple(identified(kind, each) for each in wanted.retires)
        return said(shown(kind, await parts.protection.rules.switch(kind, identified(kind, ident), person(caller), on=True, retires=retires)))

    @routes.post(f"/v1/{path}/{{ident}}/retire", summary="Switch it off for good; again changes nothing",
                 responses=shaped(200, "Out of force at every worker within a second", model))
    async def retire(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(shown(kind, await parts.protection.rules.switch(kind, identified(kind, ident), person(caller), on=False)))


def _limits(routes: APIRouter, parts: Parts, operator: Any) -> None:
    @routes.post("/v1/merchant-limits", status_code=201, summary="Limit what a merchant may sell in one currency",
                 openapi_extra=documented(LimitRequest, LIMIT), responses=shaped(201, "The limit", ShownLimit) | WRITES)
    async def add(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, LimitRequest)
        return said(shown("limit", await parts.protection.rules.limit(
            wanted.state, person(caller), identified("merchant", wanted.merchant), wanted.currency, wanted.per_sale, wanted.per_day,
            wanted.per_month)), 201)

    _kept(routes, parts, "merchant-limits", "limit", ShownLimit, "limit")
    _switched(routes, parts, operator, "merchant-limits", "limit", ShownLimit)


def _lists(routes: APIRouter, parts: Parts, operator: Any) -> None:
    @routes.post("/v1/risk-lists", status_code=201, summary="Put a card, terminal or merchant on a list",
                 openapi_extra=documented(EntryRequest, ENTRY), responses=shaped(201, "The entry", ShownEntry) | WRITES)
    async def add(request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, EntryRequest)
        named = [(subject, getattr(wanted, subject)) for subject in ("token", "transaction", "terminal", "merchant") if getattr(wanted, subject)]
        if len(named) != 1:
            raise Problem("invalid", "One or more fields are wrong; see errors.",
                          errors=[{"field": "token", "rule": "exactly one of token, transaction, terminal, merchant", "type": "rule"}])
        (subject, text), = named
        value: UUID | bytes = bytes.fromhex(text) if subject == "token" else identified(subject, text)
        return said(shown("risk_entry", await parts.protection.rules.entry(
            "card" if subject == "token" else subject, value, wanted.verdict, wanted.reason, person(caller))), 201)

    @routes.post("/v1/risk-lists/{ident}/end", summary="Take it off its list; again changes nothing",
                 responses=shaped(200, "Off at every worker within a second", ShownEntry))
    async def end(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(shown("risk_entry", await parts.protection.rules.end(identified("risk_entry", ident), person(caller))))

    _kept(routes, parts, "risk-lists", "risk_entry", ShownEntry, "list entry")


def _hits(routes: APIRouter, parts: Parts, operator: Any) -> None:
    @routes.get("/v1/risk-hits", summary="What sales hit, newest first",
                responses=_one_page(HIT))
    async def page(state: Literal["open", "dismissed", "confirmed"] | None = None, merchant: Ident = None, rule: Ident = None, limit: Limit = 50,
                   after: Ident = None) -> Response:
        rows = await parts.protection.reviews.page(
            state, limit, None if after is None else identified("risk_hit", after), None if merchant is None else identified("merchant", merchant),
            None if rule is None else identified("risk_rule", rule))
        return paged([hit(row) for row in rows], limit)

    @routes.get("/v1/risk-hits/{ident}", summary="One hit", responses=shaped(200, "The hit", ShownHit))
    async def one(ident: str) -> Response:
        return said(hit(await parts.protection.reviews.get(identified("risk_hit", ident))))

    for verb, decision in (("dismiss", "dismissed"), ("confirm", "confirmed")):
        _decides(routes, parts, operator, verb, decision)


def _decides(routes: APIRouter, parts: Parts, operator: Any, verb: str, decision: str) -> None:
    @routes.post(f"/v1/risk-hits/{{ident}}/{verb}", summary=f"Decide about a hit: {decision}", openapi_extra=documented(RiskDecisionRequest, CONFIRM),
                 responses=shaped(200, "The hit; what a dismissed one holds or blocks is free within a second", ShownHit) | WRITES)
    async def decide(ident: str, request: Request, caller: Annotated[Caller, Depends(operator)]) -> Response:
        wanted = await body_of(request, RiskDecisionRequest)
        return said(hit(await parts.protection.reviews.decide(identified("risk_hit", ident), decision, person(caller), wanted.reason)))


_EXAMPLES = {"risk_rule": {"id": TRY["activate"][0], **RULE}, "limit": {"id": TRY["activate"][0].replace("rrl_", "lim_"), **LIMIT},
             "risk_entry": {"id": TRY["activate"][0].replace("rrl_", "rle_"), **ENTRY}}
_OWN = {"risk_rule": "rule_id", "limit": "limit_id", "risk_entry": "entry_id"}


def shown(kind: str, row: Any) -> dict[str, Any]:
    """A record as it is answered; a list entry names its terminal or merchant as others do."""
    body: dict[str, Any] = {"id": show(kind, row[_OWN[kind]])}
    for name, value in dict(row).items():
        if name == "merchant_id":
            body["merchant"] = None if value is None else show("merchant", value)
        elif name == "rule_id" and kind == "risk_entry":
            body["rule"] = None if value is None else show("risk_rule", value)
        elif name == "value" and row["subject"] != "card":
            body["value"] = show(row["subject"], UUID(value))
        elif name != _OWN[kind]:
            body[name] = stamp(value) if isinstance(value, datetime) else value
    return body


_SOURCES = {"rule": "risk_rule", "limit": "limit", "list": "risk_entry"}


def hit(row: Any) -> dict[str, Any]:
    names = ("kind", "action", "why", "masked_pan", "amount", "currency", "times", "state", "decided_by", "reason", "held")
    return {
        "id": show("risk_hit", row["hit_id"]), **{kind: show(kind, row[f"{kind}_id"]) for kind in ("merchant", "store", "terminal")},
        "transaction": None if row["transaction_id"] is None else show("transaction", row["transaction_id"]),
        "source": show(_SOURCES[row["source"]], row["source_id"]), **{name: row[name] for name in names}, "figures": json.loads(row["figures"]),
        "token": row["pan_token"].hex(), "at": stamp(row["hit_at"]), "last_at": stamp(row["last_at"]),
        "decided_at": None if row["decided_at"] is None else stamp(row["decided_at"]),
    }


async def _tried(parts: Parts, wanted: TryRiskRequest) -> dict[str, Any]:
    known = parts.directory.risk_rules
    on, off = ({identified("risk_rule", each) for each in named} for named in (wanted.activate, wanted.retire))
    if not (on | off) <= known.keys():
        raise Problem("not_found")
    if any(known[each].state != "draft" for each in on) or any(known[each].state != "active" for each in off):
        raise Problem("conflict", "Only drafts can be tried as switched on, and only rules in force as switched off.")
    if wanted.until <= wanted.since:
        raise Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": "to", "rule": "later than from", "type": "rule"}])
    if wanted.since < clock.now() - TRIED and nearest_m(known[each]._replace(state="active") for each in on | off) is not None:
        raise Problem("invalid", "One or more fields are wrong; see errors.",
                      errors=[{"field": "from", "rule": f"within the last {TRIED.days} days, for the kind relocated", "type": "rule"}])
    rules = risk_trial.changed(known.values(), on, off)
    found = await risk_trial.rehearse(parts.readers, parts.directory, rules, wanted.since, wanted.until, wanted.limit)
    return _trial(found, parts.directory)


def _trial(found: RiskTrial, directory: Directory) -> dict[str, Any]:
    return {
        "looked_at": found.looked_at, "whole": found.whole, "before": risk_trial.by_action(found.before), "after": risk_trial.by_action(found.after),
        "fired": [{"rule": show("risk_rule", rule_id), "name": directory.risk_rules[rule_id].name, "action": directory.risk_rules[rule_id].action,
                   "hits": each.hits, "approved": each.approved, "charged_back": each.charged_back, "cards": len(each.cards),
                   "merchants": len(each.merchants)}
                  for rule_id, each in sorted(found.fired.items(), key=lambda item: -item[1].hits)],
        "examples": [{"transaction": show("transaction", each.transaction_id), "amount": each.amount, "currency": each.currency,
                      "masked_pan": each.masked_pan, "status": STATUS[each.state], "why": [hit.why for hit in each.hits]}
                     for each in found.examples],
    }
