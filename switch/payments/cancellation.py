"""Cancelling by key: the terminal lost the answer and wants to be sure that nothing stands."""

import asyncio
from uuid import UUID

from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.payments.authorization import Authorizations
from switch.payments.history import History
from switch.payments.journal import Written
from switch.payments.transaction import APPROVED, REVERSED, REVERSING, SENT, Event, Transaction

TRIES = 5
MARGIN_S = 1.0  # on top of the commit budget, until the terminal is told to ask again

# A key nobody used is burnt: the unique index decides against an original that is still on its way.
BURN = """
INSERT INTO idempotency (merchant_id, caller, idempotency_key, route, fingerprint) VALUES ($1, $2, $3, 'burnt', decode(repeat('00', 32), 'hex'))
ON CONFLICT (merchant_id, caller, idempotency_key) DO NOTHING RETURNING 1
"""


class Cancellations:
    def __init__(self, pool: Pool, history: History, authorizations: Authorizations, directory: Directory) -> None:
        self.pool, self.history, self.authorizations, self.directory = pool, history, authorizations, directory

    async def cancel(self, merchant_id: UUID, caller: UUID, key: str) -> Transaction | None:
        """The transaction of the key, undone if anything stood; None when the key was unknown and is now burnt. May be repeated.

        A task of the switch: it goes on when the client hangs up, and when a database that stands still makes it late.
        Raises Problem: day_closed (use a refund), not_ready (the database is away or too slow: ask again).
        """
        desk = self.authorizations.desk
        work = asyncio.ensure_future(self._cancel(merchant_id, caller, key))
        desk.tasks.add(work)
        work.add_done_callback(desk.tasks.discard)
        done, _ = await asyncio.wait([work], timeout=self.authorizations.commit_budget_s + MARGIN_S)
        if done:
            return work.result()
        work.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise Problem("not_ready", "The journal cannot be written just now; cancel again.", retry_after=2)

    async def _cancel(self, merchant_id: UUID, caller: UUID, key: str) -> Transaction | None:
        try:
            if await self.pool.fetchval(BURN, merchant_id, caller, key):
                return None
        except UNKNOWN:
            raise Problem("not_ready", "The journal cannot be written just now; cancel again.", retry_after=2) from None
        known = await self.history.key(merchant_id, caller, key)
        if known is None or known.transaction_id is None:
            return None
        return await self.undo(known.transaction_id)

    async def undo(self, transaction_id: UUID) -> Transaction:
        """Undoes a transaction and what was made of it, if anything stands. Raises Problem day_closed, not_ready."""
        transaction = await self._undone(transaction_id)
        for follower in await self.history.followers(transaction):
            if transaction.state in (REVERSING, REVERSED):
                await self._undone(follower["transaction_id"])
        return transaction

    async def _undone(self, transaction_id: UUID) -> Transaction:
        for _ in range(TRIES):
            transaction = await self.history.transaction(transaction_id)
            if transaction is None:
                raise Problem("not_ready", retry_after=1)
            if transaction.state not in (SENT, APPROVED):
                return transaction
            day = self.directory.acquirers[transaction.acquirer_id].business_date
            if transaction.state == APPROVED and transaction.business_date < day:
                raise Problem("day_closed")
            if await self.authorizations.undo(transaction, Event.UNDO) is Written.OURS:
                return transaction
        raise Problem("not_ready", "The journal cannot be written just now; cancel again.", retry_after=2)
