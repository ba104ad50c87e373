"""Devices in the database: registered, moved and swapped, each move in one commit with its row and with what it does to the till's keys."""

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch import alerts
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import show, uuid7
from switch.notices import tell
from switch.security.credentials import Credential
from switch.security.hsm import Provided
from switch.terminals import readiness
from switch.terminals.lifecycle import ASSIGNED, BOUND, FREES, IN_HAND, INVENTORY, LIFE, MAINTENANCE, refusal

PAGE_MAX = 200
TAMPERED = "terminal_tampered"
WITHIN_TESTS = frozenset({"begin_test", "end_test"})  # every other move ends the test of a device
CODES: Mapping[str, tuple[str, str]] = {
    "device_serial_number": ("already_exists", "A device with this serial number is known."),
    "device_of_terminal": ("already_exists", "Another device is bound to this terminal; swap it."),
    "acceptance_test_of_device": ("already_exists", "A test of this device is open or running."),
    "software_release_once": ("already_exists", "This version of this model is known."),
}

COLUMNS = """device_id, serial_number, model, state, version, merchant_id, store_id, terminal_id, sells OR testing AS sells, testing,
sells_in_maintenance, tampered_at, state_since, created_at"""
REGISTER = f"""INSERT INTO device (device_id, serial_number, model, state) VALUES ($1, $2, $3, 'inventory') RETURNING {COLUMNS}"""
NOTE = """INSERT INTO device_event (device_id, number, event, was, state, merchant_id, store_id, terminal_id, person, key_id, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"""
LOCK = f"SELECT {COLUMNS} FROM device WHERE device_id = $1 FOR NO KEY UPDATE"
MOVE = f"""UPDATE device SET state = $2, version = version + 1, merchant_id = $3, store_id = $4, terminal_id = $5, sells_in_maintenance = $6,
tampered_at = $7, testing = $9, state_since = now() WHERE device_id = $1 AND version = $8 RETURNING {COLUMNS}"""
STORE = "SELECT merchant_id FROM directory_store WHERE store_id = $1"
TILL = "SELECT merchant_id, store_id, own_status FROM directory_terminal WHERE terminal_id = $1"
ERASE = "UPDATE device_key SET erase_asked_at = coalesce(erase_asked_at, now()) WHERE device_id = $1 AND erased_at IS NULL"
ERASED = """UPDATE device_key SET erase_asked_at = coalesce(erase_asked_at, now()), erased_at = now()
WHERE device_id = $1 AND erased_at IS NULL"""
SEEN = """SELECT d.device_id, d.serial_number, d.model, d.state, d.version, d.merchant_id, d.store_id, d.terminal_id,
  d.sells OR d.testing AS sells, d.testing, d.sells_in_maintenance, d.tampered_at, d.state_since, d.created_at, h.last_at,
  h.software_version, h.silent_since, c.issued_at AS code_issued_at, c.expires_at AS code_expires_at,
  (SELECT count(*) FROM device_key k WHERE k.device_id = d.device_id AND k.erase_asked_at IS NOT NULL AND k.erased_at IS NULL) AS keys_to_erase
FROM device d LEFT JOIN device_health h USING (device_id) LEFT JOIN activation_code c ON c.device_id = d.device_id AND c.ended_at IS NULL"""
ONE = f"{SEEN} WHERE d.device_id = $1 AND ($2::uuid IS NULL OR d.merchant_id = $2)"
PAGE = f"""{SEEN} WHERE ($1::uuid IS NULL OR d.merchant_id = $1) AND ($2::uuid IS NULL OR d.device_id < $2) AND ($3::text IS NULL OR d.state = $3)
AND ($4::uuid IS NULL OR d.store_id = $4) AND ($5::uuid IS NULL OR d.terminal_id = $5) AND ($6::text IS NULL OR d.serial_number = $6)
AND ($7::boolean IS NULL OR (h.silent_since IS NOT NULL) = $7) ORDER BY d.device_id DESC LIMIT $8"""
EVENTS = """SELECT number, event, was, state, merchant_id, store_id, terminal_id, person, reason, at FROM device_event
WHERE device_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2) AND ($3::integer IS NULL OR number < $3) ORDER BY number DESC LIMIT $4"""


class By(NamedTuple):
    """Who does it: a person with a key of their own, or the device itself."""

    person: str
    key_id: str | None = None


class Keys(NamedTuple):
    """What the owner of keys does in the caller's database transaction: a new key of a till, and the end of all keys of a till."""

    issue: Callable[[Connection, UUID, UUID], Awaitable[Credential]]
    revoke: Callable[[Connection, UUID], Awaitable[None]]
    erase: Callable[[Connection, UUID], Awaitable[None]]  # all its cryptographic keys
    provide: Callable[[Connection, UUID, UUID, bytes, bytes], Awaitable[Provided]] | None = None  # a new master key: merchant, terminal, point, bound


class Wanted(NamedTuple):
    """What a list is narrowed by. `merchant_id`: whose they must be."""

    merchant_id: UUID | None
    before: UUID | None = None
    state: str | None = None
    store_id: UUID | None = None
    terminal_id: UUID | None = None
    serial_number: str | None = None
    silent: bool | None = None


class Place(NamedTuple):
    """Where a device belongs after a move."""

    merchant_id: UUID | None = None
    store_id: UUID | None = None
    terminal_id: UUID | None = None


NOWHERE = Place()
NO_MORE: Mapping[str, str] = {}


@asynccontextmanager
async def work(pool: Pool) -> AsyncIterator[Connection]:
    """One database transaction. Raises Problem: not_ready, and what a constraint means."""
    try:
        async with pool.acquire() as connection, connection.transaction():
            yield connection
    except asyncpg.UniqueViolationError as error:
        code = CODES.get(error.constraint_name or "")
        if code is None:
            raise
        problem = Problem(*code)
    except UNKNOWN:
        problem = away()
    else:
        return
    raise problem from None


def away() -> Problem:
    return Problem("not_ready", "The database does not answer. Look first whether it was written.", retry_after=2)


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


async def locked(connection: Connection, device_id: UUID) -> asyncpg.Record:
    """Raises Problem not_found."""
    row = await connection.fetchrow(LOCK, device_id)
    if row is None:
        raise Problem("not_found")
    return row


async def moved(connection: Connection, keys: Keys, row: asyncpg.Record, event: str, by: By, reason: str, place: Place | None = None,
                sells_in_maintenance: bool = False) -> asyncpg.Record:
    """One step of a locked device with all that belongs to it. `place`: where it belongs afterwards, when the step says so itself.

    Whoever sends `tamper` announces the alert when that has committed.
    """
    refused = refusal(row["state"], event, row["tampered_at"] is not None)
    if refused is not None:
        raise Problem(*refused)
    if event == "go_live":
        await readiness.required(connection, row)
    if event not in WITHIN_TESTS:
        await readiness.interrupt(connection, row["device_id"], f"the device moved: {event}", by.person, by.key_id)
    state = LIFE[row["state"], event]
    if place is None:
        place = _place_after(row, state)
    tampered_at: datetime | None = row["tampered_at"]
    if event == "tamper":
        tampered_at = tampered_at or await connection.fetchval("SELECT now()")
    elif event == "repair":
        tampered_at = None
    if row["terminal_id"] is not None and (event in FREES or event == "tamper"):
        await keys.revoke(connection, row["terminal_id"])
        await keys.erase(connection, row["terminal_id"])
        await connection.execute(ERASE, row["device_id"])
    if event in IN_HAND:
        await connection.execute(ERASED, row["device_id"])
    if event == "tamper" and row["tampered_at"] is None:
        await connection.execute(alerts.RAISE, new_id(), TAMPERED, show("device", row["device_id"]))
        await told(connection, row, "terminal.tampered", f"v{row['version']}")
    may_sell = sells_in_maintenance and state == MAINTENANCE
    after = await connection.fetchrow(MOVE, row["device_id"], state, *place, may_sell, tampered_at, row["version"], event == "begin_test")
    assert after is not None  # it is locked
    await connection.execute(NOTE, row["device_id"], after["version"], event, row["state"], state, *_told(row, place), by.person, by.key_id, reason)
    return after


async def told(connection: Connection, row: asyncpg.Record, type_: str, why: str, more: Mapping[str, str] = NO_MORE) -> None:
    """The merchant that has it gets a notice, in the caller's transaction; once for each `why`."""
    if row["merchant_id"] is not None:
        shown = show("device", row["device_id"])
        await tell(connection, row["merchant_id"], type_, f"{shown}:{why}", {
            "device": shown, "serial_number": row["serial_number"],
            "terminal": None if row["terminal_id"] is None else show("terminal", row["terminal_id"]), **more})


async def swapped(connection: Connection, keys: Keys, device_id: UUID, replacement_id: UUID, by: By, reason: str) -> None:
    """One device takes over another's till, in the caller's transaction. Raises Problem: not_found, conflict, device_move, device_tampered."""
    if device_id == replacement_id:
        raise Problem("conflict", "A device does not replace itself.")
    rows = {each: await locked(connection, each) for each in sorted((device_id, replacement_id))}
    old, new = rows[device_id], rows[replacement_id]
    if new["merchant_id"] not in (None, old["merchant_id"]):
        raise Problem("conflict", "The replacement is on its way to another merchant.")
    place = Place(old["merchant_id"], old["store_id"], old["terminal_id"])
    await moved(connection, keys, old, "swap_out", by, reason)
    await moved(connection, keys, new, "swap_in", by, reason, place)


def _place_after(row: asyncpg.Record, state: str) -> Place:
    if state not in ASSIGNED:
        return NOWHERE
    return Place(row["merchant_id"], row["store_id"], row["terminal_id"] if state in BOUND else None)


def _told(row: asyncpg.Record, place: Place) -> Place:
    """Whose the move is: who gave a device back may still read that it did."""
    return place if place.merchant_id is not None else Place(row["merchant_id"], row["store_id"], row["terminal_id"])


class Devices:
    """Raises Problem: not_found, already_exists, device_move, device_tampered, conflict, invalid, not_ready."""

    def __init__(self, writers: Pool, readers: Pool, keys: Keys) -> None:
        self.writers, self.readers, self.keys = writers, readers, keys

    async def register(self, serial_number: str, model: str, by: By, reason: str) -> UUID:
        """Into the inventory."""
        async with work(self.writers) as connection:
            row = await connection.fetchrow(REGISTER, new_id(), serial_number, model)
            assert row is not None
            await connection.execute(NOTE, row["device_id"], 1, "register", None, INVENTORY, *NOWHERE, by.person, by.key_id, reason)
        device_id: UUID = row["device_id"]
        return device_id

    async def move(self, device_id: UUID, event: str, by: By, reason: str, *, store_id: UUID | None = None, terminal_id: UUID | None = None,
                   sells: bool = False) -> None:
        """One step. `store_id` for order, `terminal_id` for install, and only there; `sells`: whether it may while it is maintained."""
        async with work(self.writers) as connection:
            row = await locked(connection, device_id)
            place = None
            if event == "order":
                place = await self._ordered(connection, store_id)
            elif event == "install":
                place = await self._installed(connection, row, terminal_id)
            await moved(connection, self.keys, row, event, by, reason, place, sells)
        if event == "tamper" and row["tampered_at"] is None:
            alerts.announce(TAMPERED, show("device", device_id))

    async def swap(self, device_id: UUID, replacement_id: UUID, by: By, reason: str) -> None:
        """The replacement takes over the till; it needs a code and gets a key of its own. The old one's keys end here."""
        async with work(self.writers) as connection:
            await swapped(connection, self.keys, device_id, replacement_id, by, reason)

    async def one(self, device_id: UUID, merchant_id: UUID | None) -> asyncpg.Record:
        """`merchant_id`: whose it must be."""
        rows = await self._fetch(ONE, device_id, merchant_id)
        if not rows:
            raise Problem("not_found")
        return rows[0]

    async def page(self, wanted: Wanted, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        return await self._fetch(PAGE, *wanted, min(limit, PAGE_MAX + 1))

    async def events(self, device_id: UUID, merchant_id: UUID | None, before: int | None, limit: int) -> list[asyncpg.Record]:
        """The latest first; a merchant's are those of its own time. Raises Problem not_found: none of them is."""
        rows = await self._fetch(EVENTS, device_id, merchant_id, before, min(limit, PAGE_MAX + 1))
        if not rows and before is None:
            raise Problem("not_found")
        return rows

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.readers.fetch(statement, *arguments)
        except UNKNOWN:
            raise away() from None

    async def _ordered(self, connection: Connection, store_id: UUID | None) -> Place:
        merchant_id = await connection.fetchval(STORE, store_id)
        if store_id is None or merchant_id is None:
            raise _wrong("store", "the store that it is for")
        return Place(merchant_id, store_id)

    async def _installed(self, connection: Connection, row: asyncpg.Record, terminal_id: UUID | None) -> Place:
        till = await connection.fetchrow(TILL, terminal_id)
        if terminal_id is None or till is None or till["own_status"] == "retired":
            raise _wrong("terminal", "a terminal of the device's store that is not retired")
        if row["state"] in ASSIGNED and (till["merchant_id"], till["store_id"]) != (row["merchant_id"], row["store_id"]):
            raise _wrong("terminal", "a terminal of the device's store that is not retired")
        return Place(till["merchant_id"], till["store_id"], terminal_id)


def _wrong(field: str, rule: str) -> Problem:
    return Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": field, "rule": rule, "type": "rule"}])
