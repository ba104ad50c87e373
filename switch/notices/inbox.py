"""Notices as merchants read them: unread ones, what each says in a language, and how it went out by webhook."""

from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

import asyncpg

from switch.database import Connection, Pool, work
from switch.errors import Problem

PAGE_MAX = 200
COLUMNS = "notice_id, merchant_id, kind, object, happened_at, data, read_by, read_at"
PAGE = f"""SELECT {COLUMNS} FROM notice WHERE merchant_id = $1 AND ($2::boolean IS NULL OR (read_at IS NULL) = $2)
AND ($3::uuid IS NULL OR notice_id < $3) ORDER BY notice_id DESC LIMIT $4"""
ONE = f"SELECT {COLUMNS} FROM notice WHERE notice_id = $1 AND merchant_id = $2"
READ = "UPDATE notice SET read_by = $3, read_at = now() WHERE notice_id = $1 AND merchant_id = $2 AND read_at IS NULL"
VOICE = """SELECT coalesce((SELECT language FROM notice_language l WHERE l.merchant_id = m.merchant_id ORDER BY number DESC LIMIT 1), 'en')
  AS language, time_zone FROM directory_merchant m WHERE merchant_id = $1"""
LOCK = "SELECT pg_advisory_xact_lock(3583039, hashtext($1))"
SET_LANGUAGE = """INSERT INTO notice_language (merchant_id, number, language, set_by)
SELECT $1, 1 + coalesce(max(number), 0), $2, $3 FROM notice_language WHERE merchant_id = $1"""
DELIVERIES = """SELECT d.endpoint_id, d.event_id, d.state, d.attempts, d.last_status, d.last_fault, d.created_at, d.ended_at
FROM webhook_event e JOIN webhook_delivery d USING (merchant_id, event_id)
WHERE e.merchant_id = $1 AND e.object = $2 AND e.type = $3 ORDER BY d.created_at, d.endpoint_id LIMIT 100"""


class Voice(NamedTuple):
    """How a merchant is spoken to."""

    language: str
    zone: ZoneInfo


class Inbox:
    """Raises Problem: not_found, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def page(self, merchant_id: UUID, unread: bool | None, before: UUID | None, limit: int) -> tuple[list[asyncpg.Record], Voice]:
        """Newest first, and how the merchant is spoken to."""
        async with work(self.readers) as connection:
            rows = await connection.fetch(PAGE, merchant_id, unread, before, min(limit, PAGE_MAX + 1))
            return rows, await _voice(connection, merchant_id)

    async def one(self, merchant_id: UUID, notice_id: UUID) -> tuple[asyncpg.Record, Voice, list[asyncpg.Record]]:
        """With how the merchant is spoken to, and what became of it at the merchant's endpoints."""
        async with work(self.readers) as connection:
            row = await connection.fetchrow(ONE, notice_id, merchant_id)
            if row is None:
                raise Problem("not_found")
            return row, await _voice(connection, merchant_id), await connection.fetch(DELIVERIES, merchant_id, row["object"], row["kind"])

    async def read(self, merchant_id: UUID, notice_id: UUID, by: str) -> None:
        """The first one counts; again changes nothing."""
        async with work(self.writers) as connection:
            await connection.execute(READ, notice_id, merchant_id, by)

    async def speak(self, merchant_id: UUID, language: str, by: str) -> None:
        """From now on, also of older ones."""
        async with work(self.writers) as connection:
            await connection.execute(LOCK, str(merchant_id))
            await connection.execute(SET_LANGUAGE, merchant_id, language, by)


async def _voice(connection: Connection, merchant_id: UUID) -> Voice:
    row = await connection.fetchrow(VOICE, merchant_id)
    assert row is not None  # its key was found
    return Voice(row["language"], ZoneInfo(row["time_zone"]))
