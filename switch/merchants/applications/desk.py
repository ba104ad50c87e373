"""Applications as they are read: the reviewers' queue, one with its documents, what is missing of it, and its history."""

from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import Pool, work
from switch.errors import Problem
from switch.merchants.applications.cases import profile_of
from switch.merchants.applications.papers import Document, gaps, newest
from switch.merchants.applications.requirements import Gap
from switch.merchants.applications.review import Judged, judged, today
from switch.security.vault import Vault

PAGE_MAX = 200

ONE = "SELECT * FROM application WHERE application_id = $1"
# What must be done first comes first; `after` is the last one of the page before.
QUEUE = """SELECT * FROM application a WHERE due_at IS NOT NULL AND ($1::text IS NULL OR state = $1) AND ($2::text[] IS NULL OR state = ANY($2))
AND ($3::boolean IS NULL OR (due_at < now()) = $3) AND ($4::text IS NULL OR reviewer = $4)
AND ($5::uuid IS NULL OR (due_at, application_id) > (SELECT due_at, application_id FROM application WHERE application_id = $5))
ORDER BY due_at, application_id LIMIT $6"""
ALL = """SELECT * FROM application WHERE ($1::text IS NULL OR state = $1) AND ($2::uuid IS NULL OR application_id < $2)
ORDER BY application_id DESC LIMIT $3"""
EVENTS = "SELECT number, event, was, state, person, reason, detail, at FROM application_event WHERE application_id = $1 ORDER BY number"


class Wanted(NamedTuple):
    """None is no limit. `states`: of whom it waits for."""

    state: str | None
    states: list[str] | None
    overdue: bool | None
    reviewer: str | None
    after: UUID | None


class Whole(NamedTuple):
    row: asyncpg.Record
    profile: dict[str, Any]
    documents: list[Document]
    gaps: list[Gap]
    events: list[asyncpg.Record]


class Desk:
    """Raises Problem: not_found, not_ready."""

    def __init__(self, readers: Pool, vault: Vault) -> None:
        self.readers, self.vault = readers, vault

    async def queue(self, wanted: Wanted, limit: int) -> list[asyncpg.Record]:
        """Open ones, the most urgent first."""
        async with work(self.readers) as connection:
            return await connection.fetch(QUEUE, *wanted, min(limit, PAGE_MAX + 1))

    async def page(self, state: str | None, after: UUID | None, limit: int) -> list[asyncpg.Record]:
        """All, newest first."""
        async with work(self.readers) as connection:
            return await connection.fetch(ALL, state, after, min(limit, PAGE_MAX + 1))

    async def one(self, application_id: UUID) -> Whole:
        """In one snapshot."""
        async with work(self.readers) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            row = await connection.fetchrow(ONE, application_id)
            if row is None:
                raise Problem("not_found")
            profile, documents = await profile_of(connection, application_id), await newest(connection, self.vault, application_id)
            return Whole(row, profile, documents, gaps(row, profile, documents, today(profile, clock.now())),
                         await connection.fetch(EVENTS, application_id))

    async def score(self, application_id: UUID) -> tuple[Judged, int]:
        """As it would be decided about now, and the version that it is of."""
        async with work(self.readers) as connection:
            await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            row = await connection.fetchrow(ONE, application_id)
            if row is None:
                raise Problem("not_found")
            return await judged(connection, self.vault, row), row["version"]
