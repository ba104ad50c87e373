"""Announcements in the database: to all, to a role or to one merchant, from when until when, with who has read them."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.clock import clock
from switch.database import Pool, work
from switch.errors import Problem
from switch.ids import show
from switch.merchants.support.tickets import MERCHANT
from switch.notices.events import new_id

PAGE_MAX = 200
ROLES = ("merchant", "terminal", "applicant", "support", "operator")

_SHOWN = """SELECT a.announcement_id, a.role, a.merchant_id, a.en, a.zh, a.starts_at, a.ends_at, a.made_by, a.made_at, a.withdrawn_by, a.withdrawn_at,
a.reason, r.read_at, a.starts_at <= $1 AND a.ends_at > $1 AND a.withdrawn_at IS NULL AS in_force,
(SELECT count(*) FROM announcement_read c WHERE c.announcement_id = a.announcement_id)::integer AS reads
FROM announcement a LEFT JOIN announcement_read r ON r.announcement_id = a.announcement_id AND r.reader = $2"""
# Of people of ours all; of others what is in force and meant for them.
_FOR = """($3::boolean OR (a.starts_at <= $1 AND a.ends_at > $1 AND a.withdrawn_at IS NULL
  AND (a.role IS NULL OR a.role = $4) AND (a.merchant_id IS NULL OR a.merchant_id = $5)))"""
PAGE = f"""{_SHOWN} WHERE {_FOR} AND ($6::boolean IS NULL OR (r.read_at IS NULL) = $6) AND ($7::uuid IS NULL OR a.announcement_id < $7)
ORDER BY a.announcement_id DESC LIMIT $8"""
ONE = f"{_SHOWN} WHERE {_FOR} AND a.announcement_id = $6"
ADD = """INSERT INTO announcement (announcement_id, role, merchant_id, en, zh, starts_at, ends_at, made_by)
VALUES ($1, $2, $3, $4::jsonb, $5::jsonb, $6, $7, $8)"""
READ = "INSERT INTO announcement_read (announcement_id, reader) VALUES ($1, $2) ON CONFLICT DO NOTHING"
WITHDRAW = """UPDATE announcement SET withdrawn_by = $2, withdrawn_at = now(), reason = $3 WHERE announcement_id = $1 AND withdrawn_at IS NULL
RETURNING true"""


class Reader(NamedTuple):
    """Who reads. `name`: the shown id of a merchant, terminal or application, or a person's name; `ours`: support and operators, who see all."""

    name: str
    role: str
    merchant_id: UUID | None
    ours: bool


class Draft(NamedTuple):
    """To everybody when neither `role` nor `merchant_id` is given; a merchant's are for its terminals too."""

    role: str | None
    merchant_id: UUID | None
    en: Mapping[str, str]
    zh: Mapping[str, str]
    starts_at: datetime
    ends_at: datetime


class Announcements:
    """Raises Problem: not_found, conflict, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def make(self, draft: Draft, by: Reader) -> UUID:
        async with work(self.writers) as connection:
            if draft.merchant_id is not None and not await connection.fetchval(MERCHANT, draft.merchant_id):
                raise Problem("not_found")
            await connection.execute(ADD, made := new_id(), draft.role, draft.merchant_id, json.dumps(dict(draft.en)), json.dumps(dict(draft.zh)),
                                     draft.starts_at, draft.ends_at, by.name)
        return made

    async def page(self, reader: Reader, unread: bool | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        async with work(self.readers) as connection:
            return await connection.fetch(PAGE, *_asked(reader), unread, before, limit)

    async def one(self, announcement_id: UUID, reader: Reader) -> asyncpg.Record:
        async with work(self.readers) as connection:
            row = await connection.fetchrow(ONE, *_asked(reader), announcement_id)
        if row is None:
            raise Problem("not_found")
        return row

    async def read(self, announcement_id: UUID, reader: Reader) -> None:
        """The first time counts. What is not meant for the reader is absent."""
        async with work(self.writers) as connection:
            if await connection.fetchrow(ONE, *_asked(reader), announcement_id) is None:
                raise Problem("not_found")
            await connection.execute(READ, announcement_id, reader.name)

    async def withdraw(self, announcement_id: UUID, reason: str, by: Reader) -> None:
        """Nobody else reads it from now on; it stays where people of ours see it."""
        async with work(self.writers) as connection:
            if await connection.fetchrow(ONE, *_asked(by), announcement_id) is None:
                raise Problem("not_found")
            if not await connection.fetchval(WITHDRAW, announcement_id, by.name, reason):
                raise Problem("conflict", f"{show('announcement', announcement_id)} was withdrawn before.")


def _asked(reader: Reader) -> tuple[datetime, str, bool, str, UUID | None]:
    return clock.now(), reader.name, reader.ours, reader.role, reader.merchant_id
