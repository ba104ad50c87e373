"""What a host decides in its own time and a dead worker left: the question is owed again. Such a sale is pending, whatever was lost: it is asked
for, at last asked to be closed, and never reversed by itself.

While no acquirer is asked for anything, nothing here runs.
"""

import asyncio
from datetime import timedelta
from uuid import UUID

import asyncpg

from switch import alerts, logs
from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import show
from switch.payments.authorization import Authorizations
from switch.payments.history import History
from switch.payments.journal import Written
from switch.payments.transaction import SENT, Event

SWEEP_S = 1.0
SWEEP_MAX = 200
LATE_S = 10.0  # past respond_by, whoever owns it: no walk lives that long
LOOK_S = 15.0
OLD_S = 900.0  # past the payer's time: the host neither closes the order nor says that it is paid

# Its walk has ended without an outcome and nobody asks: the worker is dead, or its commit stayed unknown.
LEFT = """
SELECT t.transaction_id FROM sent_transaction t
WHERE t.acquirer_id = ANY($1::uuid[]) AND t.exchange = 'query'
  AND NOT EXISTS (SELECT FROM duty d WHERE d.transaction_id = t.transaction_id AND d.state = 'open')
  AND (t.respond_by + $3 < now()
       OR t.worker_epoch <> $2 AND NOT EXISTS (SELECT FROM worker w WHERE w.epoch = t.worker_epoch AND w.ended_at IS NULL))
ORDER BY t.transaction_id LIMIT $4
"""
OLD = """
SELECT a.acquirer_id FROM unnest($1::uuid[], $2::interval[]) AS a(acquirer_id, age) WHERE EXISTS (
    SELECT FROM sent_transaction t
    WHERE t.acquirer_id = a.acquirer_id AND t.exchange = 'query' AND t.received_at < now() - a.age)
"""


class Pending:
    """Any number of workers may sweep: the version decides. Joined in app.py."""

    def __init__(self, pool: Pool, books: History, authorizations: Authorizations, alarm: alerts.Alerts, directory: Directory, epoch: int,
                 old_s: float = OLD_S) -> None:
        self.pool, self.books, self.authorizations, self.alarm, self.directory = pool, books, authorizations, alarm, directory
        self.epoch, self.old_s = epoch, old_s
        self.looked_at = float("-inf")
        self.standing: set[UUID] = set()

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            try:
                if asked := [each.acquirer_id for each in self.directory.acquirers.values() if each.dialect.asks]:
                    await self.sweep(asked)
                    await self._look(asked, asyncio.get_running_loop().time())
            except (*UNKNOWN, asyncpg.PostgresError, Problem) as error:
                logs.warning("pending_interrupted", error=type(error).__name__)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self, acquirers: list[UUID]) -> int:
        """Owes the question for what nobody asks for; returns how many. Again changes nothing."""
        done = 0
        for row in await self.pool.fetch(LEFT, acquirers, self.epoch, timedelta(seconds=LATE_S), SWEEP_MAX):
            transaction = await self.books.transaction(row[0])
            acquirer = self.directory.acquirers.get(transaction.acquirer_id) if transaction is not None else None
            if transaction is None or acquirer is None or transaction.state != SENT:
                continue
            transaction.reason, transaction.advice = Event.CRASH.value, "ask_again"
            outcome = await self.authorizations.advance(transaction, acquirer, Event.CRASH)
            budget_s = self.authorizations.commit_budget_s
            written = await self.authorizations.journal.outcome(outcome, asyncio.get_running_loop().time() + budget_s)
            done += written is Written.OURS
        if done:
            logs.info("asked_again", count=done)
        return done

    async def _look(self, acquirers: list[UUID], now: float) -> None:
        if now - self.looked_at < LOOK_S:
            return
        self.looked_at = now
        ages = [timedelta(seconds=self.directory.acquirers[each].query.limit_s + self.old_s) for each in acquirers]
        old = {row[0] for row in await self.pool.fetch(OLD, acquirers, ages)}
        for acquirer_id in sorted(old - self.standing):
            await self.alarm.raise_("pending_old", show("acquirer", acquirer_id))
        await self.alarm.seen(("pending_old", show("acquirer", acquirer_id)) for acquirer_id in old)
        self.standing = old
