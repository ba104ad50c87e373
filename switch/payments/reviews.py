"""The desk where people look at what sales hit: read by state, decided once, by a person and for a reason."""

from typing import Any
from uuid import UUID

from switch.database import UNKNOWN, Pool, work
from switch.errors import Problem

PAGE_MAX = 200
COLUMNS = """hit_id, merchant_id, store_id, terminal_id, transaction_id, source, source_id, kind, action, why, figures, pan_token, masked_pan, amount,
currency, hit_at, times, last_at, state, decided_by, decided_at, reason, held"""
# Newest first, by the id; open ones by an index of their own.
OPEN = f"""SELECT {COLUMNS} FROM risk_hit WHERE state = 'open' AND ($1::uuid IS NULL OR hit_id < $1) AND ($2::uuid IS NULL OR merchant_id = $2)
AND ($3::uuid IS NULL OR source_id = $3) ORDER BY hit_id DESC LIMIT $4"""
ALL = f"""SELECT {COLUMNS} FROM risk_hit WHERE ($1::uuid IS NULL OR hit_id < $1) AND ($2::uuid IS NULL OR merchant_id = $2)
AND ($3::uuid IS NULL OR source_id = $3) AND ($5::text IS NULL OR state = $5) ORDER BY hit_id DESC LIMIT $4"""
ONE = f"SELECT {COLUMNS} FROM risk_hit WHERE hit_id = $1"
DECIDE = """UPDATE risk_hit SET state = $2, decided_by = $3, decided_at = now(), reason = $4 WHERE hit_id = $1 AND state = 'open' RETURNING true"""
# What a dismissed hit blocked is blocked no more.
UNBLOCK = "UPDATE risk_entry SET ended_by = $2, ended_at = now() WHERE entry_id = $1 AND ended_at IS NULL"


class Reviews:
    """Raises Problem: not_found, conflict, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def page(self, state: str | None, limit: int, before: UUID | None = None, merchant_id: UUID | None = None,
                   source_id: UUID | None = None) -> list[Any]:
        """Newest first, one more than `limit`."""
        most = min(limit, PAGE_MAX) + 1
        try:
            if state == "open":
                return list(await self.readers.fetch(OPEN, before, merchant_id, source_id, most))
            return list(await self.readers.fetch(ALL, before, merchant_id, source_id, most, state))
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None

    async def get(self, hit_id: UUID) -> Any:
        try:
            row = await self.readers.fetchrow(ONE, hit_id)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        if row is None:
            raise Problem("not_found")
        return row

    async def decide(self, hit_id: UUID, decision: str, by: str, reason: str) -> Any:
        """dismissed or confirmed, once. A dismissed one blocks nothing any more, and what it holds is released within a second."""
        async with work(self.writers) as connection:
            row = await connection.fetchrow(ONE, hit_id)
            if row is None:
                raise Problem("not_found")
            if not await connection.fetchval(DECIDE, hit_id, decision, by, reason):
                raise Problem("conflict", "Somebody has decided about it already.")
            if decision == "dismissed":
                await connection.execute(UNBLOCK, hit_id, by)
            return await connection.fetchrow(ONE, hit_id)
