"""What is arranged with merchants and acquirers about time and money: calendars, the end of a business day, funding, reserves, holds."""

import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from datetime import date, datetime
from typing import TypeVar
from uuid import UUID

import asyncpg

from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import show, uuid7
from switch.settlement import ledger
from switch.settlement.funding.charged import Falls
from switch.settlement.ledger import Account, Transfer

T = TypeVar("T")

PAGE_MAX = 200
DAYS_MAX = 2000  # exceptions of a calendar


@dataclass(frozen=True, slots=True)
class Funding:
    """Of a merchant: the calendar that its due dates go by, T+n in its business days, and what is kept back. Minor units, basis points, days."""

    calendar: str
    funding_days: int
    minimum_payout: int
    reserve_basis_points: int
    reserve_days: int


@dataclass(frozen=True, slots=True)
class Ending:
    """Of an acquirer: which days are business days, and the minute of the wall clock in its zone at which one ends, 1440 for midnight."""

    calendar: str
    cut_over_minute: int


@dataclass(frozen=True, slots=True)
class Hold:
    merchant_id: UUID
    hold_id: UUID
    currency: str
    amount: int | None  # None: all payouts
    reason: str
    placed_by: str
    placed_at: datetime
    released_by: str | None
    released_at: datetime | None


FUNDING = "SELECT calendar, funding_days, minimum_payout, reserve_basis_points, reserve_days FROM merchant WHERE merchant_id = $1"
SET_FUNDING = """UPDATE merchant SET calendar = $2, funding_days = $3, minimum_payout = $4, reserve_basis_points = $5, reserve_days = $6
WHERE merchant_id = $1 RETURNING true"""
ENDING = "SELECT calendar, cut_over_minute FROM acquirer WHERE acquirer_id = $1"
SET_ENDING = "UPDATE acquirer SET calendar = $2, cut_over_minute = $3 WHERE acquirer_id = $1 RETURNING true"
CALENDAR = "SELECT weekend FROM calendar WHERE calendar = $1"
EXCEPTIONS = "SELECT day, kind FROM business_calendar WHERE calendar = $1 AND kind <> 'plain' ORDER BY day"
SET_CALENDAR = """INSERT INTO calendar (calendar, weekend) VALUES ($1, $2) ON CONFLICT (calendar) DO UPDATE SET weekend = EXCLUDED.weekend"""
# Nothing is deleted: a day that is no exception any more is a plain one.
CLEAR = "UPDATE business_calendar SET kind = 'plain' WHERE calendar = $1 AND kind <> 'plain' AND day <> ALL($2::date[])"
SET_EXCEPTIONS = """INSERT INTO business_calendar (calendar, day, kind) SELECT $1, * FROM unnest($2::date[], $3::text[])
ON CONFLICT (calendar, day) DO UPDATE SET kind = EXCLUDED.kind"""
PLACE = """INSERT INTO merchant_hold (merchant_id, hold_id, currency, amount, reason, placed_by) VALUES ($1, $2, $3, $4, $5, $6) RETURNING *"""
HOLD = "SELECT * FROM merchant_hold WHERE merchant_id = $1 AND hold_id = $2 FOR NO KEY UPDATE"
RELEASE = "UPDATE merchant_hold SET released_by = $3, released_at = now() WHERE merchant_id = $1 AND hold_id = $2 RETURNING *"
HOLDS = """SELECT * FROM merchant_hold WHERE merchant_id = $1 AND ($2::uuid IS NULL OR hold_id < $2) ORDER BY hold_id DESC LIMIT $3"""
# On whose business date it was placed, if on anybody's.
PLACED_ON = "SELECT acquirer_id FROM transfer WHERE posting_key = $1"
TODAY = "SELECT (now() AT TIME ZONE time_zone)::date FROM directory_merchant WHERE merchant_id = $1"


class Arrangements:
    """Writes as `switch_writer`. Raises Problem: not_found, invalid, conflict, not_ready."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    @asynccontextmanager
    async def _work(self) -> AsyncIterator[Connection]:
        try:
            async with work(self.pool) as connection:
                yield connection
        except asyncpg.UniqueViolationError:
            raise Problem("already_exists", "The same hold stands already.") from None
        except asyncpg.ForeignKeyViolationError:
            raise Problem("invalid", "There is no such calendar.",
                          errors=[{"field": "calendar", "rule": "the name of a calendar", "type": "rule"}]) from None

    async def funding(self, merchant_id: UUID) -> Funding:
        async with self._work() as connection:
            return Funding(*_found(await connection.fetchrow(FUNDING, merchant_id)))

    async def set_funding(self, merchant_id: UUID, funding: Funding) -> Funding:
        """For settlements that are priced from now on."""
        async with self._work() as connection:
            _found(await connection.fetchval(SET_FUNDING, merchant_id, *astuple(funding)))
        return funding

    async def ending(self, acquirer_id: UUID) -> Ending:
        async with self._work() as connection:
            return Ending(*_found(await connection.fetchrow(ENDING, acquirer_id)))

    async def set_ending(self, acquirer_id: UUID, ending: Ending) -> Ending:
        async with self._work() as connection:
            _found(await connection.fetchval(SET_ENDING, acquirer_id, *astuple(ending)))
        return ending

    async def calendar(self, name: str) -> tuple[list[int], dict[date, str]]:
        """Days off by their ISO numbers, and exceptions."""
        async with self._work() as connection:
            return await _calendar(connection, name)

    async def set_calendar(self, name: str, weekend: list[int], exceptions: Mapping[date, str]) -> tuple[list[int], dict[date, str]]:
        """All of it; due dates that were fixed before stay."""
        if name == "daily" and (weekend or exceptions):
            raise Problem("conflict", "The calendar `daily` is every day; make another.")
        async with self._work() as connection:
            await connection.execute(SET_CALENDAR, name, sorted(set(weekend)))
            await connection.execute(CLEAR, name, list(exceptions))
            await connection.execute(SET_EXCEPTIONS, name, list(exceptions), list(exceptions.values()))
            return await _calendar(connection, name)

    async def holds(self, merchant_id: UUID, before: UUID | None, limit: int) -> list[Hold]:
        """Newest first, released ones too."""
        async with self._work() as connection:
            _found(await connection.fetchval(TODAY, merchant_id))
            return [Hold(**dict(row)) for row in await connection.fetch(HOLDS, merchant_id, before, min(limit, PAGE_MAX + 1))]

    async def place(self, merchant_id: UUID, currency: str, amount: int | None, reason: str, by: str, hold_id: UUID | None = None) -> Hold:
        """An amount moves to the merchant's hold account, also when it makes the balance negative; without one all payouts wait.
        `hold_id`: of whom wants it once, however often it asks; then already_exists says that it stands."""
        hold_id = hold_id or uuid7(time.time_ns() // 1_000_000, os.urandom(10))
        async with self._work() as connection:
            return await placed(connection, merchant_id, currency, amount, reason, by, hold_id)

    async def release(self, merchant_id: UUID, hold_id: UUID, by: str) -> Hold:
        """Again changes nothing."""
        async with self._work() as connection:
            return await released(connection, merchant_id, hold_id, by)


async def placed(connection: Connection, merchant_id: UUID, currency: str, amount: int | None, reason: str, by: str, hold_id: UUID,
                 falls: Falls | None = None) -> Hold:
    """In the caller's commit. `falls`: on which business date a settlement shows it. Raises Problem not_found."""
    falls = falls or Falls(_found(await connection.fetchval(TODAY, merchant_id)), None)
    hold = Hold(**dict(_found(await connection.fetchrow(PLACE, merchant_id, hold_id, currency, amount, reason, by))))
    await ledger.post(connection, _moves(hold, "hold_placed", falls))
    return hold


async def released(connection: Connection, merchant_id: UUID, hold_id: UUID, by: str) -> Hold:
    """In the caller's commit; again changes nothing. What a settlement showed comes back in one. Raises Problem: not_found, not_ready."""
    hold = Hold(**dict(_found(await connection.fetchrow(HOLD, merchant_id, hold_id))))
    if hold.released_at is not None:
        return hold
    today = _found(await connection.fetchval(TODAY, merchant_id))
    acquirer_id = await connection.fetchval(PLACED_ON, _posting_key(hold, "hold_placed"))
    falls = Falls(today, None) if acquirer_id is None else Falls(await ledger.open_day(connection, acquirer_id) or today, acquirer_id)
    await ledger.post(connection, _moves(hold, "hold_released", falls))
    return Hold(**dict(_found(await connection.fetchrow(RELEASE, merchant_id, hold_id, by))))


def _posting_key(hold: Hold, cause: str) -> str:
    return f"hold:{hold.hold_id}:{cause}"


def _moves(hold: Hold, cause: str, falls: Falls) -> list[Transfer]:
    if hold.amount is None:
        return []
    merchant, held = (Account(kind, hold.currency, hold.merchant_id) for kind in ("merchant", "hold"))
    debit, credit = (merchant, held) if cause == "hold_placed" else (held, merchant)
    return [Transfer(debit, credit, hold.amount, cause, show("hold", hold.hold_id), falls.business_date, _posting_key(hold, cause), hold.reason,
                     acquirer_id=falls.acquirer_id)]


async def _calendar(connection: Connection, name: str) -> tuple[list[int], dict[date, str]]:
    weekend = _found(await connection.fetchval(CALENDAR, name))
    return list(weekend), {row[0]: row[1] for row in await connection.fetch(EXCEPTIONS, name)}


def _found(value: T | None) -> T:
    if value is None:
        raise Problem("not_found")
    return value
