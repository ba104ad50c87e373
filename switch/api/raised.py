"""Alerts as operators read them, and who has taken one on."""

from collections.abc import Callable
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from switch import alerts
from switch.api.answers import stamp
from switch.api.onboard import identified, paged, said
from switch.api.unmatched import fetched
from switch.callers import Caller
from switch.database import Pool
from switch.errors import Problem
from switch.ids import show
from switch.merchants.catalogue import PAGE_MAX

_STANDING = f"seen_at > now() - interval '{alerts.OVER_S} seconds'"
_COLUMNS = f"alert_id, kind, object, since, last_at, count, {_STANDING} AS standing, seen_at, acknowledged_by, acknowledged_at"
ALERTS = f"""SELECT {_COLUMNS} FROM alert
WHERE ($1::uuid IS NULL OR alert_id < $1) AND ($3::boolean IS NULL OR (acknowledged_at IS NOT NULL) = $3) AND ($4::text IS NULL OR kind = $4)
AND ($5::boolean IS NULL OR ({_STANDING}) = $5) ORDER BY alert_id DESC LIMIT $2"""
ACKNOWLEDGE = f"""UPDATE alert SET acknowledged_by = coalesce(acknowledged_by, $2), acknowledged_at = coalesce(acknowledged_at, now())
WHERE alert_id = $1 RETURNING {_COLUMNS}"""
Standing = Annotated[bool | None, Query(description=f"true: still so, as a worker has found within {alerts.OVER_S} s; false: over since")]


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": show("alert", row["alert_id"]), "kind": row["kind"], "meaning": alerts.KINDS.get(row["kind"]), "object": row["object"],
            "since": stamp(row["since"]), "last_at": stamp(row["last_at"]), "count": row["count"],
            "standing": row["standing"], "seen_at": stamp(row["seen_at"]),
            "acknowledged_by": row["acknowledged_by"], "acknowledged_at": stamp(row["acknowledged_at"])}


def routes_of(routes: APIRouter, pool: Pool, operator: Callable[[Request], Any], listed: dict[int | str, dict[str, Any]],
              answered: dict[int | str, dict[str, Any]]) -> None:
    """Adds both routes; `listed` and `answered` document their answers."""

    @routes.get("/v1/alerts", tags=["operations"], summary="Alerts, newest first", responses=listed)
    async def page(limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50, after: str | None = None, acknowledged: bool | None = None,
                   kind: Annotated[str | None, Query(max_length=40)] = None, standing: Standing = None) -> Response:
        if kind is not None and kind not in alerts.KINDS:
            raise Problem("invalid", "One or more parameters are wrong; see errors.",
                          errors=[{"field": "query.kind", "rule": f"one of: {', '.join(sorted(alerts.KINDS))}", "type": "kind"}])
        rows = await fetched(pool, ALERTS, None if after is None else identified("alert", after), limit + 1, acknowledged, kind, standing)
        return paged([_shown(row) for row in rows], limit)

    @routes.post("/v1/alerts/{ident}/acknowledge", tags=["operations"], summary="Take an alert on; who did stays named until it is raised again",
                 responses=answered)
    async def acknowledge(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        rows = await fetched(pool, ACKNOWLEDGE, identified("alert", ident), caller.person)
        if not rows:
            raise Problem("not_found")
        return said(_shown(rows[0]))
