"""Cancelling by key: the terminal lost the answer and wants to be sure that nothing stands."""

import asyncio
from uuid import UUID

from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.payments import verbs
from switch.payments.authorization import Authorizations
from switch.payments.history import History
from switch.payments.journal import Written
from switch.payments.transaction import APPROVED, CONFIRMED, DECLINED, NOT_SENT, PARKED, REVERSED, REVERSING, SENT, Event, Transaction

TRIES = 5
MARGIN_S = 1.0  # on top of the commit budget, until the terminal is told to ask again

# A key nobody used is burnt: the unique index decides against an original that is still on its way.
BURN = """
INSERT INTO idempotency (merchant_id, caller, idempotency_key, route, fingerprint) VALUES ($1, $2, $3, 'burnt', decode(repeat('00', 32), 'hex'))
ON CONFLICT (merchant_id, caller, idempotency_key) DO NOTHING RETURNING 1
"""
# A reversal is a duty of its original and no row of its own: its key names the original.
CLAIM = """
INSERT INTO idempotency (merchant_id, caller, idempotency_key, route, fingerprint, transaction_id) VALUES ($1, $2, $3, 'reversals', $4, $5)
ON CONFLICT (merchant_id, caller, idempotency_key) DO NOTHING RETURNING 1
"""


class Cancellations:
    def __init__(self, pool: Pool, history: History, authorizations: Authorizations, directory: Directory) -> None:
        self.pool, self.history, self.authorizations, self.directory = pool, history, authorizations, directory

    async def cancel(self, merchant_id: UUID, caller: UUID, key: str, reason: str | None = None) -> Transaction | None:
        """The transaction of the key, undone if anything stood; None when the key was unknown and is now burnt. May be repeated. `reason`: why, as
        far as the terminal says.

        A task of the switch: it goes on when the client hangs up, and when a database that stands still makes it late.
        Raises Problem: day_closed (use a refund), not_ready (the database is away or too slow: ask again).
        """
        desk = self.authorizations.desk
        work = asyncio.ensure_future(self._cancel(merchant_id, caller, key, reason))
        desk.keep(work)
        done, _ = await asyncio.wait([work], timeout=self.authorizations.commit_budget_s + MARGIN_S)
        if done:
            return work.result()
        work.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise Problem("not_ready", "The journal cannot be written just now; cancel again.", retry_after=2)

    async def _cancel(self, merchant_id: UUID, caller: UUID, key: str, reason: str | None) -> Transaction | None:
        try:
            if await self.pool.fetchval(BURN, merchant_id, caller, key):
                return None
        except UNKNOWN:
            raise Problem("not_ready", "The journal cannot be written just now; cancel again.", retry_after=2) from None
        known = await self.history.key(merchant_id, caller, key)
        if known is None or known.transaction_id is None:
            return None
        return await self.undone(known.transaction_id, reason)

    async def reverse(self, transaction: Transaction, caller: UUID, key: str, fingerprint: bytes, reason: str | None = None) -> Transaction:
        """A transaction that its maker takes back; the same key may be sent again and gives the current truth.

        Raises Problem: forbidden (somebody else made it), not_reversible, idempotency_key_reused, and what `undone` raises.
        """
        if transaction.caller != caller:
            raise Problem("forbidden", "Only who made a transaction may reverse it; void or refund it.")
        known = await self.history.key(transaction.merchant_id, caller, key)
        if known is None:
            if transaction.state in (DECLINED, NOT_SENT, PARKED, CONFIRMED):
                raise Problem("not_reversible", "Nothing stands, or a person has it.")
            refused = await self._refusal(transaction) if transaction.state in (SENT, APPROVED) else None
            if refused is not None:
                raise Problem(refused.code, refused.detail, retry_after=refused.retry_after)
            try:
                await self.pool.fetchval(CLAIM, transaction.merchant_id, caller, key, fingerprint, transaction.transaction_id)
            except UNKNOWN:
                raise Problem("not_ready", "The journal cannot be written just now; send the same key again.", retry_after=2) from None
            known = await self.history.key(transaction.merchant_id, caller, key)
        if known is None or (known.route, known.fingerprint, known.transaction_id) != ("reversals", fingerprint, transaction.transaction_id):
            raise Problem("idempotency_key_reused")
        return await self.undone(transaction.transaction_id, reason)

    async def undone(self, transaction_id: UUID, reason: str | None = None, version: int | None = None) -> Transaction:
        """The transaction, undone if it stood. A step that somebody else took meanwhile makes it be judged anew: its version decides. `version`: the
        only one that is undone.

        Raises Problem: day_closed, follow_up_exists (something was built on it), follow_up_open, already_voided, not_ready, conflict (not `version`).
        """
        for _ in range(TRIES):
            transaction = await self.history.sale(transaction_id)
            if transaction is None:
                raise Problem("not_ready", retry_after=1)
            if transaction.state not in (SENT, APPROVED):
                if transaction.state in (REVERSING, REVERSED) and transaction.original_id is None:
                    await self.authorizations.undo_captures(transaction)
                return transaction
            if version not in (None, transaction.version):
                raise Problem("conflict")
            refused = await self._refusal(transaction)
            if refused is not None:
                raise Problem(refused.code, refused.detail, retry_after=refused.retry_after)
            if await self.authorizations.undo(transaction, Event.UNDO, reason=reason) is Written.OURS:
                return transaction
        raise Problem("not_ready", "The journal cannot be written just now; cancel again.", retry_after=2)

    async def _refusal(self, transaction: Transaction) -> verbs.Refusal | None:
        day = self.directory.acquirers[transaction.acquirer_id].business_date
        if transaction.original_id is None:
            return verbs.undo_refusal(transaction, await self.history.followers(transaction), day)
        original = await self.history.transaction(transaction.original_id)
        assert original is not None
        if transaction.state == APPROVED and transaction.business_date < day:
            return verbs.Refusal("day_closed")
        return verbs.taking_back_refusal(transaction, original)
