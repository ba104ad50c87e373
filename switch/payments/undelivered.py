"""Approvals that their terminal never heard of: the client was gone when the answer was to be written, and nobody asked again.

Off the hot path: only an answer that could not be given, or one that was asked for again, leaves a row. Which of the two is written first does
not matter. Who never asks within the time raises an alert, and the merchant's setting may have the sale reversed.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch import alerts, logs, metrics
from switch.clock import clock
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import show
from switch.payments.transaction import Transaction, told_approved

MARKS_MAX = 10_000
LOOK_S = 5.0  # between two looks; shorter when the time is shorter
DUE_MAX = 100
RETRY_S = 1.0

MARK = """
INSERT INTO undelivered (merchant_id, transaction_id, lost_at, heard_at)
SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::timestamptz[])
ON CONFLICT (merchant_id, transaction_id) DO UPDATE
SET lost_at = coalesce(undelivered.lost_at, EXCLUDED.lost_at), heard_at = coalesce(undelivered.heard_at, EXCLUDED.heard_at)
WHERE undelivered.heard_at IS NULL
"""
EVENT = """INSERT INTO transaction_event (merchant_id, transaction_id, at, kind)
SELECT *, 'answer_not_delivered' FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[])"""
# A cancelled one is not APPROVED any more; one with a follow-up is known to its terminal, but for the captures that we make ourselves.
DUE = """
SELECT u.merchant_id, u.transaction_id, m.undelivered,
  (t.state = 'APPROVED' OR t.state = 'SENT' AND t.exchange = 'advice' AND t.type = 'purchase') AND NOT EXISTS (
    SELECT FROM transaction f WHERE f.merchant_id = u.merchant_id AND f.original_id = u.transaction_id AND f.idempotency_key IS NOT NULL) AS unheard,
  t.version
FROM undelivered u JOIN transaction t USING (merchant_id, transaction_id) JOIN directory_merchant m USING (merchant_id)
WHERE u.lost_at < now() - $1::interval AND u.heard_at IS NULL AND u.settled_at IS NULL ORDER BY u.lost_at LIMIT $2
"""
SETTLE = "UPDATE undelivered SET settled_at = now() WHERE merchant_id = $1 AND transaction_id = $2"


class Mark(NamedTuple):
    merchant_id: UUID
    transaction_id: UUID
    lost_at: datetime | None
    heard_at: datetime | None


class Undelivered:
    """`undo` reverses a sale of this version with what was made of it; it raises Problem when that cannot be (day_closed), not now (not_ready) or not
    any more (conflict: it has another version, as one that was told again)."""

    def __init__(self, pool: Pool, alarm: alerts.Alerts, undo: Callable[[UUID, int], Awaitable[object]], after_s: float) -> None:
        self.pool, self.alarm, self.undo, self.after_s = pool, alarm, undo, after_s
        self.marks: dict[UUID, Mark] = {}
        self.marked = asyncio.Event()

    def lost(self, transaction: Transaction) -> None:
        """The answer that says approved could not be given. Never waits."""
        metrics.undelivered.inc()
        self._mark(transaction, clock.now(), None)

    def heard(self, transaction: Transaction, by: str = "terminal") -> None:
        """Whoever asked again was told: only a terminal's asking counts. Never waits."""
        if told_approved(transaction) and by == "terminal":
            self._mark(transaction, None, clock.now())

    def _mark(self, transaction: Transaction, lost_at: datetime | None, heard_at: datetime | None) -> None:
        known = self.marks.get(transaction.transaction_id)
        if known is not None:
            lost_at, heard_at = known.lost_at or lost_at, known.heard_at or heard_at
        elif len(self.marks) >= MARKS_MAX:
            logs.error("undelivered_not_recorded", transaction_id=transaction.transaction_id)
            return
        self.marks[transaction.transaction_id] = Mark(transaction.merchant_id, transaction.transaction_id, lost_at, heard_at)
        self.marked.set()

    async def work(self) -> None:
        """Writes the marks as they come and looks for what is due, until cancelled."""
        loop = asyncio.get_running_loop()
        look_at = loop.time()
        while True:
            try:
                async with asyncio.timeout(max(0.0, look_at - loop.time())):
                    await self.marked.wait()
            except TimeoutError:
                look_at = loop.time() + min(LOOK_S, max(0.05, self.after_s / 2))
            try:
                await self.write()
                await self.look()
            except (*UNKNOWN, asyncpg.PostgresError, Problem) as error:
                logs.warning("undelivered_interrupted", error=type(error).__name__)
                await asyncio.sleep(RETRY_S)

    async def write(self) -> None:
        """What is marked becomes durable. On an error it is kept and written with the next."""
        marks = dict(self.marks)
        self.marked.clear()
        if not marks:
            return
        lost = [(mark.merchant_id, mark.transaction_id, mark.lost_at) for mark in marks.values() if mark.lost_at is not None]
        async with self.pool.acquire() as connection, connection.transaction():
            await connection.execute(MARK, *zip(*marks.values(), strict=True))
            if lost:
                await connection.execute(EVENT, *zip(*lost, strict=True))
        for identity, mark in marks.items():
            if self.marks.get(identity) is mark:
                del self.marks[identity]

    async def look(self) -> int:
        """Raises an alert for each approval that nobody asked for in time, and reverses it if its merchant wants that; returns how many."""
        raised = 0
        for merchant_id, identity, wish, unheard, version in await self.pool.fetch(DUE, timedelta(seconds=self.after_s), DUE_MAX):
            if unheard:
                raised += 1
                await self.alarm.raise_("undelivered_approval", show("transaction", identity))
                if wish == "reverse" and not await self._reverse(identity, version):
                    continue
            await self.pool.execute(SETTLE, merchant_id, identity)
        return raised

    async def _reverse(self, identity: UUID, version: int) -> bool:
        """False: it has moved since it was looked at, and is looked at anew."""
        try:
            await self.undo(identity, version)
            logs.info("undelivered_reversed", transaction_id=identity)
        except Problem as problem:
            if problem.code == "conflict":
                return False
            if problem.code == "not_ready":
                raise
            logs.warning("undelivered_stands", transaction_id=identity, code=problem.code)  # its day is closed: the alert's person decides
        return True
