"""Four eyes: one person asks, another decides, and what was approved is done in the commit that says so. Nothing of it is overwritten."""

import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool, unsure
from switch.errors import Problem
from switch.ids import read, show, uuid7
from switch.life import same_person
from switch.payments.resolution import Person

WAITS = timedelta(hours=24)
PAGE_MAX = 200

# What an approval of a kind does, inside the commit that approves it: connection, object, payload, and who asked and decided and why.
Execute = Callable[[Connection, str, Mapping[str, Any], Mapping[str, str]], Awaitable[None]]

_COLUMNS = """approval_id, kind, object, payload, reason, requested_by, requested_key, requested_at, expires_at,
CASE WHEN state = 'waiting' AND expires_at <= now() THEN 'expired' ELSE state END AS state, decided_by, decided_key, decided_at"""
REQUEST = f"""INSERT INTO approval (approval_id, kind, object, payload, reason, requested_by, requested_key, expires_at)
VALUES ($1, $2, $3, $4::jsonb, $5, $6, $7, now() + $8) RETURNING {_COLUMNS}"""
EXPIRE = "UPDATE approval SET state = 'expired', decided_at = now() WHERE kind = $1 AND object = $2 AND state = 'waiting' AND expires_at <= now()"
WAITING = "SELECT approval_id FROM approval WHERE kind = $1 AND object = $2 AND state = 'waiting'"
GET = f"SELECT {_COLUMNS} FROM approval WHERE approval_id = $1"
LOCK = GET + " FOR NO KEY UPDATE"
DECIDE = f"""UPDATE approval SET state = $2, decided_by = $3, decided_key = $4, decided_at = now() WHERE approval_id = $1 AND state = 'waiting'
RETURNING {_COLUMNS}"""
PAGE = f"""SELECT * FROM (SELECT {_COLUMNS} FROM approval) AS a WHERE ($1::text IS NULL OR a.state = $1)
AND ($2::uuid IS NULL OR a.approval_id < $2) ORDER BY a.approval_id DESC LIMIT $3"""


def of_object(kind: str, act: Callable[[Connection, UUID, Mapping[str, Any], Mapping[str, str]], Awaitable[None]]) -> Execute:
    """What two people agreed on, done to the object that their approval names."""
    async def execute(connection: Connection, object_: str, payload: Mapping[str, Any], people: Mapping[str, str]) -> None:
        identity = read(kind, object_)
        assert identity is not None
        await act(connection, identity, payload, people)

    return execute


class Approvals:
    """Raises Problem: not_found, conflict, same_person, not_ready (the database is away: look before asking again)."""

    def __init__(self, pool: Pool, executors: Mapping[str, Execute]) -> None:
        self.pool, self.executors = pool, executors

    async def request(self, kind: str, object_: str, payload: Mapping[str, Any], reason: str, by: Person) -> asyncpg.Record:
        """Waits for a second person. One may wait for each object and kind."""
        assert kind in self.executors, kind
        identity = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                await connection.execute(EXPIRE, kind, object_)
                row = await connection.fetchrow(REQUEST, identity, kind, object_, json.dumps(dict(payload)), reason, by.name, by.key_id, WAITS)
        except asyncpg.UniqueViolationError:
            waiting = await self._fetch(WAITING, kind, object_)
            raise Problem("conflict", "An approval for this is waiting already; decide that one.",
                          extra={"approval": show("approval", waiting[0][0])} if waiting else None) from None
        except UNKNOWN:
            raise unsure() from None
        assert row is not None
        return row

    async def page(self, state: str | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first; `state` None for all."""
        return await self._fetch(PAGE, state, before, min(limit, PAGE_MAX + 1))

    async def approve(self, approval_id: UUID, by: Person) -> asyncpg.Record:
        """Does what was asked for. The same person deciding the same again changes nothing."""
        return await self._decide(approval_id, "approved", by)

    async def refuse(self, approval_id: UUID, by: Person) -> asyncpg.Record:
        """Nothing is done. Who asked may take it back so."""
        return await self._decide(approval_id, "refused", by)

    async def _decide(self, approval_id: UUID, state: str, by: Person) -> asyncpg.Record:
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                found = await connection.fetchrow(LOCK, approval_id)
                if found is None:
                    raise Problem("not_found")
                if found["state"] == state and same_person(found["decided_by"], by.name):
                    return found
                if found["state"] != "waiting":
                    raise Problem("conflict", f"This approval is {found['state']}.")
                if state == "approved" and same_person(found["requested_by"], by.name):
                    raise Problem("same_person")
                decided = await connection.fetchrow(DECIDE, approval_id, state, by.name, by.key_id)
                assert decided is not None
                if state == "approved":
                    people = {"approval": show("approval", approval_id), "requested_by": found["requested_by"], "decided_by": by.name,
                              "decided_at": datetime.now(UTC).isoformat(timespec="seconds"), "reason": found["reason"]}
                    await self.executors[found["kind"]](connection, found["object"], json.loads(found["payload"]), people)
                return decided
        except UNKNOWN:
            raise unsure() from None

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.pool.fetch(statement, *arguments)
        except UNKNOWN:
            raise unsure() from None
