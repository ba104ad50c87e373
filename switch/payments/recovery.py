"""Recovery: a worker's lease, and what a dead one left. Every request without an outcome gets its reversal; running twice changes nothing."""

import asyncio
import os
import socket
from datetime import timedelta

import asyncpg

from switch import logs, metrics
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.payments.authorization import Authorizations
from switch.payments.history import History
from switch.payments.journal import Written
from switch.payments.transaction import SENT, Event

LEASE_S = 10
RENEW_S = 2.0
SWEEP_S = 1.0
SWEEP_MAX = 200
LATE_S = 10  # past respond_by, whoever owns it: no walk lives that long

CLAIM = "INSERT INTO worker (host, pid, lease_until) VALUES ($1, $2, now() + $3) RETURNING epoch"
RENEW = "UPDATE worker SET lease_until = now() + $2 WHERE epoch = $1 AND ended_at IS NULL RETURNING 1"
END = "UPDATE worker SET lease_until = now(), ended_at = now() WHERE epoch = $1"
END_ALL = "UPDATE worker SET lease_until = now(), ended_at = now() WHERE ended_at IS NULL AND epoch <> $1"
ABANDONED = """
SELECT t.transaction_id FROM transaction t
WHERE t.state = 'SENT' AND t.exchange = 'request' AND (
  t.respond_by + $2 < now()
  OR t.worker_epoch <> $1 AND NOT EXISTS (SELECT FROM worker w WHERE w.epoch = t.worker_epoch AND w.lease_until > now()))
ORDER BY t.transaction_id LIMIT $3
"""
IN_DOUBT = "SELECT count(*) FROM transaction WHERE state = 'SENT'"


async def claim(pool: Pool, alone: bool) -> int:
    """This worker's epoch. `alone`: we hold the home folder's lock, so every earlier worker of this database is dead."""
    epoch: int = await pool.fetchval(CLAIM, socket.gethostname(), os.getpid(), timedelta(seconds=LEASE_S))
    if alone:
        await pool.execute(END_ALL, epoch)
    return epoch


class Recovery:
    def __init__(self, pool: Pool, history: History, authorizations: Authorizations, epoch: int) -> None:
        self.pool, self.history, self.authorizations, self.epoch = pool, history, authorizations, epoch
        self.renewed_at = asyncio.get_running_loop().time()

    async def renew(self) -> None:
        """Keeps the lease, until cancelled."""
        while True:
            try:
                if await self.pool.fetchval(RENEW, self.epoch, timedelta(seconds=LEASE_S)):
                    failpoint("lease.renewed")
                    self.renewed_at = asyncio.get_running_loop().time()
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("lease_not_renewed", error=type(error).__name__)
            await asyncio.sleep(RENEW_S)

    async def work(self) -> None:
        """Sweeps each second, until cancelled."""
        while True:
            try:
                await self.sweep()
            except (*UNKNOWN, asyncpg.PostgresError, Problem) as error:
                logs.warning("recovery_interrupted", error=type(error).__name__)
            await asyncio.sleep(SWEEP_S)

    async def sweep(self) -> int:
        """Owes a reversal for every request whose worker is dead or whose time is over; returns how many."""
        done = 0
        metrics.in_doubt.set(await self.pool.fetchval(IN_DOUBT))
        for row in await self.pool.fetch(ABANDONED, self.epoch, timedelta(seconds=LATE_S), SWEEP_MAX):
            transaction = await self.history.transaction(row[0])
            if transaction is not None and transaction.state == SENT:
                failpoint("recover.row_taken")
                done += await self.authorizations.undo(transaction, Event.CRASH) is Written.OURS
        if done:
            logs.info("recovered", count=done)
        return done

    async def end(self) -> None:
        """Gives the lease back; what is still open belongs to recovery at once."""
        await self.pool.execute(END, self.epoch)
