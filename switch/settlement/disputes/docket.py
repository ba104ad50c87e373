"""Disputes as they are read, and what is arranged about them with acquirers: days to answer in, and fees."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.settlement.disputes import exhibits
from switch.settlement.disputes.cases import COLUMNS

PAGE_MAX = 200

PAGE = f"""SELECT {COLUMNS} FROM dispute WHERE ($1::uuid IS NULL OR merchant_id = $1) AND ($2::text IS NULL OR state = $2)
AND ($3::boolean IS NULL OR (closed_at IS NULL) = $3) AND ($4::uuid IS NULL OR acquirer_id = $4) AND ($5::uuid IS NULL OR transaction_id = $5)
AND ($6::uuid IS NULL OR dispute_id < $6) ORDER BY dispute_id DESC LIMIT $7"""
ONE = f"SELECT {COLUMNS} FROM dispute WHERE dispute_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2)"
EVENTS = "SELECT at, event, state, by, note, files FROM dispute_event WHERE dispute_id = $1 ORDER BY event_id"
FILES = f"SELECT {exhibits.COLUMNS} FROM dispute_file WHERE dispute_id = $1 ORDER BY file_id"
ACQUIRER = "SELECT true FROM directory_acquirer WHERE acquirer_id = $1"
DEADLINES = """SELECT acquirer_id, brand, kind, answer_days, warn_days FROM dispute_deadline WHERE acquirer_id = $1 OR acquirer_id IS NULL
ORDER BY kind, acquirer_id IS NULL, brand"""
FEES = "SELECT kind, currency, fee, cost FROM dispute_fee WHERE acquirer_id = $1 ORDER BY kind, currency"
SET_DEADLINES = """INSERT INTO dispute_deadline (acquirer_id, brand, kind, answer_days, warn_days)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::smallint[], $5::smallint[])
ON CONFLICT (acquirer_id, brand, kind) DO UPDATE SET answer_days = EXCLUDED.answer_days, warn_days = EXCLUDED.warn_days"""
SET_FEES = """INSERT INTO dispute_fee (acquirer_id, kind, currency, fee, cost)
SELECT $1, * FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[])
ON CONFLICT (acquirer_id, kind, currency) DO UPDATE SET fee = EXCLUDED.fee, cost = EXCLUDED.cost"""


class Deadline(NamedTuple):
    brand: str
    kind: str
    answer_days: int
    warn_days: int


class Charge(NamedTuple):
    """`fee` is what the merchant pays, `cost` what the acquirer charges us. Minor units."""

    kind: str
    currency: str
    fee: int
    cost: int


class Wanted(NamedTuple):
    """What a list of disputes is narrowed by; None is no limit."""

    merchant_id: UUID | None
    state: str | None = None
    open: bool | None = None
    acquirer_id: UUID | None = None
    transaction_id: UUID | None = None
    before: UUID | None = None


class Docket:
    """Raises Problem: not_found, not_ready (the database is away)."""

    def __init__(self, readers: Pool, writers: Pool) -> None:
        self.readers, self.writers = readers, writers

    async def page(self, wanted: Wanted, limit: int) -> list[asyncpg.Record]:
        """Newest first, at most `limit`."""
        try:
            return await self.readers.fetch(PAGE, *wanted, min(limit, PAGE_MAX + 1))
        except UNKNOWN:
            raise _away() from None

    async def one(self, dispute_id: UUID, merchant_id: UUID | None) -> tuple[asyncpg.Record, list[asyncpg.Record], list[asyncpg.Record]]:
        """The dispute, its events and its files, in one snapshot."""
        try:
            async with self.readers.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
                row = await connection.fetchrow(ONE, dispute_id, merchant_id)
                if row is None:
                    raise Problem("not_found")
                return row, await connection.fetch(EVENTS, dispute_id), await connection.fetch(FILES, dispute_id)
        except UNKNOWN:
            raise _away() from None

    async def terms(self, acquirer_id: UUID) -> tuple[list[asyncpg.Record], list[asyncpg.Record]]:
        """Deadlines, those for all acquirers among them, and fees."""
        try:
            if not await self.readers.fetchval(ACQUIRER, acquirer_id):
                raise Problem("not_found")
            return await self.readers.fetch(DEADLINES, acquirer_id), await self.readers.fetch(FEES, acquirer_id)
        except UNKNOWN:
            raise _away() from None

    async def arrange(self, acquirer_id: UUID, deadlines: Sequence[Deadline], fees: Sequence[Charge]) -> None:
        """For disputes that come into these states from now on. What is not named stays."""
        try:
            async with self.writers.acquire() as connection, connection.transaction():
                if not await connection.fetchval(ACQUIRER, acquirer_id):
                    raise Problem("not_found")
                for statement, rows in ((SET_DEADLINES, deadlines), (SET_FEES, fees)):
                    if rows:
                        await connection.execute(statement, acquirer_id, *map(list, zip(*rows, strict=True)))
        except UNKNOWN:
            raise _away() from None


def _away() -> Problem:
    return Problem("not_ready", "The books do not answer just now.", retry_after=2)
