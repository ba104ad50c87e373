"""Parameters in the database: each version of each level for ever, the newest counts. Which levels a terminal has, its place in the house says."""

import json
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.terminals import parameters
from switch.terminals.devices import away, work

NIL = UUID(int=0)

# Two writers of one owner: the second waits here, and its version is the next.
LOCK = "SELECT pg_advisory_xact_lock(3583019, hashtext($1 || ' ' || $2))"
NEWEST = "SELECT coalesce(max(version), 0) FROM parameter_set WHERE owner_kind = $1 AND owner_id = $2"
PUT = """INSERT INTO parameter_set (owner_kind, owner_id, version, content, person, reason) VALUES ($1, $2, $3, $4::jsonb, $5, $6)
RETURNING owner_kind, owner_id, version, content, person, reason, created_at"""
VERSIONS = """SELECT owner_kind, owner_id, version, content, person, reason, created_at FROM parameter_set
WHERE owner_kind = $1 AND owner_id = $2 AND ($3::integer IS NULL OR version < $3) ORDER BY version DESC LIMIT $4"""
OWNER = {"merchant": "SELECT merchant_id FROM directory_merchant WHERE merchant_id = $1",
         "store": "SELECT merchant_id FROM directory_store WHERE store_id = $1",
         "terminal": "SELECT merchant_id FROM directory_terminal WHERE terminal_id = $1"}
# The four levels of a terminal, the farthest first; with $4 as they were in these versions, 0 for none.
LEVELS = """SELECT coalesce(s.version, 0) AS version, coalesce(s.content, '{}') AS content
FROM unnest(ARRAY['default', 'merchant', 'store', 'terminal'], ARRAY['00000000-0000-0000-0000-000000000000', $1, $2, $3]::uuid[])
     WITH ORDINALITY AS o (kind, id, level)
LEFT JOIN LATERAL (SELECT p.version, p.content FROM parameter_set p WHERE p.owner_kind = o.kind AND p.owner_id = o.id
  AND ($4::integer[] IS NULL OR p.version = ($4::integer[])[o.level::integer]) ORDER BY p.version DESC LIMIT 1) s ON true ORDER BY o.level"""


class Resolved(NamedTuple):
    version: str
    values: dict[str, Any]

    @property
    def etag(self) -> str:
        return f'"{self.version}"'


async def resolved(connection: Connection | Pool, merchant_id: UUID, store_id: UUID, terminal_id: UUID,
                   versions: list[int] | None = None) -> Resolved:
    """What a terminal gets, now or as it was. Raises Problem not_found: there never were these versions."""
    rows = await connection.fetch(LEVELS, merchant_id, store_id, terminal_id, versions)
    found = [row["version"] for row in rows]
    if versions is not None and found != versions:
        raise Problem("not_found")
    return Resolved(parameters.version_of(found), parameters.resolved([json.loads(row["content"]) for row in rows]))


class ParameterSets:
    """Raises Problem: not_found, invalid, conflict, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def put(self, kind: str, owner_id: UUID, values: dict[str, Any], person: str, reason: str, after: int | None = None) -> asyncpg.Record:
        """The next version of a level, whole: what is not in it does not hold at this level. `after`: the version that the writer has seen."""
        if faults := parameters.faults(values):
            raise Problem("invalid", "One or more parameters are wrong; see errors.",
                          errors=[{"field": name, "rule": rule, "type": "rule"} for name, rule in faults[:20]])
        async with work(self.writers) as connection:
            if kind != "default" and await connection.fetchval(OWNER[kind], owner_id) is None:
                raise Problem("not_found")
            await connection.execute(LOCK, kind, str(owner_id))
            newest = await connection.fetchval(NEWEST, kind, owner_id)
            if after is not None and after != newest:
                raise Problem("conflict", f"Version {newest} is the newest; somebody was first.")
            row = await connection.fetchrow(PUT, kind, owner_id, newest + 1, json.dumps(values), person, reason)
        assert row is not None
        return row

    async def versions(self, kind: str, owner_id: UUID, merchant_id: UUID | None, before: int | None, limit: int) -> list[asyncpg.Record]:
        """The latest first. `merchant_id`: whose the owner must be."""
        try:
            if kind != "default":
                owner = await self.readers.fetchval(OWNER[kind], owner_id)
                if owner is None or merchant_id not in (None, owner):
                    raise Problem("not_found")
            return await self.readers.fetch(VERSIONS, kind, owner_id, before, limit)
        except UNKNOWN:
            raise away() from None

    async def of(self, merchant_id: UUID, store_id: UUID, terminal_id: UUID, versions: list[int] | None = None) -> Resolved:
        try:
            return await resolved(self.readers, merchant_id, store_id, terminal_id, versions)
        except UNKNOWN:
            raise away() from None
