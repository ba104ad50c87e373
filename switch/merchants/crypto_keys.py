"""Cryptographic keys: the one place that writes them, beside device_keys. People load a key by two; a sign-on brings working keys by
itself. Nobody ever reads one."""

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import read, uuid7
from switch.merchants.reversal_terms import set_terms
from switch.security.ciphers import Algorithm, CryptoError
from switch.security.hsm import Handle, Hsm, Purpose
from switch.security.pan import Secret

# Whose key may be what: a terminal master key is between an acquirer and us; a base key belongs to a merchant's terminals.
OWNERS: Mapping[str, frozenset[str]] = {
    "acquirer": frozenset({"kek", "tmk", "pin", "mac", "track"}), "terminal": frozenset({"kek", "pin"}), "merchant": frozenset({"kek", "bdk"}),
}
NAMED = frozenset({"pin", "bdk"})  # of a terminal or merchant: they say which one they mean
WHAT_IS_WRONG = {
    "kcv": ("kcv", "the check value of what was keyed in beside it"), "component": ("component", "as long as the others, in hex"),
    "whole": ("component", "with the others the key that was announced: this one has its own check value, so look at those before it"),
    "key_malformed": ("component", "hex characters, two for each byte"), "key_length": ("component", "of a length that the algorithm has"),
    "key_block": ("key_block", "a TR-31 block of version B or D under that key"), "key_purpose": ("key_block", "of a usage and algorithm that fit"),
    "wrapped_broken": ("under", "a key that this security module can open"),
}
SHOWN = """key_id, acquirer_id, merchant_id, terminal_id, purpose, name, algorithm, kcv, source, components, state, requested_by, requested_at,
approved_by, active_at, ended_at, (SELECT count(*) FROM crypto_key_component c WHERE c.key_id = k.key_id)::int AS entered"""
OWNER = {
    "acquirer": "SELECT acquirer_id, NULL::uuid, NULL::uuid FROM acquirer WHERE acquirer_id = $1",
    "terminal": "SELECT NULL::uuid, merchant_id, terminal_id FROM terminal WHERE terminal_id = $1",
    "merchant": "SELECT NULL::uuid, merchant_id, NULL::uuid FROM merchant WHERE merchant_id = $1",
}
INSERT = """INSERT INTO crypto_key (key_id, acquirer_id, merchant_id, terminal_id, purpose, name, algorithm, kcv, storage_key, wrapped, source,
components, state, requested_by, active_at, ended_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, CASE WHEN $13 IN ('active', 'replaced') THEN now() END,
CASE WHEN $13 = 'replaced' THEN now() END)"""
ENTER = """INSERT INTO crypto_key_component (key_id, component, kcv, storage_key, wrapped, entered_by) VALUES ($1, $2, $3, $4, $5, $6)"""
LOCK = "SELECT * FROM crypto_key WHERE key_id = $1 FOR NO KEY UPDATE"
ENTERED = "SELECT component, kcv, storage_key, wrapped FROM crypto_key_component WHERE key_id = $1 ORDER BY component"
ERASE = "UPDATE crypto_key_component SET wrapped = NULL, storage_key = NULL WHERE key_id = $1"
COMPLETE = "UPDATE crypto_key SET state = 'waiting', storage_key = $2, wrapped = $3 WHERE key_id = $1"
GET = f"SELECT {SHOWN} FROM crypto_key k WHERE key_id = $1"
PAGE = f"""SELECT {SHOWN} FROM crypto_key k WHERE ($1::uuid IS NULL OR coalesce(acquirer_id, terminal_id, merchant_id) = $1)
AND ($2::uuid IS NULL OR key_id < $2) ORDER BY key_id DESC LIMIT $3"""
REPLACE = """UPDATE crypto_key SET state = 'replaced', ended_at = now() WHERE coalesce(acquirer_id, terminal_id, merchant_id) = $1 AND purpose = $2
AND name = $3 AND state = 'active' AND ($4::uuid IS NULL OR key_id < $4)"""
ACTIVATE = "UPDATE crypto_key SET state = 'active', active_at = now(), approved_by = $2 WHERE key_id = $1"
RETIRE = """UPDATE crypto_key SET state = 'replaced', ended_at = now() WHERE key_id = $1 AND state = 'active'
RETURNING acquirer_id, terminal_id, purpose"""
END_WORKING = """UPDATE crypto_key SET state = 'replaced', ended_at = now() WHERE coalesce(acquirer_id, terminal_id) = $1
AND source = 'sign_in' AND state = 'active'"""
NEWER = """SELECT EXISTS (SELECT FROM crypto_key WHERE acquirer_id = $1 AND purpose = $2 AND name = '' AND state = 'active')"""
UNDER = """SELECT key_id, purpose, algorithm, kcv, storage_key, wrapped FROM crypto_key WHERE key_id = $1 AND state = 'active' AND purpose = 'kek'
AND coalesce(acquirer_id, terminal_id, merchant_id) = $2"""
OLD_WRAPS = "SELECT key_id, purpose, algorithm, kcv, storage_key, wrapped FROM crypto_key WHERE state = 'active' FOR NO KEY UPDATE"
REWRAP = "UPDATE crypto_key SET storage_key = $2, wrapped = $3 WHERE key_id = $1 AND state = 'active'"
FORGET = "SELECT forget_former_keys($1::uuid)"
ACQUIRER_LOCK = "SELECT FROM acquirer WHERE acquirer_id = $1 FOR NO KEY UPDATE"


class Wanted(NamedTuple):
    """A key that somebody wants to load. `owner_kind`: acquirer, terminal, merchant; `kcv`: of the whole key, 6 hex characters."""

    owner_kind: str
    owner: UUID
    purpose: Purpose
    name: str
    algorithm: Algorithm
    kcv: str


def new_id() -> UUID:
    return uuid7(time.time_ns() // 1_000_000, os.urandom(10))


class CryptoKeys:
    """Raises Problem: not_supported (no security module), not_found, invalid, conflict, same_person, already_exists, not_ready."""

    def __init__(self, pool: Pool, hsm: Hsm | None) -> None:
        self.pool, self._hsm = pool, hsm

    @property
    def hsm(self) -> Hsm:
        if self._hsm is None:
            raise Problem("not_supported", "This switch has no security module (SWITCH_HSM).")
        return self._hsm

    @asynccontextmanager
    async def _work(self) -> AsyncIterator[Connection]:
        try:
            async with self.pool.acquire() as connection, connection.transaction():
                yield connection
        except CryptoError as error:
            field, rule = WHAT_IS_WRONG[error.code]
            raise Problem("invalid", errors=[{"field": field, "rule": rule, "type": error.code}]) from None
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "crypto_key_component_by_another":
                raise Problem("same_person", "Another person must key in this component, with a key of their own.") from None
            raise Problem("already_exists") from None
        except UNKNOWN:
            raise Problem("not_ready", "The database does not answer. Look first whether it was written.", retry_after=2) from None

    async def page(self, owner: UUID | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first: what they are for and their check values."""
        async with self._work() as connection:
            return await connection.fetch(PAGE, owner, before, limit)

    async def get(self, key_id: UUID) -> asyncpg.Record:
        async with self._work() as connection:
            return await _shown(connection, key_id)

    async def begin(self, wanted: Wanted, count: int, content: Secret, kcv: str, person: str) -> asyncpg.Record:
        """The first of two or three components; the others come from other people."""
        hsm = self.hsm
        async with self._work() as connection:
            identity = await self._insert(connection, wanted, None, "components", count, "collecting", person)
            await self._enter(connection, identity, 1, hsm.component(identity, wanted.algorithm, content, kcv), person)
            return await _shown(connection, identity)

    async def add(self, key_id: UUID, content: Secret, kcv: str, person: str) -> asyncpg.Record:
        """The next component. With the last one the key is whole: it has its check value, and waits to be approved."""
        hsm = self.hsm
        async with self._work() as connection:
            row = await connection.fetchrow(LOCK, key_id)
            if row is None:
                raise Problem("not_found")
            if row["state"] != "collecting":
                raise Problem("conflict", "This key has all its components.")
            entered = await connection.fetch(ENTERED, key_id)
            await self._enter(connection, key_id, len(entered) + 1, hsm.component(key_id, row["algorithm"], content, kcv), person)
            if len(entered) + 1 == row["components"]:
                parts = [_component(key_id, row["algorithm"], each) for each in await connection.fetch(ENTERED, key_id)]
                whole = _whole(hsm, key_id, row, parts)
                await connection.execute(COMPLETE, key_id, whole.storage_key, whole.wrapped)
                await connection.execute(ERASE, key_id)
            return await _shown(connection, key_id)

    async def take(self, wanted: Wanted, block: Secret, under: UUID, person: str) -> asyncpg.Record:
        """A TR-31 block under a key encryption key of the same owner; it waits to be approved."""
        hsm, identity = self.hsm, new_id()
        async with self._work() as connection:
            row = await connection.fetchrow(UNDER, under, wanted.owner)
            if row is None:
                raise Problem("invalid", errors=[{"field": "key_block.under", "rule": "an active kek of the same owner", "type": "rule"}])
            key = hsm.unwrapped(identity, wanted.purpose, wanted.algorithm, block, Handle(*row), wanted.kcv)
            await self._insert(connection, wanted, key, "key_block", 0, "waiting", person)
            return await _shown(connection, identity)

    async def _insert(self, connection: Connection, wanted: Wanted, key: Handle | None, source: str, count: int, state: str, person: str) -> UUID:
        _check(wanted)
        owner = await connection.fetchrow(OWNER[wanted.owner_kind], wanted.owner)
        if owner is None:
            raise Problem("not_found")
        identity = key.key_id if key is not None else new_id()
        await connection.execute(INSERT, identity, *owner, wanted.purpose, wanted.name, wanted.algorithm, wanted.kcv,
                                 key.storage_key if key else None, key.wrapped if key else None, source, count, state, person)
        return identity

    async def _enter(self, connection: Connection, key_id: UUID, number: int, part: Handle, person: str) -> None:
        await connection.execute(ENTER, key_id, number, part.kcv, part.storage_key, part.wrapped, person)

    async def installed(self, acquirer_id: UUID, keys: Sequence[Handle]) -> None:
        """Working keys that a sign-on brought: the newest one of a purpose is in force, whoever writes first. Old ones are forgotten."""
        async with self._work() as connection:
            await connection.execute(ACQUIRER_LOCK, acquirer_id)
            for key in keys:
                await connection.execute(REPLACE, acquirer_id, key.purpose, "", key.key_id)
                # when another line has signed on since, the others must know this one all the same: the host may use it for a while
                state = "replaced" if await connection.fetchval(NEWER, acquirer_id, key.purpose) else "active"
                await connection.execute(INSERT, key.key_id, acquirer_id, None, None, key.purpose, "", key.algorithm, key.kcv, key.storage_key,
                                         key.wrapped, "sign_in", 0, state, None)
            await connection.execute(FORGET, acquirer_id)

    async def rewrap(self) -> None:
        """Keys under a storage key of yesterday get today's, so that the old one can be retired."""
        if self._hsm is None:
            return
        async with self._work() as connection:
            for row in await connection.fetch(OLD_WRAPS):
                old = Handle(*row)
                new = self._hsm.rewrapped(old)
                if new is not old:
                    await connection.execute(REWRAP, old.key_id, new.storage_key, new.wrapped)


def _check(wanted: Wanted) -> None:
    errors = []
    if wanted.purpose not in OWNERS[wanted.owner_kind]:
        errors.append({"field": "purpose", "rule": f"of this owner: {', '.join(sorted(OWNERS[wanted.owner_kind]))}", "type": "rule"})
    if (wanted.owner_kind != "acquirer" and wanted.purpose in NAMED) != bool(wanted.name):
        errors.append({"field": "name", "rule": "for a terminal's pin key and for a bdk, and only there", "type": "rule"})
    if errors:
        raise Problem("invalid", errors=errors)


def _whole(hsm: Hsm, key_id: UUID, row: asyncpg.Record, parts: list[Handle]) -> Handle:
    """A component that has its own check value and makes another key is told apart from one that was mistyped."""
    try:
        return hsm.combined(key_id, row["purpose"], parts, row["kcv"])
    except CryptoError as error:
        raise CryptoError("whole" if error.code == "kcv" else error.code) from None


def _component(key_id: UUID, algorithm: Algorithm, row: asyncpg.Record) -> Handle:
    return Handle(key_id, "component", algorithm, row["kcv"], row["storage_key"], row["wrapped"])


async def _shown(connection: Connection, key_id: UUID) -> asyncpg.Record:
    row = await connection.fetchrow(GET, key_id)
    if row is None:
        raise Problem("not_found")
    return row


async def activate(connection: Connection, _object: str, payload: Mapping[str, Any], people: Mapping[str, str]) -> None:
    """Executes an approval inside its commit: the key is in force, in the place of the one before it. An acquirer's lines sign on with it."""
    identity = read("crypto_key", payload["key"])
    row = None if identity is None else await connection.fetchrow(LOCK, identity)
    if row is None or row["state"] != "waiting":
        raise Problem("conflict", "This key was approved already.")
    owner = row["acquirer_id"] or row["terminal_id"] or row["merchant_id"]
    await connection.execute(REPLACE, owner, row["purpose"], row["name"], None)
    await connection.execute(ACTIVATE, identity, people["decided_by"])
    if row["acquirer_id"] is not None:
        await set_terms(connection, row["acquirer_id"], {"sign_on": True})


async def retire(connection: Connection, _object: str, payload: Mapping[str, Any], _people: Mapping[str, str]) -> None:
    """Executes an approval inside its commit: the key is used no more, and nothing stands in its place. With a master key go its working keys."""
    identity = read("crypto_key", payload["key"])
    row = None if identity is None else await connection.fetchrow(RETIRE, identity)
    if row is None:
        raise Problem("conflict", "This key is not in force any more.")
    if row["purpose"] == "tmk":
        await connection.execute(END_WORKING, row["acquirer_id"] or row["terminal_id"])
    if row["acquirer_id"] is not None:
        await set_terms(connection, row["acquirer_id"], {"sign_on": True})
