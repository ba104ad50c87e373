"""Tariffs of merchants and costs of acquirers in the database: agreed from a date on, never overwritten; of one date the newest row holds."""

import json
import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Connection, Pool, work
from switch.errors import Problem
from switch.ids import uuid7
from switch.settlement.fees.charges import Costs, Tariff
from switch.settlement.fees.terms import TermsError, costs_from, tariff_from

PAGE_MAX = 200
EARLIEST, LATEST = date(2000, 1, 1), date(2100, 1, 1)


class Kind(NamedTuple):
    """Where terms of a kind stand, and what reads them."""

    table: str
    ident: str  # without _id, as is `owner`
    owner: str
    read: Callable[[Any, Collection[str] | None], object]
    closing: str  # which business days d count for an owner


TARIFF = Kind("merchant_tariff", "tariff", "merchant", lambda document, brands: tariff_from(document, brands=brands), """EXISTS (
  SELECT FROM history_transaction t WHERE t.merchant_id = $1 AND t.acquirer_id = d.acquirer_id AND t.business_date = d.business_date)""")
COSTS = Kind("acquirer_cost", "cost", "acquirer", lambda document, brands: costs_from(document, brands=brands), "d.acquirer_id = $1")


@dataclass(frozen=True, slots=True)
class Agreed:
    """A row. `ident` is its own id, `owner_id` the merchant's or the acquirer's; `created_by`: the person."""

    ident: UUID
    owner_id: UUID
    effective_from: date
    version: int
    terms: dict[str, Any]
    created_by: str
    created_at: datetime


def _columns(kind: Kind) -> str:
    return f"{kind.ident}_id, {kind.owner}_id, effective_from, version, terms, created_by, created_at"


def _agreed(row: asyncpg.Record) -> Agreed:
    return Agreed(row[0], row[1], row[2], row[3], json.loads(row[4]), row[5], row[6])


KNOWN = {kind: f"SELECT EXISTS (SELECT FROM directory_{kind.owner} WHERE {kind.owner}_id = $1)" for kind in (TARIFF, COSTS)}
HOLDS = {kind: f"""SELECT {kind.ident}_id, version FROM {kind.table} WHERE {kind.owner}_id = $1 AND effective_from = $2
ORDER BY version DESC LIMIT 1""" for kind in (TARIFF, COSTS)}
OPEN_FROM = {kind: f"""SELECT max(d.business_date) + 1 FROM directory_business_day d WHERE d.state <> 'open' AND {kind.closing}"""
             for kind in (TARIFF, COSTS)}
AGREE = {kind: f"""INSERT INTO {kind.table} ({kind.ident}_id, {kind.owner}_id, effective_from, version, terms, created_by)
VALUES ($1, $2, $3, $4, $5, $6) RETURNING {_columns(kind)}""" for kind in (TARIFF, COSTS)}
BRANDS = "SELECT DISTINCT brand FROM directory_bin_range"
CONTRACTED = "SELECT EXISTS (SELECT FROM history_contract WHERE merchant_id = $1 AND state = 'in_force')"


async def agree(pool: Pool, kind: Kind, owner_id: UUID, effective_from: date, terms: Any, by: str, *, replaces: UUID | None = None,
                brands: Collection[str] = ()) -> Agreed:
    """Terms from a business date on, later than every closed day that they would price. `replaces`: what holds from that date and shall no longer.

    Raises Problem: not_found, invalid (each place in the terms), already_exists, conflict, not_ready.
    """
    async with work(pool) as connection:
        if kind is TARIFF and await connection.fetchval(CONTRACTED, owner_id):
            raise Problem("conflict", "A contract in force says what this merchant pays; amend the contract.")
        return await agree_within(connection, kind, owner_id, effective_from, terms, by, replaces=replaces, brands=brands)


async def agree_within(connection: Connection, kind: Kind, owner_id: UUID, effective_from: date, terms: Any, by: str, *, replaces: UUID | None = None,
                       brands: Collection[str] = ()) -> Agreed:
    """The same in the caller's commit. Raises Problem: not_found, invalid, already_exists, conflict."""
    if not EARLIEST <= effective_from < LATEST:
        raise Problem("invalid", "One or more fields are wrong; see errors.",
                      errors=[{"field": "effective_from", "rule": f"a date from {EARLIEST} on, before {LATEST}", "type": "rule"}])
    if not await connection.fetchval(KNOWN[kind], owner_id):
        raise Problem("not_found")
    check(kind, terms, await known_brands(connection, brands))
    current = await connection.fetchrow(HOLDS[kind], owner_id, effective_from)
    if current is not None and replaces is None:
        raise Problem("already_exists", "Terms from that date exist already; give their id as `replaces` to let these hold instead.")
    if replaces is not None and (current is None or current[0] != replaces):
        raise Problem("conflict", "`replaces` is not what holds from that date; read the list again.")
    ident = uuid7(time.time_ns() // 1_000_000, os.urandom(10))
    try:
        async with connection.transaction():
            row = await connection.fetchrow(AGREE[kind], ident, owner_id, effective_from, 1 if current is None else current[1] + 1,
                                            json.dumps(terms), by)
    except asyncpg.UniqueViolationError:
        raise Problem("conflict", "Somebody else agreed terms for that date just now; read the list again.") from None
    except asyncpg.CheckViolationError as error:
        if error.constraint_name != "terms_of_open_days":
            raise
        earliest = await connection.fetchval(OPEN_FROM[kind], owner_id)
        raise Problem("conflict", f"A business day from that date on is closed or being closed, and keeps its prices. The earliest date is "
                                  f"{earliest}.") from None
    assert row is not None
    return _agreed(row)


async def known_brands(connection: Connection, more: Collection[str] = ()) -> set[str]:
    """What rules of a tariff may name."""
    return {*more, "unknown", *(row[0] for row in await connection.fetch(BRANDS))}


def check(kind: Kind, terms: Any, brands: Collection[str] | None = None) -> None:
    """Raises Problem invalid with the place of each fault in the terms."""
    try:
        kind.read(terms, brands)
    except TermsError as error:
        faults = error.faults
    else:
        return
    raise Problem("invalid", "The terms are wrong; see errors: each names the place as a JSON pointer.",
                  errors=[{"field": f"terms{fault.place}", "rule": fault.rule, "type": "terms"} for fault in faults])


LIST = {kind: f"""SELECT {_columns(kind)} FROM {kind.table} t WHERE {kind.owner}_id = $1 AND ($2::uuid IS NULL OR (effective_from, version) < (
  SELECT effective_from, version FROM {kind.table} WHERE {kind.ident}_id = $2 AND {kind.owner}_id = $1))
ORDER BY effective_from DESC, version DESC LIMIT $3""" for kind in (TARIFF, COSTS)}


async def page(pool: Pool, kind: Kind, owner_id: UUID, limit: int, after: UUID | None = None) -> list[Agreed]:
    """The latest first, replaced ones too; those before `after`. Raises Problem: not_found, not_ready."""
    async with work(pool) as connection:
        if not await connection.fetchval(KNOWN[kind], owner_id):
            raise Problem("not_found")
        return [_agreed(row) for row in await connection.fetch(LIST[kind], owner_id, after, limit)]


HOLDING = {kind: f"""SELECT DISTINCT ON (effective_from) {_columns(kind)} FROM {kind.table} WHERE {kind.owner}_id = $1
ORDER BY effective_from, version DESC""" for kind in (TARIFF, COSTS)}


async def holding(connection: Connection, kind: Kind, owner_id: UUID) -> list[Agreed]:
    """What holds, or held, or will hold: one row for each date, the earliest first."""
    return [_agreed(row) for row in await connection.fetch(HOLDING[kind], owner_id)]


async def tariffs_of(connection: Connection, merchant_id: UUID) -> list[Tariff]:
    """A merchant's tariffs by their dates, for `fees.Schedule`, `fees.Meter` and `bills.bill`."""
    return [tariff_from(each.terms, each.effective_from, each.ident) for each in await holding(connection, TARIFF, merchant_id)]


async def costs_of(connection: Connection, acquirer_id: UUID) -> list[Costs]:
    """An acquirer's costs by their dates."""
    return [costs_from(each.terms, each.effective_from) for each in await holding(connection, COSTS, acquirer_id)]


async def in_force(connection: Connection, kind: Kind, owner_id: UUID, day: date) -> Agreed | None:
    """What holds on a business date."""
    return next((each for each in reversed(await holding(connection, kind, owner_id)) if each.effective_from <= day), None)


async def prices(pool: Pool, merchant_id: UUID, acquirers: Collection[UUID]) -> tuple[list[Tariff], dict[UUID | None, list[Costs]]]:
    """All that is needed to price a merchant's transactions at these acquirers, as of one instant. Raises Problem not_ready."""
    async with work(pool) as connection:
        await connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        return await tariffs_of(connection, merchant_id), {each: await costs_of(connection, each) for each in sorted(acquirers)}
