"""The report of answers that matched no open request: one by one, and summed by acquirer, reason and the field that differed."""

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import asyncpg
from fastapi import APIRouter, Query
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.days import From, To, in_order
from switch.api.onboard import identified, paged, said
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import show

PAGE_MAX = 200
SUMS_MAX = 1000
SUMMED = timedelta(days=1)  # when no `from` is given

Reason = Literal["no_request", "differs", "late", "duplicate", "undecodable", "unknown_mti", "bad_mac", "not_authentic"]

UNMATCHED = """SELECT unmatched_id, acquirer_id, received_at, reason, field, transaction_id, message, detail FROM history_unmatched
WHERE ($1::bigint IS NULL OR unmatched_id < $1) AND ($3::uuid IS NULL OR acquirer_id = $3) AND ($4::text IS NULL OR reason = $4)
  AND ($5::timestamptz IS NULL OR received_at >= $5) AND ($6::timestamptz IS NULL OR received_at < $6)
ORDER BY unmatched_id DESC LIMIT $2"""
SUMS = """SELECT acquirer_id, reason, field, count(*) AS count, min(received_at) AS first_at, max(received_at) AS last_at FROM history_unmatched
WHERE received_at >= $1 AND received_at < $2 AND ($3::uuid IS NULL OR acquirer_id = $3)
GROUP BY acquirer_id, reason, field ORDER BY count DESC, acquirer_id, reason, field LIMIT $4"""

_ACQUIRER = "acq_01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
EXAMPLE = {"from": "2026-03-01T00:00:00.000000Z", "to": "2026-03-02T00:00:00.000000Z", "items": [
    {"acquirer": _ACQUIRER, "reason": "differs", "field": "4", "count": 3, "first_at": "2026-03-01T02:03:04.000000Z",
     "last_at": "2026-03-01T02:05:00.000000Z"}]}


async def fetched(pool: Pool, statement: str, *arguments: Any) -> list[asyncpg.Record]:
    """Raises Problem not_ready."""
    try:
        return await pool.fetch(statement, *arguments)
    except UNKNOWN:
        raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None


def _shown(row: asyncpg.Record) -> dict[str, Any]:
    return {"id": row["unmatched_id"], "acquirer": show("acquirer", row["acquirer_id"]), "received_at": stamp(row["received_at"]),
            "reason": row["reason"], "field": row["field"], "detail": row["detail"],
            "transaction": None if row["transaction_id"] is None else show("transaction", row["transaction_id"]),
            "message": None if row["message"] is None else json.loads(row["message"])}


def _sum(row: asyncpg.Record) -> dict[str, Any]:
    return {"acquirer": show("acquirer", row["acquirer_id"]), "reason": row["reason"], "field": row["field"], "count": row["count"],
            "first_at": stamp(row["first_at"]), "last_at": stamp(row["last_at"])}


def report(routes: APIRouter, pool: Pool, listed: dict[int | str, dict[str, Any]]) -> None:
    """Adds both routes; `listed` documents a page of the first."""

    @routes.get("/v1/unmatched-answers", tags=["operations"], summary="Messages of acquirers that answered no open request, newest first",
                responses=listed)
    async def unmatched(limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50, after: Annotated[int | None, Query(ge=1, lt=2**63)] = None,
                        acquirer: str | None = None, reason: Reason | None = None, since: From = None, until: To = None) -> Response:
        acquirer_id = None if acquirer is None else identified("acquirer", acquirer)
        in_order(since, until)
        rows = [_shown(row) for row in await fetched(pool, UNMATCHED, after, limit + 1, acquirer_id, reason, since, until)]
        return paged(rows, limit)

    @routes.get("/v1/unmatched-answers/summary", tags=["operations"],
                summary="How many by acquirer, reason and differing field; of the last day unless told",
                responses={200: {"description": "The sums, greatest first", "content": {"application/json": {"example": EXAMPLE}}}})
    async def summary(acquirer: str | None = None, since: From = None, until: To = None) -> Response:
        acquirer_id = None if acquirer is None else identified("acquirer", acquirer)
        to = until or datetime.now(UTC)
        begin = since or to - SUMMED
        in_order(begin, to)
        rows = await fetched(pool, SUMS, begin, to, acquirer_id, SUMS_MAX)
        return said({"from": stamp(begin), "to": stamp(to), "items": [_sum(row) for row in rows]})
