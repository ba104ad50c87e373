"""What this worker's own walks do not know: an outcome that was told as pending, a row that may have become durable too late.

Once the database is back, whatever stands and that nobody was told is undone. A worker that dies before leaves it to recovery, or to the
terminal, which cancels what it was told as pending.
"""

import asyncio
from collections.abc import Coroutine
from uuid import UUID

from switch import logs
from switch.errors import Problem
from switch.payments.authorization import Authorizations
from switch.payments.confirmation import FIRST_VERSION, given_back
from switch.payments.journal import Outcome, Written
from switch.payments.transaction import APPROVED, REVERSED, REVERSING, SENT, Event, Transaction

LATE_LOOKS = 4  # for the row of an intent whose commit was in doubt
PAUSE_S, PAUSE_MAX_S = 0.2, 5.0


class Doubts:
    """The doubts of this worker, each a task of the desk, so that a drain waits for it. Joined in app.py."""

    def __init__(self, authorizations: Authorizations) -> None:
        self.authorizations, self.books, self.desk = authorizations, authorizations.books, authorizations.desk

    def unsure(self, outcome: Outcome) -> None:
        """The terminal was told "pending" for this outcome: once the database is back, whatever stands is undone."""
        transaction = outcome.transaction
        if transaction.exchange == "request" and outcome.from_state != transaction.state:  # a confirmation changes nothing
            # What was to be undone was judged at the version before: if it has moved since, something was built on it, and it is judged anew
            # when its terminal asks again.
            unconfirmed = transaction.version - 1 if outcome.from_state == APPROVED else transaction.version
            self._later(self._settle(transaction.transaction_id, 0, Event.CRASH, unconfirmed))
        if outcome.created is not None and outcome.created.transaction.attempt_of is not None:  # it was to be sent after this commit only
            self.never_sent(outcome.created.transaction.transaction_id)

    def never_sent(self, transaction_id: UUID) -> None:
        """Its walk has ended with 503 and sends nothing any more: if its row became durable after all, it was not sent."""
        self._later(self._settle(transaction_id, LATE_LOOKS, Event.BOUNCE, FIRST_VERSION))

    def _later(self, job: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(job)
        self.desk.keep(task)

    async def _settle(self, transaction_id: UUID, looks: int, sent: Event, unconfirmed: int) -> None:
        """Undoes what stands and was confirmed by nobody. `looks`: for an absent row; `sent`: the event of one that is SENT;
        `unconfirmed`: the version that this worker wrote, or would have."""
        pause = PAUSE_S
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, PAUSE_MAX_S)
            try:
                stored = await self.books.transaction(transaction_id)
                if stored is None and looks > 0:
                    looks -= 1
                    continue
                if stored is None or stored.state not in (SENT, APPROVED):
                    if stored is not None and stored.state in (REVERSING, REVERSED):
                        await self.authorizations.undo_captures(stored)
                    return
                if stored.state == APPROVED and await self._confirmed(stored, unconfirmed):
                    return
                written = await self.authorizations.undo(stored, sent if stored.state == SENT else Event.UNDO)
            except Problem:
                continue
            if written is Written.REFUSED:  # something was built on it meanwhile: it stands
                logs.error("undo_refused", transaction_id=transaction_id, state=stored.state)
            if written in (Written.OURS, Written.REFUSED):
                return

    async def _confirmed(self, stored: Transaction, unconfirmed: int) -> bool:
        """Whether somebody was told it, which moves its version (confirmation.py), or built on it."""
        return stored.version > unconfirmed and stored.version > unconfirmed + await given_back(self.books, stored)
