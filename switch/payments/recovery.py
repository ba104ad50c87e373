"""Recovery: a worker's lease, and what a dead one left. Every request without an outcome gets its reversal; running twice changes nothing."""

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

import asyncpg

from switch import logs, metrics
from switch.clock import clock
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.payments.authorization import Authorizations
from switch.payments.history import History
from switch.payments.journal import Written
from switch.payments.transaction import SENT, Event

LEASE_S = 10
RENEW_S = 2.0
LEASE_TRUSTED_S = 6.0  # of its 10: after that another worker may take over what this one sent
SWEEP_S = 1.0
SWEEP_MAX = 200
LATE_S = 10  # past respond_by, whoever owns it: no walk lives that long

CLOCK = "SELECT clock_timestamp()"  # by itself: the answer to a write comes after its commit, which may take long
CLAIM = "INSERT INTO worker (host, pid, lease_until) VALUES ($1, $2, now() + $3) RETURNING epoch"
RENEW = "UPDATE worker SET lease_until = now() + $2 WHERE epoch = $1 AND ended_at IS NULL RETURNING 1"
KNOWS = "UPDATE worker SET directory_version = $2 WHERE epoch = $1 AND directory_version < $2"
END = "UPDATE worker SET lease_until = now(), ended_at = now() WHERE epoch = $1 AND ended_at IS NULL"
END_DEAD = "UPDATE worker SET ended_at = now() WHERE epoch = $1 AND ended_at IS NULL"
END_ALL = "UPDATE worker SET lease_until = now(), ended_at = now() WHERE ended_at IS NULL"
# Ended for good before anything is taken from it: a worker that stood still finds its lease gone, and never renews it.
END_EXPIRED = "UPDATE worker SET ended_at = now() WHERE ended_at IS NULL AND lease_until < now() AND epoch <> $1"
ABANDONED = """
SELECT t.transaction_id FROM sent_transaction t
WHERE t.exchange = 'request' AND (
  t.respond_by + $2 < now()
  OR t.worker_epoch <> $1 AND NOT EXISTS (SELECT FROM worker w WHERE w.epoch = t.worker_epoch AND w.ended_at IS NULL))
ORDER BY t.transaction_id LIMIT $3
"""
IN_DOUBT = "SELECT count(*) FROM sent_transaction"

Connect = Callable[[], Awaitable[Connection]]


async def end_all(connection: Connection) -> None:
    """Ends every lease. For who holds the home folder's locks of an embedded database: no worker of it can be alive."""
    await connection.execute(END_ALL)


async def end(connection: Connection, epoch: int) -> None:
    """Gives our lease back, when all is done."""
    await connection.execute(END, epoch)


async def end_dead(connection: Connection, epoch: int) -> None:
    """Ends the lease of a process that is known to be dead: what it left belongs to recovery at once."""
    await connection.execute(END_DEAD, epoch)


async def claim(connection: Connection) -> "Lease":
    """A lease of our own, with an epoch that nobody had."""
    asked_at = time.monotonic()
    epoch: int = await connection.fetchval(CLAIM, socket.gethostname(), os.getpid(), timedelta(seconds=LEASE_S))
    await ask_the_time(connection)
    return Lease(epoch, asked_at)


async def knows(connection: Pool, epoch: int, version: int) -> None:
    """Says which directory version this worker uses from now on."""
    await connection.execute(KNOWS, epoch, version)


async def ask_the_time(connection: Connection) -> None:
    asked_at = time.monotonic()
    clock.told(await connection.fetchval(CLOCK), asked_at)


class Lease:
    """This worker's lease. `renewed_at`: when the last good renewal was asked for, on CLOCK_MONOTONIC, which goes on while we stand still."""

    def __init__(self, epoch: int, renewed_at: float) -> None:
        self.epoch, self.renewed_at = epoch, renewed_at
        self.restored_at = float("-inf")  # when it was good again after it had not been
        self.lost = asyncio.Event()  # somebody ended it

    def trusted(self) -> bool:
        """Whether nobody can have taken over from us yet. Asked just before each write to a line: never of the loop's clock, which is
        as old as its turn.
        """
        return time.monotonic() - self.renewed_at <= LEASE_TRUSTED_S and not self.lost.is_set()

    async def keep(self, connect: Connect) -> None:
        """Renews on a connection of its own, so that it never waits for a busy pool. Returns when the lease is lost."""
        connection: Connection | None = None
        try:
            while True:
                asked_at = time.monotonic()
                try:
                    async with asyncio.timeout(RENEW_S):
                        connection = connection or await connect()
                        if not await connection.fetchval(RENEW, self.epoch, timedelta(seconds=LEASE_S)):
                            break
                        await ask_the_time(connection)
                    failpoint("lease.renewed")
                    if not self.trusted():
                        self.restored_at = asked_at
                    self.renewed_at = asked_at
                except (*UNKNOWN, asyncpg.PostgresError) as error:
                    logs.warning("lease_not_renewed", error=type(error).__name__)
                    if connection is not None:
                        connection.terminate()
                    connection = None
                await asyncio.sleep(max(0.1, asked_at + RENEW_S - time.monotonic()))
            self.lost.set()
            logs.error("lease_lost", detail=f"epoch {self.epoch} was ended by another worker")
        finally:
            if connection is not None:
                connection.terminate()


class Recovery:
    def __init__(self, pool: Pool, history: History, authorizations: Authorizations, lease: Lease) -> None:
        self.pool, self.history, self.authorizations, self.lease = pool, history, authorizations, lease
        self.epoch = lease.epoch
        self.looked = asyncio.Event()  # what was left before this start has its reversals

    async def looked_within(self, seconds: float) -> None:
        """Before a sale is taken: what a dead worker left is no reversal yet that a terminal's next sale would wait for."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.looked.wait()

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
        # Who was cut off from the database lets the others renew first: they were cut off, too.
        if self.lease.trusted() and time.monotonic() - self.lease.restored_at > LEASE_S:
            await self.pool.execute(END_EXPIRED, self.epoch)
        metrics.in_doubt.set(await self.pool.fetchval(IN_DOUBT))
        rows = await self.pool.fetch(ABANDONED, self.epoch, timedelta(seconds=LATE_S), SWEEP_MAX)
        for row in rows:
            transaction = await self.history.transaction(row[0])
            if transaction is not None and transaction.state == SENT:
                failpoint("recover.row_taken")
                done += await self.authorizations.undo(transaction, Event.CRASH) is Written.OURS
        if done:
            logs.info("recovered", count=done)
        if len(rows) < SWEEP_MAX:
            self.looked.set()
        return done
