"""Background jobs for operators: what runs, what waits and why; try again, cancel."""

from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from switch.api.answers import stamp
from switch.api.onboard import identified, paged, said
from switch.api.operators import operators, person
from switch.api.shapes import refused
from switch.callers import Caller
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import show
from switch.settlement.jobs import table
from switch.settlement.jobs.table import Job

_ID = "01980b53-7a10-7c3e-9f52-3b7a1c0de4f1"
_AT = "2026-03-01T02:03:04.000000Z"
EXAMPLE: Mapping[str, Any] = {
    "id": f"job_{_ID}", "kind": "export", "key": "0192f0c4-7c1e-7aaa-8bbb-1234567890ab", "merchant": f"mer_{_ID}", "arguments": {"format": "xlsx"},
    "asked_by": "merchant", "state": "failed", "progress": {"done": 40_000, "total": 100_000}, "detail": {}, "error": "OSError at exports.py:88",
    "attempts": 5, "cancel_asked_by": None, "not_before": _AT, "created_at": _AT, "started_at": _AT, "ended_at": _AT,
}
State = Literal["queued", "running", "waiting", "done", "failed", "cancelled"]
Limit = Annotated[int, Query(ge=1, le=table.PAGE_MAX)]


def shown(job: Job) -> dict[str, Any]:
    return {"id": show("job", job.job_id), "kind": job.kind, "key": job.key,
            "merchant": None if job.merchant_id is None else show("merchant", job.merchant_id), "arguments": dict(job.arguments),
            "asked_by": job.asked_by, "state": job.state, "progress": {"done": job.progress_done, "total": job.progress_total},
            "detail": dict(job.detail), "error": job.error, "attempts": job.attempts, "cancel_asked_by": job.cancel_asked_by,
            "not_before": stamp(job.not_before), "created_at": stamp(job.created_at), "started_at": stamp(job.started_at),
            "ended_at": stamp(job.ended_at)}


def _answered(**more: Any) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": "The job", "content": {"application/json": {"example": {**EXAMPLE, **more}}}}}


def router(identify: Callable[[Request], Caller], pool: Pool, kinds: Callable[[], Collection[str]]) -> APIRouter:
    """`pool` acts as `switch_writer`; `kinds`: the names of this release's."""

    operator = operators(identify)
    routes = APIRouter(dependencies=[Depends(operator)], responses=refused(401, 403, 404, 422, 503))

    @routes.get("/v1/jobs", tags=["operations"], summary="Background jobs, newest first",
                responses={200: {"description": "One page", "content": {"application/json": {"example": {"items": [dict(EXAMPLE)], "next": None}}}}})
    async def page(limit: Limit = 50, after: str | None = None, state: State | None = None,
                   kind: Annotated[str | None, Query(max_length=40)] = None) -> Response:
        async with _books():
            found = await table.page(pool, limit + 1, None if after is None else identified("job", after), state, kind)
        if not found and kind is not None and kind not in kinds():  # those of a newer release may be listed
            raise Problem("invalid", "There is no such kind of job.",
                          errors=[{"field": "kind", "rule": f"one of {', '.join(sorted(kinds()))}", "type": "rule"}])
        items = [shown(job) for job in found]
        return paged(items, limit)

    @routes.get("/v1/jobs/{ident}", tags=["operations"], summary="One background job", responses=_answered())
    async def one(ident: str) -> Response:
        async with _books():
            return said(shown(await table.one(pool, identified("job", ident))))

    @routes.post("/v1/jobs/{ident}/retry", tags=["operations"], responses=refused(409) | _answered(state="queued", error=None, ended_at=None),
                 summary="Try a job again that failed, waits or was cancelled: now, and with all its attempts")
    async def retry(ident: str) -> Response:
        async with _books(), pool.acquire() as connection:
            return said(shown(await table.retry(connection, identified("job", ident))))

    @routes.post("/v1/jobs/{ident}/cancel", tags=["operations"], responses=refused(409) | _answered(state="cancelled", cancel_asked_by="Li Wei"),
                 summary="Cancel a job; one that runs stops within seconds, and what it has committed stays")
    async def cancel(ident: str, caller: Annotated[Caller, Depends(operator)]) -> Response:
        async with _books(), pool.acquire() as connection:
            return said(shown(await table.cancel(connection, identified("job", ident), person(caller))))

    return routes


class _books:
    """Raises Problem not_ready when the database is not there."""

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, UNKNOWN):
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
