"""An approval that is told again is confirmed first.

The worker that wrote it may not know that its commit stood, tell "pending", and undo it once the database is back. Whoever else tells the
approval moves its version before; from then on it is left standing (doubts.py).
"""

import asyncio
from dataclasses import replace

from switch.errors import Problem
from switch.payments.desk import Desk, Key, Told
from switch.payments.history import History
from switch.payments.journal import Journal, Outcome, Written
from switch.payments.transaction import APPROVED, SENT, Transaction

FIRST_VERSION = 2  # of a row with its first outcome


async def given_back(books: History, row: Transaction) -> int:
    """By how much the version of an approval moved since the acquirer did not take the capture that it owes by itself: that tells nobody anything."""
    if row.capture_method != "automatic" or row.original_id is not None or not row.mti.startswith("01"):
        return 0
    return sum(follower.automatic and follower.state not in (SENT, APPROVED) for follower in await books.followers(row))


async def told_again(desk: Desk, journal: Journal, budget_s: float, key: Key, route: str, fingerprint: bytes, deadline: float) -> Told:
    """The stored answer of a key. Raises as Desk.stored, and Problem in_progress: ask again, the approval could not be confirmed in time."""
    while True:
        told = await desk.stored(key, route, fingerprint, deadline)
        row = told.transaction
        if row.state != APPROVED or row.exchange != "request":
            return told
        if row.version > FIRST_VERSION and row.version > FIRST_VERSION + await given_back(desk.history, row):
            return told
        confirmed = Outcome(replace(row, version=row.version + 1), APPROVED)
        written = await journal.outcome(confirmed, asyncio.get_running_loop().time() + budget_s)
        if written is Written.OURS:
            return told
        if written is not Written.LOST:
            raise Problem("in_progress", retry_after=1)
