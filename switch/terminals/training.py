"""Training and check lists in the database: material per model and role, who was trained, when and by whom, what was checked. Only added to."""

from collections.abc import Sequence
from datetime import date
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.terminals import readiness
from switch.terminals.devices import STORE, By, away, locked, new_id, work
from switch.terminals.lifecycle import BOUND
from switch.terminals.readiness import Standing

PAGE_MAX = 200

LOCK = "SELECT pg_advisory_xact_lock(3583029, hashtext($1))"
MATERIAL = """INSERT INTO training_material (material_id, model, role, language, title, version, address, content, person, key_id)
VALUES ($1, $2, $3, $4, $5, (SELECT 1 + coalesce(max(version), 0) FROM training_material WHERE model = $2 AND role = $3 AND language = $4
  AND title = $5), $6, $7, $8, $9) RETURNING material_id, model, role, language, title, version, address, content, person, at"""
MATERIALS = """SELECT material_id, model, role, language, title, version, address, content, person, at FROM training_material
WHERE ($1::text IS NULL OR model = $1) AND ($2::text IS NULL OR role = $2) AND ($3::text IS NULL OR language = $3)
AND ($4::uuid IS NULL OR material_id < $4) ORDER BY material_id DESC LIMIT $5"""
KNOWN = "SELECT count(*) FROM training_material WHERE material_id = ANY($1::uuid[]) AND model = $2 AND role = $3"
COLUMNS = "training_id, merchant_id, store_id, model, role, trainee, trainer, held_on, materials, person, at"
TRAINING = f"""INSERT INTO training (training_id, merchant_id, store_id, model, role, trainee, trainer, held_on, materials, person, key_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING {COLUMNS}"""
TRAININGS = f"""SELECT {COLUMNS} FROM training WHERE ($1::uuid IS NULL OR merchant_id = $1) AND ($2::uuid IS NULL OR store_id = $2)
AND ($3::uuid IS NULL OR training_id < $3) ORDER BY training_id DESC LIMIT $4"""
CHECK = """INSERT INTO device_check (device_id, installation, number, code, done, reason, person, key_id)
VALUES ($1, $2, (SELECT 1 + coalesce(max(number), 0) FROM device_check WHERE device_id = $1), $3, $4, $5, $6, $7)"""
DEVICE = """SELECT device_id, model, state, merchant_id, store_id, terminal_id FROM device WHERE device_id = $1
AND ($2::uuid IS NULL OR merchant_id = $2)"""


class Held(NamedTuple):
    """A training that was held. `materials`: ids of what was used."""

    store_id: UUID
    model: str
    role: str
    trainee: str
    trainer: str
    held_on: date
    materials: Sequence[UUID]


class Training:
    """Raises Problem: not_found, invalid, conflict, not_ready."""

    def __init__(self, writers: Pool, readers: Pool) -> None:
        self.writers, self.readers = writers, readers

    async def add_material(self, model: str, role: str, language: str, title: str, address: str | None, content: str | None,
                           by: By) -> asyncpg.Record:
        """The next version of material with this title; those before stay."""
        async with work(self.writers) as connection:
            await connection.execute(LOCK, f"{model}|{role}|{language}|{title}")
            row = await connection.fetchrow(MATERIAL, new_id(), model, role, language, title, address, content, by.person, by.key_id)
        assert row is not None
        return row

    async def record(self, held: Held, today: date, by: By) -> asyncpg.Record:
        """A training at a store. `today`: no training is recorded before it was held."""
        async with work(self.writers) as connection:
            merchant_id = await connection.fetchval(STORE, held.store_id)
            if merchant_id is None:
                raise _wrong("store", "a store")
            if held.held_on > today:
                raise _wrong("held_on", "today or before")
            if await connection.fetchval(KNOWN, list(held.materials), held.model, held.role) != len(set(held.materials)):
                raise _wrong("materials", "material of this model and role")
            row = await connection.fetchrow(TRAINING, new_id(), merchant_id, held.store_id, held.model, held.role, held.trainee, held.trainer,
                                            held.held_on, list(held.materials), by.person, by.key_id)
        assert row is not None
        return row

    async def check(self, device_id: UUID, code: str, done: bool, reason: str, by: By) -> None:
        """What was checked at the device; the latest word on a check counts."""
        async with work(self.writers) as connection:
            device = await locked(connection, device_id)
            if device["state"] not in BOUND:
                raise Problem("conflict", f"A device that is {device['state']} is at no till; install it first.")
            found = await readiness.standing(connection, device)
            if code not in {each["code"] for each in found.plan.checks}:
                raise _wrong("check", "a check of the model's plan")
            await connection.execute(CHECK, device_id, found.installation, code, done, reason, by.person, by.key_id)

    async def standing(self, device_id: UUID, merchant_id: UUID | None) -> tuple[asyncpg.Record, Standing]:
        """What a device lacks. Raises Problem: not_found, conflict (it is at no till)."""
        try:
            async with self.readers.acquire() as connection:
                return await self._standing(connection, device_id, merchant_id)
        except UNKNOWN:
            raise away() from None

    async def _standing(self, connection: Connection, device_id: UUID, merchant_id: UUID | None) -> tuple[asyncpg.Record, Standing]:
        device = await connection.fetchrow(DEVICE, device_id, merchant_id)
        if device is None:
            raise Problem("not_found")
        if device["state"] not in BOUND:
            raise Problem("conflict", f"A device that is {device['state']} is at no till; install it first.")
        return device, await readiness.standing(connection, device)

    async def materials(self, model: str | None, role: str | None, language: str | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        return await self._fetch(MATERIALS, model, role, language, before, min(limit, PAGE_MAX + 1))

    async def trainings(self, merchant_id: UUID | None, store_id: UUID | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        return await self._fetch(TRAININGS, merchant_id, store_id, before, min(limit, PAGE_MAX + 1))

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.readers.fetch(statement, *arguments)
        except UNKNOWN:
            raise away() from None


def _wrong(field: str, rule: str) -> Problem:
    return Problem("invalid", "One or more fields are wrong; see errors.", errors=[{"field": field, "rule": rule, "type": "rule"}])
