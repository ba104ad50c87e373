"""What operators do about reversals, and the second person's word: list, retry, resolve; approvals."""

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

import asyncpg
from fastapi import APIRouter, Depends, Query, Request
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.documented import documented
from switch.api.onboard import body_of, identified, paged, said
from switch.api.operators import operators, person
from switch.api.shapes import refused
from switch.api.terminal import Model
from switch.callers import Caller
from switch.ids import show
from switch.merchants.approvals import PAGE_MAX, Approvals
from switch.payments.resolution import Person, Resolution
from switch.security.pan import holds_card_number

RESOLVE = "resolve_reversal"
_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
_AT = "2026-03-01T02:03:04.000000Z"
ASKED = {"resolution": "reversed", "reason": "The acquirer reversed it by hand, its reference 4711 of 1 March"}
EXAMPLES: Mapping[str, dict[str, Any]] = {
    "reversal": {"transaction": f"txn_{_ID}", "acquirer": f"acq_{_ID}", "amount": 10000, "currency": "CNY", "state": "parked", "cause": "silence",
                 "stan": "000124", "transmissions": 2, "created_at": _AT, "last_sent_at": _AT, "last_code": "21", "next_attempt_at": None,
                 "parked_reason": "code", "age_s": 3600},
    "approval": {"id": f"app_{_ID}", "kind": RESOLVE, "object": f"txn_{_ID}", "payload": {"resolution": "reversed"}, "reason": ASKED["reason"],
                 "requested_by": "Li Wei", "requested_at": _AT, "expires_at": "2026-03-02T02:03:04.000000Z", "state": "waiting", "decided_by": None,
                 "decided_at": None},
}
Limit = Annotated[int, Query(ge=1, le=PAGE_MAX)]


def plain_text(text: str) -> str:
    """A reason is shown and stored in clear."""
    if not text.isprintable() or text != text.strip():
        raise PydanticCustomError("reason", "Printable characters, no space at either end")
    if holds_card_number(text):
        raise PydanticCustomError("card_number", "It must not hold a card number")
    return text


class ResolveRequest(Model):
    """`reversed`: nothing stands at the acquirer. `confirmed`: the sale stands there, with `approved_amount` if it is not the whole."""

    resolution: Literal["reversed", "confirmed"]
    reason: Annotated[str, Field(min_length=10, max_length=500), AfterValidator(plain_text)]
    approved_amount: Annotated[int, Field(ge=0)] | None = None


MODELS = (ResolveRequest,)


def _reversal(row: asyncpg.Record) -> dict[str, Any]:
    plain = ("amount", "currency", "state", "cause", "stan", "transmissions", "last_code", "parked_reason", "age_s")
    times = {"created_at": row["created_at"], "last_sent_at": row["last_sent_at"],
             "next_attempt_at": row["next_attempt_at"] if row["state"] == "open" else None}
    return {"transaction": show("transaction", row["transaction_id"]), "acquirer": show("acquirer", row["acquirer_id"]),
            **{name: row[name] for name in plain}, **{name: stamp(value) for name, value in times.items()}}


def shown_approval(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("approval", row["approval_id"]), "payload": json.loads(row["payload"]),
            **{name: row[name] for name in ("kind", "object", "reason", "requested_by", "state", "decided_by")},
            **{name: stamp(row[name]) for name in ("requested_at", "expires_at", "decided_at")}}


def _answered(kind: str, code: int = 200, /, **more: Any) -> dict[int | str, dict[str, Any]]:
    return {code: {"description": f"The {kind}", "content": {"application/json": {"example": {**EXAMPLES[kind], **more}}}}}


def _listed(kind: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "One page", "content": {"application/json": {"example": {"items": [EXAMPLES[kind]], "next": None}}}}}


def router(identify: Callable[[Request], Caller], resolution: Resolution, approvals: Approvals) -> APIRouter:
    operator = operators(identify)
    routes = APIRouter(dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))
    _reversals(routes, operator, resolution, approvals)
    _approvals(routes, operator, approvals)
    return routes


def _person(caller: Caller) -> Person:
    return Person(person(caller), caller.key_id)


def _id(kind: str, text: str | None) -> UUID | None:
    return None if text is None else identified(kind, text)


def _reversals(routes: APIRouter, operator: Callable[[Request], Any], resolution: Resolution, approvals: Approvals) -> None:
    @routes.get("/v1/reversals", tags=["operations"], summary="Reversals that are owed: open, or parked for a person", responses=_listed("reversal"))
    async def page(limit: Limit = 50, after: str | None = None, state: Literal["open", "parked"] | None = None,
                   acquirer: str | None = None) -> Response:
        states = ("open", "parked") if state is None else (state,)
        rows = await resolution.page(states, _id("acquirer", acquirer), _id("transaction", after), limit + 1)
        return paged([_reversal(row) for row in rows], limit, "transaction")

    @routes.post("/v1/reversals/{ident}/retry", tags=["operations"], responses=refused(409) | _answered("reversal", state="open"),
                 summary="Send it again now; a parked one is opened again")
    async def retry(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(_reversal(await resolution.retry(identified("transaction", ident), _person(caller))))

    @routes.post("/v1/reversals/{ident}/resolve", tags=["operations"], status_code=202,
                 summary="Ask a second person to resolve a parked reversal by hand", openapi_extra=documented(ResolveRequest, ASKED),
                 responses=refused(400, 409, 413, 415) | _answered("approval", 202))
    async def resolve(request: Request, ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        identity, wanted = identified("transaction", ident), await body_of(request, ResolveRequest)
        payload = await resolution.asked(identity, wanted.resolution, wanted.approved_amount)
        row = await approvals.request(RESOLVE, show("transaction", identity), payload, wanted.reason, _person(caller))
        return said(shown_approval(row), 202)


def _approvals(routes: APIRouter, operator: Callable[[Request], Any], approvals: Approvals) -> None:
    @routes.get("/v1/approvals", tags=["operations"], summary="What waits for a second person, or was decided", responses=_listed("approval"))
    async def page(limit: Limit = 50, after: str | None = None,
                   state: Literal["waiting", "approved", "refused", "expired", "all"] = "waiting") -> Response:
        rows = await approvals.page(None if state == "all" else state, _id("approval", after), limit + 1)
        return paged([shown_approval(row) for row in rows], limit, "id")

    @routes.post("/v1/approvals/{ident}", tags=["operations"], summary="Approve what another person asked for: it is done in the same commit",
                 responses=refused(409) | _answered("approval", state="approved", decided_by="Wang Fang", decided_at=_AT))
    async def approve(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(shown_approval(await approvals.approve(identified("approval", ident), _person(caller))))

    @routes.post("/v1/approvals/{ident}/refuse", tags=["operations"], summary="Refuse it, or take back what you asked for",
                 responses=refused(409) | _answered("approval", state="refused", decided_by="Wang Fang", decided_at=_AT))
    async def refuse(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        return said(shown_approval(await approvals.refuse(identified("approval", ident), _person(caller))))
