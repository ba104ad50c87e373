"""Acceptance tests in the database: opened, run on the real path, shown step by step by recorded transactions, and judged by them alone."""

import json
from dataclasses import asdict
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import lowest, show
from switch.terminals import acceptance_steps as steps
from switch.terminals import readiness
from switch.terminals.acceptance_life import LIFE, OPEN, RUNNING
from switch.terminals.acceptance_steps import Printed, Seen, Within
from switch.terminals.devices import By, Keys, away, locked, moved, new_id, work

SHOWINGS_MAX, TRANSACTIONS_MAX, PAGE_MAX = 200, 1000, 200

PLAN_LOCK = "SELECT pg_advisory_xact_lock(3583028, hashtext($1))"
PLAN = """INSERT INTO acceptance_plan (model, version, content, reason, person, key_id) VALUES ($1, $2, $3::jsonb, $4, $5, $6)
RETURNING model, version, content, reason, person, at"""
PLANS = """SELECT model, version, content, reason, person, at FROM acceptance_plan WHERE model = $1 AND ($2::integer IS NULL OR version < $2)
ORDER BY version DESC LIMIT $3"""
COLUMNS = """test_id, device_id, installation, merchant_id, store_id, terminal_id, plan_version, steps, repeats, state, version, state_since,
begun_at, created_at"""
OPENED = """INSERT INTO acceptance_test (test_id, device_id, installation, merchant_id, store_id, terminal_id, plan_version, steps, repeats, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, 'open')"""
NOTE = """INSERT INTO acceptance_event (test_id, number, event, was, state, reason, person, key_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""
MOVE = """UPDATE acceptance_test SET state = $2, version = version + 1, state_since = now(), begun_at = CASE WHEN $2 = 'running' THEN now()
ELSE begun_at END WHERE test_id = $1"""
ONE = f"""SELECT {COLUMNS} FROM acceptance_test WHERE test_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2)
AND ($3::uuid IS NULL OR terminal_id = $3)"""
LOCK = f"{ONE} FOR NO KEY UPDATE"
PAGE = f"""SELECT {COLUMNS} FROM acceptance_test WHERE device_id = $1 AND ($2::uuid IS NULL OR merchant_id = $2)
AND ($3::uuid IS NULL OR test_id < $3) ORDER BY test_id DESC LIMIT $4"""
RUNS = f"SELECT {COLUMNS} FROM acceptance_test WHERE terminal_id = $1 AND state = 'running' ORDER BY test_id DESC LIMIT 1"
EVENTS = "SELECT number, event, was, state, reason, person, at FROM acceptance_event WHERE test_id = $1 ORDER BY number"
SHOWINGS = """SELECT number, step, dialect, transaction_id, shown, findings, compared, person, at FROM acceptance_step WHERE test_id = $1
ORDER BY number"""
SHOW = """INSERT INTO acceptance_step (test_id, number, step, dialect, transaction_id, shown, findings, compared, person, key_id)
VALUES ($1, $2, $3, $4, $5, $6, $7::jsonb, $8::jsonb, $9, $10) RETURNING number, step, dialect, transaction_id, shown, findings,
compared, person, at"""
_TRANSACTION = """SELECT t.transaction_id, t.type, t.state, t.entry_mode, t.terminal_id, t.caller, a.dialect, t.amount, t.approved_amount, t.currency,
t.card_last4 AS last4, t.rrn, t.acquirer_rrn, t.stan, t.approval_code, t.response_code, t.voided, t.captured, t.refunded, t.capturable,
t.original_id, t.answer_message, EXISTS (SELECT FROM history_duty d WHERE d.transaction_id = t.transaction_id AND d.kind = 'reversal'
  AND d.closed_by = 'ack') AS acknowledged FROM history_transaction t JOIN directory_acquirer a USING (acquirer_id)"""
TRANSACTION = f"{_TRANSACTION} WHERE t.merchant_id = $1 AND t.transaction_id = $2"
MADE = f"""{_TRANSACTION} WHERE t.merchant_id = $1 AND t.transaction_id >= $2 AND t.terminal_id = $3
AND t.voided = 0 AND t.state NOT IN ('DECLINED', 'NOT_SENT', 'REVERSED') ORDER BY t.transaction_id LIMIT $4"""
CLEARED = """SELECT c.amount, c.currency FROM history_transaction t JOIN history_cleared c ON c.acquirer_id = t.acquirer_id
AND c.business_date = t.business_date AND c.rrn IN (t.rrn, t.acquirer_rrn) AND c.kind = CASE t.type WHEN 'refund' THEN 'refund' ELSE 'sale' END
WHERE t.merchant_id = $1 AND t.transaction_id = $2 LIMIT 1"""


class Whole(NamedTuple):
    """A test with its moves, what was shown, and what is still wanted. `standing`: transactions of it that still move money."""

    row: asyncpg.Record
    events: list[asyncpg.Record]
    showings: list[asyncpg.Record]
    missing: list[dict[str, str | None]]
    standing: list[UUID]


class Acceptance:
    """Raises Problem: not_found, conflict, invalid, acceptance_move, acceptance_incomplete, device_move, device_tampered, not_ready."""

    def __init__(self, writers: Pool, readers: Pool, keys: Keys) -> None:
        self.writers, self.readers, self.keys = writers, readers, keys

    async def plan(self, model: str, content: dict[str, Any], after: int | None, by: By, reason: str) -> asyncpg.Record:
        """The next version of what a model asks for. `after`: the version that the writer has seen."""
        async with work(self.writers) as connection:
            await connection.execute(PLAN_LOCK, model)
            newest = (await readiness.plan_of(connection, model)).version
            if after is not None and after != newest:
                raise Problem("conflict", f"Version {newest} is the newest; somebody was first.")
            row = await connection.fetchrow(PLAN, model, newest + 1, json.dumps(content), reason, by.person, by.key_id)
        assert row is not None
        return row

    async def open(self, device_id: UUID, by: By, reason: str) -> UUID:
        """A test by the plan in force, of the till that the device is bound to."""
        async with work(self.writers) as connection:
            device = await locked(connection, device_id)
            return await self._opened(connection, device, None, by, reason)

    async def move(self, test_id: UUID, event: str, by: By, reason: str) -> UUID:
        """One step of its life; the id of the test that is in hand afterwards, another one after `repeat`."""
        async with work(self.writers) as connection:
            device, row = await self._locked(connection, test_id)
            refused = LIFE.refusal(row["state"], event)
            if refused is not None:
                raise Problem(*refused)
            if event == "pass":
                await self._judged(connection, row)
            state = LIFE[row["state"], event]
            await connection.execute(MOVE, test_id, state)
            await connection.execute(NOTE, test_id, row["version"] + 1, event, row["state"], state, reason, by.person, by.key_id)
            words = f"test {show('acceptance_test', test_id)}: {event}"
            if state == RUNNING:
                if await connection.fetchval(readiness.INSTALLATION, device["device_id"]) != row["installation"]:
                    raise Problem("conflict", "The device was installed anew; open another test.")
                await moved(connection, self.keys, device, "begin_test", by, words)
            elif row["state"] == RUNNING:
                await moved(connection, self.keys, device, "end_test", by, words)
            return await self._opened(connection, device, test_id, by, reason) if event == "repeat" else test_id

    async def show(self, test_id: UUID, merchant_id: UUID | None, terminal_id: UUID | None, step: str, transaction_id: UUID,
                   printed: Printed | None, by: By) -> asyncpg.Record:
        """Whether a recorded transaction shows a step. What does not is recorded too, with why. `terminal_id`: whose test it must be."""
        async with work(self.writers) as connection:
            row = await connection.fetchrow(LOCK, test_id, merchant_id, terminal_id)
            if row is None:
                raise Problem("not_found")
            if row["state"] != RUNNING:
                raise Problem("acceptance_move", f"A test that is {row['state']} takes no transactions; it must be running.")
            wanted = [each for each in json.loads(row["steps"]) if each["step"] == step]
            if not wanted:
                raise Problem("conflict", "This test does not ask for that step.")
            showings = await connection.fetch(SHOWINGS, test_id)
            if len(showings) >= SHOWINGS_MAX:
                raise Problem("conflict", f"A test takes at most {SHOWINGS_MAX} transactions; let it fail and repeat it.")
            seen = await _seen(connection, row["merchant_id"], transaction_id)
            if seen is None:
                raise Problem("not_found", "There is no such transaction of this merchant.")
            dialect = None if any(each["dialect"] in (None, seen.dialect) for each in wanted) else wanted[0]["dialect"]
            found = steps.findings(step, dialect, seen, _within(row), printed)
            if any(each["shown"] and each["transaction_id"] == transaction_id and "receipt" not in (step, each["step"])
                   for each in showings if each["step"] != step):
                found.append("It shows another step already.")
            compared = [asdict(each) for each in steps.compared(seen, printed)]
            made = await connection.fetchrow(SHOW, test_id, len(showings) + 1, step, seen.dialect, transaction_id, not found, json.dumps(found),
                                             json.dumps(compared), by.person, by.key_id)
        assert made is not None
        return made

    async def one(self, test_id: UUID, merchant_id: UUID | None, terminal_id: UUID | None = None) -> Whole:
        """`merchant_id`, `terminal_id`: whose it must be."""
        try:
            async with self.readers.acquire() as connection:
                row = await connection.fetchrow(ONE, test_id, merchant_id, terminal_id)
                if row is None:
                    raise Problem("not_found")
                return await _whole(connection, row)
        except UNKNOWN:
            raise away() from None

    async def running(self, terminal_id: UUID) -> Whole:
        """Of a till. Raises Problem not_found: none runs."""
        try:
            async with self.readers.acquire() as connection:
                row = await connection.fetchrow(RUNS, terminal_id)
                if row is None:
                    raise Problem("not_found", "No acceptance test of this till is running.")
                return await _whole(connection, row)
        except UNKNOWN:
            raise away() from None

    async def page(self, device_id: UUID, merchant_id: UUID | None, before: UUID | None, limit: int) -> list[asyncpg.Record]:
        """Newest first."""
        return await self._fetch(PAGE, device_id, merchant_id, before, min(limit, PAGE_MAX + 1))

    async def plans(self, model: str, before: int | None, limit: int) -> list[asyncpg.Record]:
        """The latest first."""
        return await self._fetch(PLANS, model, before, min(limit, PAGE_MAX + 1))

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        try:
            return await self.readers.fetch(statement, *arguments)
        except UNKNOWN:
            raise away() from None

    async def _locked(self, connection: Connection, test_id: UUID) -> tuple[asyncpg.Record, asyncpg.Record]:
        """The device first, as its own moves do."""
        device_id = await connection.fetchval("SELECT device_id FROM acceptance_test WHERE test_id = $1", test_id)
        if device_id is None:
            raise Problem("not_found")
        device = await locked(connection, device_id)
        row = await connection.fetchrow(LOCK, test_id, None, None)
        assert row is not None
        return device, row

    async def _opened(self, connection: Connection, device: asyncpg.Record, repeats: UUID | None, by: By, reason: str) -> UUID:
        if device["state"] not in ("installed", "activated") or device["tampered_at"] is not None:
            raise Problem("acceptance_move", f"A device that is {device['state']} is not tested; install it first.")
        plan = await readiness.plan_of(connection, device["model"])
        asked = await readiness.asked_of(connection, device, plan)
        if not asked:
            raise Problem("conflict", "No steps are asked of this model at this till; write its plan first.")
        installation, test_id = await connection.fetchval(readiness.INSTALLATION, device["device_id"]), new_id()
        await connection.execute(OPENED, test_id, device["device_id"], installation, device["merchant_id"], device["store_id"],
                                 device["terminal_id"], plan.version, json.dumps(asked), repeats)
        await connection.execute(NOTE, test_id, 1, "open", None, OPEN, reason, by.person, by.key_id)
        return test_id

    async def _judged(self, connection: Connection, row: asyncpg.Record) -> None:
        """Raises Problem acceptance_incomplete."""
        whole = await _whole(connection, row)
        errors = [{"field": f"steps.{each['step']}", "rule": "no transaction of this test shows it", "type": "step"} for each in whole.missing]
        errors += [{"field": f"transactions.{show('transaction', each)}", "rule": "it still stands: void or refund it, or wait for its outcome",
                    "type": "standing"} for each in whole.standing[:20]]
        if errors:
            raise Problem("acceptance_incomplete", errors=errors)


def _within(row: asyncpg.Record) -> Within:
    return Within(row["terminal_id"], lowest(row["begun_at"]))


async def _whole(connection: Connection, row: asyncpg.Record) -> Whole:
    showings = await connection.fetch(SHOWINGS, row["test_id"])
    missing = steps.missing(json.loads(row["steps"]), [(each["step"], each["dialect"]) for each in showings if each["shown"]])
    made: list[Seen] = []
    if row["begun_at"] is not None:
        within = _within(row)
        rows = await connection.fetch(MADE, row["merchant_id"], within.first, within.terminal_id, TRANSACTIONS_MAX) if row["state"] == RUNNING else []
        made = [_of(each) for each in rows]
    return Whole(row, await connection.fetch(EVENTS, row["test_id"]), showings, missing, [each.transaction_id for each in steps.standing(made)])


async def _seen(connection: Connection, merchant_id: UUID, transaction_id: UUID) -> Seen | None:
    row = await connection.fetchrow(TRANSACTION, merchant_id, transaction_id)
    if row is None:
        return None
    original = None if row["original_id"] is None else await connection.fetchrow(TRANSACTION, merchant_id, row["original_id"])
    cleared = await connection.fetchrow(CLEARED, merchant_id, transaction_id)
    return _of(row, None if original is None else _of(original), None if cleared is None else (cleared["amount"], cleared["currency"]))


def _of(row: asyncpg.Record, original: Seen | None = None, cleared: tuple[int, str] | None = None) -> Seen:
    told = json.loads(row["answer_message"]).get("4", "") if row["answer_message"] else ""
    plain = {name: value for name, value in row.items() if name not in ("original_id", "answer_message")}
    return Seen(**plain, original=original, told_amount=int(told) if str(told).isdigit() else None, cleared=cleared)
