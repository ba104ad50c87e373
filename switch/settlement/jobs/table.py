"""Jobs: what runs in the background. A closed table of kinds, one row per job, and the statements that move it.

A row is the truth about its job, the queue (`queue.py`) only brings it to a worker: one that the queue hands out twice is claimed once, and one that
the queue has lost is put back at the next minute.
"""

import json
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from switch import alerts, metrics
from switch.database import Connection, Pool, record_of
from switch.errors import Problem
from switch.ids import show, uuid7
from switch.settlement.jobs import queue

PAGE_MAX = 200
PAUSE_MAX_S = 900
ERROR_MAX = 500

# What a job may do from each state; the database holds the same table (r0010).
STEPS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "queued": ("queued", "running", "cancelled"),
    "running": ("running", "done", "failed", "waiting", "queued", "cancelled"),
    "waiting": ("running", "queued", "cancelled"),
    "failed": ("queued",),
    "cancelled": ("queued",),
    "done": (),
})


@dataclass(frozen=True, slots=True)
class Job:
    """A row of `job`."""

    job_id: UUID
    kind: str
    key: str
    merchant_id: UUID | None
    arguments: Mapping[str, Any]
    asked_by: str
    state: str
    progress_done: int
    progress_total: int | None
    detail: Mapping[str, Any]
    error: str | None
    attempts: int
    failures: int  # since it was last asked for
    cancel_asked_by: str | None
    not_before: datetime
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Due(NamedTuple):
    """What a schedule wants done. The same key is done once, however often and by however many workers it is found due."""

    key: str
    arguments: Mapping[str, Any] = MappingProxyType({})
    merchant_id: UUID | None = None


class Taken(Exception):
    """This job is no longer this worker's: it was taken over, or cancelled. Nothing of it may be written any more."""


class NotYet(Exception):
    """What the job waits for is not there yet: it comes again, and that counts as no failure."""

    def __init__(self, seconds: float, words: str) -> None:
        super().__init__(words)
        self.seconds = seconds


class Unfit(Exception):
    """The job cannot be done, however often it is tried; the words are for people and hold no input."""


class Run:
    """One attempt at a job, as its function sees it. What it does must be right when begun anew, or carried on, by another worker."""

    def __init__(self, job: Job, pool: Pool) -> None:
        self.job, self.pool = job, pool
        self.reported_at = 0.0

    async def hold(self, connection: Connection) -> None:
        """Inside a database transaction, before what must happen once: nobody takes the job over until it commits. Raises Taken."""
        if not await connection.fetchval(HOLD, self.job.job_id, self.job.attempts):
            raise Taken

    async def progress(self, done: int, total: int | None = None, **detail: Any) -> None:
        """How far it is; written at most each second, and at the end. Raises Taken."""
        now = time.monotonic()
        if now - self.reported_at < PROGRESS_S and done != total and not detail:
            return
        self.reported_at = now
        if not await self.pool.fetchval(PROGRESS, self.job.job_id, self.job.attempts, done, total, json.dumps(detail)):
            raise Taken


PROGRESS_S = 1.0
HOLD = "SELECT true FROM job WHERE job_id = $1 AND attempts = $2 AND state = 'running' AND cancel_asked_by IS NULL FOR UPDATE"
PROGRESS = """UPDATE job SET progress_done = $3, progress_total = coalesce($4, progress_total), detail = detail || $5::jsonb
WHERE job_id = $1 AND attempts = $2 AND state = 'running' RETURNING true"""

Do = Callable[[Run], Awaitable[Mapping[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Kind:
    """What a worker can do. `schedule`: when to look, as a cron line in UTC; `due` says what is due then, by the business calendar if need be."""

    name: str
    meaning: str
    do: Do  # what it returns is added to the job's detail
    schedule: str | None = None
    due: Callable[[datetime], Awaitable[Iterable[Due]]] | None = None
    limit_s: float = 3600.0  # one attempt
    attempts: int = 5  # failures before it waits for a person
    pause_s: float = 10.0  # after the first failure; doubled after each
    at_once: int = 0  # over all workers; 0: no limit

    def __post_init__(self) -> None:
        assert (self.schedule is None) == (self.due is None), f"{self.name}: a schedule and what is due then belong together"

    def pause(self, failures: int) -> float:
        """Seconds until the next attempt, after so many failures in a row."""
        return float(min(self.pause_s * 2 ** min(failures - 1, 20), PAUSE_MAX_S))


def kinds_of(*kinds: Kind) -> Mapping[str, Kind]:
    """The closed table of a worker."""
    table = {kind.name: kind for kind in kinds}
    assert len(table) == len(kinds), "a kind of job has one name"
    return MappingProxyType(table)


COLUMNS = """job_id, kind, key, merchant_id, arguments, asked_by, state, progress_done, progress_total, detail, error, attempts, failures,
cancel_asked_by, not_before, created_at, started_at, ended_at"""


def _job(row: Any) -> Job:
    values = dict(row)
    job: Job = record_of(Job, values | {name: json.loads(values[name]) for name in ("arguments", "detail")})  # type: ignore[arg-type]
    return job


ASK = f"""INSERT INTO job (job_id, kind, key, merchant_id, arguments, asked_by) VALUES ($1, $2, $3, $4, $5::jsonb, $6)
ON CONFLICT (kind, key) DO NOTHING RETURNING {COLUMNS}"""
BY_KEY = f"SELECT {COLUMNS} FROM job WHERE kind = $1 AND key = $2"


async def ask(connection: Connection, kind: str, due: Due, asked_by: str) -> tuple[Job, bool]:
    """The job of that kind and key, and whether it is new. It rides in the caller's database transaction: rolled back, it was never asked for."""
    assert connection.is_in_transaction(), "a job and its place in the queue are one commit"
    identity = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
    row = await connection.fetchrow(ASK, identity, kind, due.key, due.merchant_id, json.dumps(dict(due.arguments)), asked_by)
    if row is None:
        return _job(await connection.fetchrow(BY_KEY, kind, due.key)), False
    await queue.push(connection, [(kind, identity)])
    metrics.jobs.labels(kind, "asked").inc()
    return _job(row), True


CLAIM = f"""UPDATE job SET state = 'running', holder = $2, lease_until = now() + $3::float8 * interval '1 second', attempts = attempts + 1,
    started_at = coalesce(started_at, now())
WHERE job_id = $1 AND cancel_asked_by IS NULL AND not_before <= now()
    AND (state IN ('queued', 'waiting') OR state = 'running' AND lease_until < now())
RETURNING {COLUMNS}"""
CLAIMABLE_IN = """SELECT extract(epoch FROM greatest(not_before, lease_until) - now())::float8 FROM job
WHERE job_id = $1 AND state IN ('queued', 'waiting', 'running')"""
# A job whose worker died while somebody waited for it to stop.
BURY = """UPDATE job SET state = 'cancelled', ended_at = now(), holder = NULL, lease_until = NULL
WHERE job_id = $1 AND cancel_asked_by IS NOT NULL AND state = 'running' AND lease_until < now() RETURNING kind"""


async def claim(connection: Connection, job_id: UUID, holder: UUID, lease_s: float) -> Job | float | None:
    """The job, now this worker's; or in how many seconds it may be; or None when nothing is left to do."""
    if row := await connection.fetchrow(CLAIM, job_id, holder, lease_s):
        return _job(row)
    if kind := await connection.fetchval(BURY, job_id):
        metrics.jobs.labels(kind, "cancelled").inc()
        return None
    left = await connection.fetchval(CLAIMABLE_IN, job_id)
    return None if left is None else max(0.05, float(left))


RENEW = """UPDATE job SET lease_until = now() + $3::float8 * interval '1 second' FROM unnest($1::uuid[], $2::integer[]) AS mine (job_id, attempts)
WHERE job.job_id = mine.job_id AND job.attempts = mine.attempts AND job.state = 'running' RETURNING job.job_id, job.cancel_asked_by"""


async def renew(pool: Pool, jobs: Iterable[Job], lease_s: float) -> dict[UUID, str | None]:
    """Which of these are still this worker's, each with who wants it cancelled."""
    held = list(jobs)
    rows = await pool.fetch(RENEW, [job.job_id for job in held], [job.attempts for job in held], lease_s)
    return {row["job_id"]: row["cancel_asked_by"] for row in rows}


class Ending(NamedTuple):
    """How an attempt ended."""

    state: str  # done, failed, waiting, queued, cancelled
    error: str | None = None
    again_s: float = 0.0  # for waiting
    failed: bool = False  # counts against the attempts of its kind
    detail: Mapping[str, Any] = MappingProxyType({})


END = """UPDATE job SET state = $3, error = $4, not_before = now() + $5::float8 * interval '1 second', failures = failures + $6::integer,
    detail = detail || $7::jsonb, holder = NULL, lease_until = NULL, ended_at = CASE WHEN $3 IN ('done', 'failed', 'cancelled') THEN now() END,
    progress_done = CASE WHEN $3 = 'done' THEN coalesce(progress_total, progress_done) ELSE progress_done END
WHERE job_id = $1 AND attempts = $2 AND state = 'running' RETURNING true"""


async def finish(connection: Connection, job: Job, ending: Ending) -> bool:
    """Writes how an attempt ended, with the alert if it needs a person. False: it was no longer this worker's, and nothing was written."""
    async with connection.transaction():
        words = None if ending.error is None else ending.error[:ERROR_MAX]
        mine = await connection.fetchval(END, job.job_id, job.attempts, ending.state, words, ending.again_s, int(ending.failed),
                                         json.dumps(dict(ending.detail)))
        if mine and ending.state == "failed":
            await alerts.raise_within(connection, "job_failed", show("job", job.job_id))
    if mine and ending.state == "failed":
        alerts.announce("job_failed", show("job", job.job_id))
    if mine:
        metrics.jobs.labels(job.kind, ending.state).inc()
    return bool(mine)


ONE = f"SELECT {COLUMNS} FROM job WHERE job_id = $1"
LIST = f"""SELECT {COLUMNS} FROM job WHERE ($1::uuid IS NULL OR job_id < $1) AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR kind = $4)
AND ($5::uuid IS NULL OR merchant_id = $5) ORDER BY job_id DESC LIMIT $2"""
RETRY = f"""UPDATE job SET state = 'queued', not_before = now(), failures = 0, cancel_asked_by = NULL, ended_at = NULL
WHERE job_id = $1 AND state IN ('failed', 'cancelled', 'waiting') RETURNING {COLUMNS}"""
CANCEL = f"""UPDATE job SET cancel_asked_by = $2, state = CASE WHEN state = 'running' THEN state ELSE 'cancelled' END,
    ended_at = CASE WHEN state = 'running' THEN NULL ELSE now() END
WHERE job_id = $1 AND state IN ('queued', 'waiting', 'running') RETURNING {COLUMNS}"""


async def page(connection: Connection | Pool, limit: int, before: UUID | None, state: str | None, kind: str | None,
               merchant_id: UUID | None = None) -> list[Job]:
    """Newest first."""
    return [_job(row) for row in await connection.fetch(LIST, before, limit, state, kind, merchant_id)]


async def one(connection: Connection | Pool, job_id: UUID) -> Job:
    """Raises Problem not_found."""
    row = await connection.fetchrow(ONE, job_id)
    if row is None:
        raise Problem("not_found")
    return _job(row)


async def retry(connection: Connection, job_id: UUID) -> Job:
    """Asks for it again: now, and with all its attempts. Raises Problem: not_found; conflict while it runs or is queued, or when it is done."""
    async with connection.transaction():
        row = await connection.fetchrow(RETRY, job_id)
        if row is None:
            job = await one(connection, job_id)
            raise Problem("conflict", f"The job is {job.state}; only one that failed, waits or was cancelled is tried again.")
        if not await queue.hasten(connection, job_id):
            await queue.push(connection, [(row["kind"], job_id)], f":{row['attempts']}")
    return _job(row)


async def cancel(connection: Connection, job_id: UUID, person: str) -> Job:
    """Ends it now, or asks its worker to stop, which takes a moment. Raises Problem: not_found; conflict when it has ended."""
    row = await connection.fetchrow(CANCEL, job_id, person)
    if row is None:
        job = await one(connection, job_id)
        raise Problem("conflict", f"The job is {job.state} and runs no more.")
    if row["state"] == "cancelled":
        metrics.jobs.labels(row["kind"], "cancelled").inc()
    return _job(row)


LEFT = """SELECT kind, job_id FROM job WHERE kind = ANY($1::text[]) AND state IN ('queued', 'running', 'waiting')
    AND not_before < now() - interval '30 seconds' AND coalesce(lease_until, not_before) < now() - interval '30 seconds'
ORDER BY not_before LIMIT 1000"""


async def put_back(connection: Connection, kinds: Iterable[str]) -> int:
    """Gives the queue again what it should have brought to somebody by now; what it still has it keeps. How many were looked at."""
    async with connection.transaction():
        rows = await connection.fetch(LEFT, list(kinds))
        await queue.push(connection, [(row["kind"], row["job_id"]) for row in rows])
    return len(rows)


OVERDUE = """SELECT coalesce(extract(epoch FROM now() - min(greatest(not_before, coalesce(lease_until, not_before)))), 0)::float8 FROM job
WHERE state IN ('queued', 'running', 'waiting') AND not_before < now() AND coalesce(lease_until, not_before) < now()"""


async def overdue(pool: Pool) -> float:
    """For how many seconds the oldest job that could run has not been running."""
    return max(0.0, float(await pool.fetchval(OVERDUE)))
