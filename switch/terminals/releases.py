"""Software of devices: releases, and roll-outs in stages. A device learns its version from its heartbeat; nothing is pushed."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import lowest
from switch.terminals import rollout
from switch.terminals.devices import away, new_id, work
from switch.terminals.rollout import Rollout

CONSIDERED = 20  # roll-outs of a model, the newest
PAGE_MAX = 200
FIRST = timedelta(days=31)  # of a terminal that never closed a batch
LOOK_S = 2.0
DEVICES_MAX = 100_000

RELEASE = """INSERT INTO software_release (release_id, model, version, url, sha256, size, notes, person)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING release_id, model, version, url, sha256, size, notes, person, created_at"""
RELEASES = """SELECT release_id, model, version, url, sha256, size, notes, person, created_at FROM software_release
WHERE ($1::text IS NULL OR model = $1) AND ($2::uuid IS NULL OR release_id < $2) ORDER BY release_id DESC LIMIT $3"""
FILE = "SELECT version, url, sha256, size FROM software_release WHERE model = $1 AND version = $2"
COLUMNS = "rollout_id, model, version, back_to, state, percent, stores, number, created_at"
BEGIN = f"""INSERT INTO rollout (rollout_id, model, version, back_to, state, percent, stores) VALUES ($1, $2, $3, $4, 'running', $5, $6)
RETURNING {COLUMNS}"""
NOTE = "INSERT INTO rollout_event (rollout_id, number, event, state, percent, person, reason) VALUES ($1, $2, $3, $4, $5, $6, $7)"
LOCK = f"SELECT {COLUMNS} FROM rollout WHERE rollout_id = $1 FOR NO KEY UPDATE"
CHANGE = f"UPDATE rollout SET state = $2, percent = $3, number = number + 1 WHERE rollout_id = $1 RETURNING {COLUMNS}"
ONE = f"SELECT {COLUMNS} FROM rollout WHERE rollout_id = $1"
PAGE = f"""SELECT {COLUMNS} FROM rollout WHERE ($1::text IS NULL OR model = $1) AND ($2::uuid IS NULL OR rollout_id < $2)
ORDER BY rollout_id DESC LIMIT $3"""
EVENTS = "SELECT event, state, percent, person, reason, at FROM rollout_event WHERE rollout_id = $1 ORDER BY number"
KNOWN_STORES = "SELECT count(*) FROM directory_store WHERE store_id = ANY($1::uuid[])"
OF_MODEL = "SELECT rollout_id, version, back_to, state, percent, stores FROM rollout WHERE model = $1 ORDER BY rollout_id DESC LIMIT $2"
HAVE = """SELECT d.device_id, d.store_id, h.software_version FROM device d LEFT JOIN device_health h USING (device_id)
WHERE d.model = $1 AND d.terminal_id IS NOT NULL LIMIT $2"""
LAST_CLOSE = "SELECT closed_at FROM history_batch WHERE terminal_id = $1 ORDER BY number DESC LIMIT 1"
# What a terminal did since its last close and that stands, or is not decided yet.
UNBATCHED = """SELECT EXISTS (SELECT FROM history_transaction WHERE merchant_id = $1 AND transaction_id >= $2 AND terminal_id = $3
AND state NOT IN ('DECLINED', 'NOT_SENT', 'REVERSED') AND type NOT IN ('balance_inquiry', 'account_verification'))"""


class Software(NamedTuple):
    """What a device shall run. `install`: none, now, after_batch."""

    install: str
    version: str | None = None
    url: str | None = None
    sha256: str | None = None
    size: int | None = None


class Progress(NamedTuple):
    row: asyncpg.Record
    events: Sequence[asyncpg.Record]
    devices: int  # of the model that are bound to a till
    chosen: int
    installed: int


def of(row: asyncpg.Record) -> Rollout:
    return Rollout(row["rollout_id"], row["version"], row["back_to"], row["state"], row["percent"],
                   None if row["stores"] is None else frozenset(row["stores"]))


async def software_for(connection: Connection, device: asyncpg.Record, installed: str | None, says_open: bool | None) -> Software:
    """What a bound device is told. `says_open`: whether it knows of an open batch itself."""
    rollouts = map(of, await connection.fetch(OF_MODEL, device["model"], CONSIDERED))
    wanted = rollout.target(rollouts, device["device_id"], device["store_id"], installed)
    if wanted is None or wanted == installed:
        return Software("none", wanted)
    file = await connection.fetchrow(FILE, device["model"], wanted)
    assert file is not None  # a roll-out is of known releases
    return Software(rollout.when(wanted, installed, says_open or await batch_open(connection, device)), *file)


async def batch_open(connection: Connection, device: asyncpg.Record) -> bool:
    """By our books, whatever the device says. What cannot be found out in time is open: it asks again with its next heartbeat."""
    closed_at = await connection.fetchval(LAST_CLOSE, device["terminal_id"])
    since = lowest(closed_at or datetime.now(UTC) - FIRST)
    try:
        async with connection.transaction():  # a savepoint: a cancelled look leaves the heartbeat whole
            return bool(await connection.fetchval(UNBATCHED, device["merchant_id"], since, device["terminal_id"], timeout=LOOK_S))
    except (TimeoutError, asyncpg.QueryCanceledError):
        return True


class Releases:
    """Raises Problem: not_found, already_exists, invalid, rollout_move, conflict, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def add(self, model: str, version: str, url: str, sha256: str, size: int, notes: str, person: str) -> asyncpg.Record:
        async with work(self.writers) as connection:
            row = await connection.fetchrow(RELEASE, new_id(), model, version, url, sha256, size, notes, person)
        assert row is not None
        return row

    async def begin(self, model: str, version: str, back_to: str, percent: int, stores: list[UUID] | None, person: str, reason: str) -> UUID:
        if version == back_to:
            raise _wrong("back_to", "another version than the one that is rolled out")
        async with work(self.writers) as connection:
            for name, each in (("version", version), ("back_to", back_to)):
                if await connection.fetchrow(FILE, model, each) is None:
                    raise _wrong(name, "a version of this model that was added before")
            if stores is not None and not 0 < len(stores) == await connection.fetchval(KNOWN_STORES, stores):
                raise _wrong("stores", "ids of stores, each once")
            row = await connection.fetchrow(BEGIN, new_id(), model, version, back_to, percent, stores)
            assert row is not None
            await connection.execute(NOTE, row["rollout_id"], 1, "begin", row["state"], percent, person, reason)
        rollout_id: UUID = row["rollout_id"]
        return rollout_id

    async def change(self, rollout_id: UUID, event: str, percent: int | None, person: str, reason: str) -> None:
        """advance, pause, resume, roll_back. The percentage never falls: who was chosen stays chosen."""
        async with work(self.writers) as connection:
            row = await connection.fetchrow(LOCK, rollout_id)
            if row is None:
                raise Problem("not_found")
            refused = rollout.LIFE.refusal(row["state"], event)
            if refused is not None:
                raise Problem(*refused)
            state = rollout.LIFE[row["state"], event]
            if (percent is not None) != (event == "advance"):
                raise _wrong("percent", "given to advance, and only then")
            if percent is not None and percent <= row["percent"]:
                raise Problem("conflict", f"It is at {row['percent']} percent; pause or roll it back instead of shrinking it.")
            after = await connection.fetchrow(CHANGE, rollout_id, state, percent or row["percent"])
            assert after is not None
            await connection.execute(NOTE, rollout_id, after["number"], event, state, after["percent"], person, reason)

    async def progress(self, rollout_id: UUID) -> Progress:
        """How far it has come, counted over the devices that are bound now."""
        rows = await self._fetch(ONE, rollout_id)
        if not rows:
            raise Problem("not_found")
        this = of(rows[0])
        have = await self._fetch(HAVE, rows[0]["model"], DEVICES_MAX)
        chosen = sum(rollout.chosen(this, each["device_id"], each["store_id"]) for each in have)
        installed = sum(each["software_version"] == this.version for each in have)
        return Progress(rows[0], await self._fetch(EVENTS, rollout_id), len(have), chosen, installed)

    async def page(self, model: str | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        return await self._fetch(PAGE, model, before, min(limit, PAGE_MAX + 1))

    async def releases(self, model: str | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        return await self._fetch(RELEASES, model, before, min(limit, PAGE_MAX + 1))

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.readers.fetch(statement, *arguments)
        except UNKNOWN:
            raise away() from None


def _wrong(field: str, rule: str) -> Problem:
    return Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": field, "rule": rule, "type": "rule"}])
