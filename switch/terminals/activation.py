"""Activation: a code that a person reads out to a device gives it its key, once. Every failure is counted in the commit that judged it."""

import hmac
import os
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch.database import Connection, Pool
from switch.errors import Problem
from switch.ids import show
from switch.security.hsm import Provided
from switch.security.vault import Vault
from switch.terminals import guesses
from switch.terminals.devices import COLUMNS, ERASED, By, Keys, locked, moved, work
from switch.terminals.guesses import FAILURES_OF_A_CODE, LIMITS, LIVES
from switch.terminals.lifecycle import refusal
from switch.terminals.stays import TERMINAL_UNKNOWN

AT_ONCE = 64  # activations in hand or waiting for a connection; more are told to come back
RETRY_S = 5
REMEMBERED_MAX = 10_000  # addresses that are locked, known without asking the database

REPLACE = "UPDATE activation_code SET ended_at = now(), ended_as = 'replaced' WHERE device_id = $1 AND ended_at IS NULL"
ISSUE = """INSERT INTO activation_code (device_id, number, digest, issued_by, expires_at)
SELECT $1, coalesce(max(number), 0) + 1, $2, $3, now() + $4 FROM activation_code WHERE device_id = $1 RETURNING expires_at"""
# The row is locked from here on: whoever has the same address or till waits until this try is judged and counted.
COUNTER = """INSERT INTO activation_failure (scope, subject) VALUES ($1, $2)
ON CONFLICT (scope, subject) DO UPDATE SET failures = activation_failure.failures
RETURNING extract(epoch FROM locked_until - now())::float8 AS locked_s"""
FAILED = """UPDATE activation_failure SET failures = CASE WHEN since < now() - $3::interval THEN 1 ELSE failures + 1 END,
  since = CASE WHEN since < now() - $3::interval THEN now() ELSE since END,
  locked_until = CASE WHEN CASE WHEN since < now() - $3::interval THEN 1 ELSE failures + 1 END >= $4 THEN now() + $5::interval ELSE locked_until END
WHERE scope = $1 AND subject = $2"""
FORGIVEN = "UPDATE activation_failure SET failures = 0, locked_until = NULL WHERE scope = $1 AND subject = $2"
DEVICE = f"SELECT {COLUMNS} FROM device WHERE serial_number = $1 FOR NO KEY UPDATE"
OPEN = "SELECT number, digest, failures, expires_at > now() AS valid FROM activation_code WHERE device_id = $1 AND ended_at IS NULL FOR NO KEY UPDATE"
GUESSED = """UPDATE activation_code SET failures = failures + 1, ended_at = CASE WHEN failures + 1 >= $3 THEN now() END,
  ended_as = CASE WHEN failures + 1 >= $3 THEN 'guessed' END WHERE device_id = $1 AND number = $2"""
USED = "UPDATE activation_code SET ended_at = now(), ended_as = 'used' WHERE device_id = $1 AND number = $2"
KEY = "INSERT INTO device_key (key_id, device_id) VALUES ($1, $2)"
# A device that never sends a heartbeat is silent from here on; what it said before, perhaps in another shop, is over.
FIRST_SIGN = """INSERT INTO device_health (device_id) VALUES ($1) ON CONFLICT (device_id) DO UPDATE SET last_at = now(), silent_since = NULL,
  software_version = NULL, battery_percent = NULL, charging = NULL, paper = NULL, signal_dbm = NULL, network = NULL, latitude_e6 = NULL,
  longitude_e6 = NULL, accuracy_m = NULL, tamper = false, parameters_version = NULL, batch_open = NULL, queued_offline = NULL"""


class Issued(NamedTuple):
    code: str  # shown once, stored nowhere
    expires_at: datetime


class Activated(NamedTuple):
    device_id: UUID
    terminal_id: UUID
    merchant_id: UUID
    store_id: UUID
    key: str  # shown once, stored nowhere
    given: Provided | None  # its master key, when it sent a point


class Locked(NamedTuple):
    seconds: float


class Activation:
    """Raises Problem: not_found, device_move, device_tampered, activation_refused, too_many_attempts, overloaded, not_ready."""

    def __init__(self, pool: Pool, vault: Vault, keys: Keys, now: Callable[[], float] = time.monotonic) -> None:
        self.pool, self.vault, self.keys, self.now = pool, vault, keys, now
        self.locked_until: OrderedDict[str, float] = OrderedDict()
        self.in_hand = 0

    async def issue(self, device_id: UUID, by: By, lives: timedelta = LIVES) -> Issued:
        """A new code; one that was open ends. The device must stand where activation may follow."""
        code = guesses.code_of(os.urandom(5))
        async with work(self.pool) as connection:
            row = await locked(connection, device_id)
            refused = refusal(row["state"], "activate", row["tampered_at"] is not None)
            if refused is not None:
                raise Problem(*refused)
            await connection.execute(REPLACE, device_id)
            expires_at = await connection.fetchval(ISSUE, device_id, self._digest(device_id, code), by.person, lives)
        return Issued(guesses.written(code), expires_at)

    async def activate(self, serial_number: str, typed: str, host: str | None, point: bytes | None = None) -> Activated:
        """The key of the till for the device with this serial number,
        and with its `point` (provisioning.agreed) a new master key. The same refusal for a wrong, used, expired and unknown code."""
        subject = guesses.subject_of(host)
        if (left := self.locked_until.get(subject, 0.0) - self.now()) > 0:
            raise _too_many(left)
        if self.in_hand >= AT_ONCE:
            raise Problem("overloaded", "Too many activations at once.", retry_after=RETRY_S)
        self.in_hand += 1
        try:
            async with work(self.pool) as connection:
                outcome = await self._judge(connection, subject, serial_number, guesses.read(typed), point)
        finally:
            self.in_hand -= 1
        if isinstance(outcome, Activated):
            return outcome
        if isinstance(outcome, Locked):
            self._remember(subject, outcome.seconds)
            raise _too_many(outcome.seconds)
        raise Problem("activation_refused")

    def _digest(self, device_id: UUID, code: str) -> bytes:
        return self.vault.fingerprint(guesses.hashed(device_id, code))

    async def _judge(self, connection: Connection, subject: str, serial_number: str, code: str | None,
                     point: bytes | None) -> Activated | Locked | None:
        """None: refused. What it counts is committed, whatever it says: it raises nothing of its own."""
        if (seconds := await connection.fetchval(COUNTER, "address", subject)) is not None and seconds > 0:
            return Locked(seconds)
        row = await connection.fetchrow(DEVICE, serial_number)
        if row is None or row["terminal_id"] is None:
            await self._failed(connection, ("address", subject))
            return None
        till = show("terminal", row["terminal_id"])
        if (seconds := await connection.fetchval(COUNTER, "terminal", till)) is not None and seconds > 0:
            await self._failed(connection, ("address", subject))
            return None  # as any refusal: a stranger does not learn that the serial number is known
        open_one = await connection.fetchrow(OPEN, row["device_id"])
        given = self._digest(row["device_id"], code or "")
        if open_one is None or code is None or not hmac.compare_digest(given, open_one["digest"]):
            if open_one is not None:
                await connection.execute(GUESSED, row["device_id"], open_one["number"], FAILURES_OF_A_CODE)
            await self._failed(connection, ("address", subject), ("terminal", till))
            return None
        if not open_one["valid"] or refusal(row["state"], "activate", row["tampered_at"] is not None) is not None:
            await self._failed(connection, ("address", subject))
            return None
        await connection.execute(FORGIVEN, "terminal", till)
        return await self._activated(connection, row, open_one["number"], point)

    async def _activated(self, connection: Connection, row: asyncpg.Record, number: int, point: bytes | None) -> Activated:
        device_id, merchant_id, terminal_id = row["device_id"], row["merchant_id"], row["terminal_id"]
        await connection.execute(USED, device_id, number)
        await self.keys.revoke(connection, terminal_id)
        await connection.execute(ERASED, device_id)  # the device keeps one key: the new one takes the place of the old
        issued = await self.keys.issue(connection, merchant_id, terminal_id)
        await connection.execute(KEY, issued.key_id, device_id)
        await connection.execute(FIRST_SIGN, device_id)
        await connection.execute(TERMINAL_UNKNOWN, terminal_id)
        await moved(connection, self.keys, row, "activate", By(f"device {row['serial_number']}", issued.key_id), "by its code")
        given = None
        if point is not None and self.keys.provide is not None:
            given = await self.keys.provide(connection, merchant_id, terminal_id, point, row["serial_number"].encode())
        return Activated(device_id, terminal_id, merchant_id, row["store_id"], issued.text, given)

    async def _failed(self, connection: Connection, *counters: tuple[str, str]) -> None:
        for scope, subject in counters:
            await connection.execute(FAILED, scope, subject, *_durations(scope))

    def _remember(self, subject: str, seconds: float) -> None:
        self.locked_until[subject] = self.now() + seconds
        self.locked_until.move_to_end(subject)
        while len(self.locked_until) > REMEMBERED_MAX:
            self.locked_until.popitem(last=False)


def _durations(scope: str) -> tuple[timedelta, int, timedelta]:
    limit = LIMITS[scope]
    return limit.within, limit.failures, limit.locked


def _too_many(seconds: float) -> Problem:
    return Problem("too_many_attempts", retry_after=max(1, int(seconds) + 1))
