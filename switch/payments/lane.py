"""One writer with its own connection: group commit. What gathers during one commit, at least for 3 ms and as long as more comes, is the next
batch."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg

from switch import logs, metrics
from switch.database import UNKNOWN, Connection

BATCH_MAX = 256
PACE_S = 0.003  # from one commit's start to the next: what a lone sale never waits for, and what makes a batch of a busy line
# A commit costs as much as ten of its rows. So a batch waits while each turn of the loop brings more to it, and goes when one does not: that is at
# once for a lone sale, and saves a fifth of all work for a busy worker, whose next sales would only wait for the commit of the first.
GATHER_S = 0.010  # at most
RETRY_S = (0.02, 0.05, 0.1, 0.2, 0.5)
# asyncpg could not even encode the row (its client-side DataError is a ValueError): a poison row, and surely not written.
UNSENDABLE = (ValueError, TypeError, ArithmeticError, LookupError, AttributeError, AssertionError)


@dataclass(slots=True, eq=False)
class Entry:
    value: Any
    future: "asyncio.Future[Any]"
    deadline: float  # loop time


class Lane:
    """One writer with its own connection. `run(connection, values, doubtful)` returns a verdict per value."""

    def __init__(self, name: str, connect: Callable[[], Awaitable[Connection]], queue_max: int, late: Any, unsure: Any, refused: Any,
                 run: Callable[[Connection, Sequence[Any], bool], Awaitable[list[Any]]], on_unsure: Callable[[Any], None],
                 identity: Callable[[Any], UUID], apart: Callable[[Any], tuple[Hashable, ...]] | None = None) -> None:
        """`apart`: two values that share one of these, or else their identity, are never in one batch: the second is judged after the first."""
        self.name, self.connect, self.queue_max, self.run, self.identity = name, connect, queue_max, run, identity
        self.apart = apart or (lambda value: (identity(value),))
        self.late, self.unsure, self.refused, self.on_unsure = late, unsure, refused, on_unsure
        self.queue: deque[Entry] = deque()
        self.batch: list[Entry] = []
        self.wake = asyncio.Event()
        self.connection: Connection | None = None
        self.loop = asyncio.get_running_loop()
        self.rows, self.commits = metrics.journal_rows.labels(name), metrics.journal_commits.labels(name)
        self.stopping = False

    async def open(self) -> None:
        """Connects before the first value comes. Raises what UNKNOWN lists."""
        self.connection = await self.connect()

    def submit(self, value: Any, deadline: float) -> "asyncio.Future[Any]":
        future = self.loop.create_future()
        if len(self.queue) >= self.queue_max:
            future.set_result(self.late)
            return future
        self.queue.append(Entry(value, future, deadline))
        self.wake.set()
        return future

    async def work(self) -> None:
        """Runs until stopped with an empty queue."""
        while True:
            if not self.queue:
                if self.stopping:
                    return
                self.wake.clear()
                await self.wake.wait()
                continue
            await self._company()
            self._gather()
            if self.batch:
                next_start = self.loop.time() + PACE_S
                await self._write()
                self.batch = []
                if not self.stopping and (pause := next_start - self.loop.time()) > 0:
                    await asyncio.sleep(pause)

    async def _company(self) -> None:
        """Until a turn of the loop brings nothing more."""
        until, known = self.loop.time() + GATHER_S, -1
        while known < len(self.queue) < BATCH_MAX and self.loop.time() < until and not self.stopping:
            known = len(self.queue)
            await asyncio.sleep(0)

    def _gather(self) -> None:
        """The next batch; a value that must stay apart from one in it waits for the one after."""
        seen: set[Hashable] = set()
        held: list[Entry] = []
        while self.queue and len(self.batch) < BATCH_MAX:
            entry = self.queue.popleft()
            if entry.future.done():
                self.on_unsure(entry.value)
                continue
            keys = self.apart(entry.value)
            if not seen.isdisjoint(keys):
                held.append(entry)
                seen.update(keys)
                continue
            seen.update(keys)
            self.batch.append(entry)
        self.queue.extendleft(reversed(held))
        self.batch.sort(key=lambda entry: self.identity(entry.value))

    async def _write(self) -> None:
        attempt, doubtful = 0, False
        while True:
            try:
                if self.connection is None or self.connection.is_closed():
                    self.connection = await self.connect()
                    self._give_up_expired()  # a connection may take longer than what waits for it
                    if not self.batch:
                        return
                values = [entry.value for entry in self.batch]
                verdicts = await self.run(self.connection, values, doubtful)
            except UNSENDABLE as error:
                logs.error("journal_batch_unsendable", type=self.name, rows=len(self.batch), error=type(error).__name__)
                verdicts = await self._one_by_one()
            except UNKNOWN as error:
                self._drop(error)
                doubtful = True
                await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
                attempt += 1
                self._give_up_expired()
                if not self.batch:
                    return
                continue
            except asyncpg.PostgresError as error:
                logs.warning("journal_batch_refused", type=self.name, rows=len(self.batch), code=error.sqlstate)
                verdicts = await self._one_by_one()
            self.rows.inc(len(self.batch))
            self.commits.inc()
            for entry, verdict in zip(self.batch, verdicts, strict=True):
                if entry.future.done():
                    self.on_unsure(entry.value)  # its time ran out while the commit was on its way
                else:
                    entry.future.set_result(verdict)
            return

    def _give_up_expired(self) -> None:
        """Who was told "not known" is not written again: an approval may not appear after that answer."""
        for entry in self.batch:
            if entry.future.done():
                self.on_unsure(entry.value)
        self.batch = [entry for entry in self.batch if not entry.future.done()]

    async def _one_by_one(self) -> list[Any]:
        """Each row of the batch once, as if in doubt: whatever of the batch was committed after all is still found to be ours."""
        verdicts: list[Any] = []
        for entry in self.batch:
            try:
                if self.connection is None or self.connection.is_closed():
                    self.connection = await self.connect()
                if entry.future.done():  # told "not known" meanwhile: not written any more
                    verdicts.append(self.unsure)
                else:
                    verdicts += await self.run(self.connection, [entry.value], True)
            except UNSENDABLE as error:
                logs.error("journal_row_unsendable", type=self.name, transaction_id=self.identity(entry.value), error=type(error).__name__)
                verdicts.append(self.refused)
            except UNKNOWN as error:
                self._drop(error)
                if not entry.future.done():
                    entry.future.set_result(self.unsure)
                verdicts.append(self.unsure)
            except asyncpg.PostgresError as error:
                constraint = getattr(error, "constraint_name", None)
                logs.error("journal_row_refused", type=self.name, transaction_id=self.identity(entry.value), code=error.sqlstate, where=constraint)
                verdicts.append(self.refused)
        return verdicts

    def _drop(self, error: BaseException) -> None:
        metrics.journal_doubts.inc()
        logs.warning("journal_connection_lost", type=self.name, error=type(error).__name__, rows=len(self.batch))
        if self.connection is not None:
            self.connection.terminate()
        self.connection = None

    def expire(self, now: float) -> None:
        """Ends the waiting of those whose time ran out: what was never handed to the database is late, the rest unsure."""
        for entry in self.queue:
            if entry.deadline <= now and not entry.future.done():
                entry.future.set_result(self.late)
        for entry in self.batch:
            if entry.deadline <= now and not entry.future.done():
                entry.future.set_result(self.unsure)
