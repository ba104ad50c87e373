"""The desk: one key, one walk. Finds out whether a key is new, running or known, and lets duplicates wait for the first.

From its first write on a walk belongs to a task of the switch: a client that hangs up never cancels it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from switch import logs, metrics
from switch.clock import clock
from switch.errors import Problem
from switch.payments.history import History
from switch.payments.transaction import APPROVED, SENT, Transaction

WAITERS_MAX = 8
POLL_S = (0.05, 0.1, 0.2, 0.4)

Key = tuple[UUID, UUID, str]  # merchant, caller, idempotency key


class Told(NamedTuple):
    """What the terminal is told: the row, and whether this is an answer given again."""

    transaction: Transaction
    replayed: bool


Result = asyncio.Future["Told | Problem"]


class Walk(NamedTuple):
    route: str
    fingerprint: bytes
    waiting: list[Result]  # the duplicates; each has a future of its own, so that one may hang up alone


class Desk:
    """All walks of this worker that have not ended."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.walks: dict[Key, Walk] = {}
        self.tasks: set[asyncio.Task[Any]] = set()
        self.refused: set[asyncio.Task[Any]] = set()
        self.draining = False
        self.loop = asyncio.get_running_loop()

    async def submit(self, key: Key, route: str, fingerprint: bytes, walk: Callable[[], Awaitable[Told]]) -> Told:
        """The answer for a key: `walk` runs once; whoever comes meanwhile waits for it.

        Raises Problem: idempotency_key_reused (other body or route), in_progress (too many wait already), draining, and what `walk` raises.
        """
        running = self.walks.get(key)
        if running is not None:
            return await self._second(running, key, route, fingerprint)
        task = self.loop.create_task(self._run(key, self._enter(key, route, fingerprint), walk))
        self.keep(task)
        return _given(await asyncio.shield(task))

    async def walk(self, key: Key, route: str, fingerprint: bytes, walk: Callable[[], Awaitable[Told]]) -> Told:
        """Like `submit`, for a caller whose task nobody cancels: the walk runs in it."""
        running = self.walks.get(key)
        if running is not None:
            return await self._second(running, key, route, fingerprint)
        return _given(await self._run(key, self._enter(key, route, fingerprint), walk))

    def begin(self, request: Coroutine[Any, Any, None]) -> None:
        """A request in a task of the switch. The drain waits for those that came before it; who comes later is only refused."""
        _hold(self.loop.create_task(request), self.refused if self.draining else self.tasks)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """The drain waits for it."""
        _hold(task, self.tasks)

    def _enter(self, key: Key, route: str, fingerprint: bytes) -> Walk:
        if self.draining:
            raise Problem("draining", retry_after=5, extra={"processed": False})
        running = self.walks[key] = Walk(route, fingerprint, [])
        return running

    async def _second(self, running: Walk, key: Key, route: str, fingerprint: bytes) -> Told:
        if len(running.waiting) >= WAITERS_MAX:
            raise Problem("in_progress", retry_after=1)
        if running.fingerprint != fingerprint or running.route != route:
            with suppress(Problem):  # whose key it is stands in the books alone: the one at work may be the wrong one
                await self._told(running)
            return await self.stored(key, route, fingerprint, self.loop.time())
        return Told((await self._told(running)).transaction, True)

    async def _told(self, running: Walk) -> Told:
        waiter: Result = self.loop.create_future()
        running.waiting.append(waiter)
        try:
            result = await waiter
        except asyncio.CancelledError:
            running.waiting.remove(waiter)
            raise
        return _given(result)

    async def _run(self, key: Key, running: Walk, walk: Callable[[], Awaitable[Told]]) -> "Told | Problem":
        result: Told | Problem
        try:
            result = await walk()
        except Problem as problem:
            result = problem
        except Exception as error:  # the supervisor of a walk: recovery will find what it left
            logs.error("walk_failed", error=type(error).__name__, where=logs.place(error))
            result = Problem("internal")
        finally:
            del self.walks[key]
        for waiter in running.waiting:
            if not waiter.done():
                waiter.set_result(result)
        return result

    async def stored(self, key: Key, route: str, fingerprint: bytes, deadline: float) -> Told:
        """The answer of a key that is already in the books. One that another worker still walks is waited for until `deadline`.

        Raises Problem: cancelled_by_terminal (burnt), idempotency_key_reused.
        """
        attempt = 0
        while True:
            known = await self.history.key(*key)
            if known is None:  # the holder of the key was rolled back meanwhile: this request may be sent again
                raise Problem("in_progress", retry_after=1)
            if known.transaction_id is None:
                raise Problem("cancelled_by_terminal")
            if known.fingerprint != fingerprint or known.route != route:
                raise Problem("idempotency_key_reused")
            transaction = await self.history.sale(known.transaction_id)
            if transaction is None:
                raise Problem("in_progress", retry_after=1)
            pause = POLL_S[min(attempt, len(POLL_S) - 1)]
            if transaction.state != SENT or self.loop.time() + pause > deadline or _repeated(transaction):
                metrics.replays.inc()
                return Told(transaction, True)
            await asyncio.sleep(pause)
            attempt += 1

    async def drain(self, timeout: float) -> int:
        """No new walks; waits for those that run. Returns how many are left: recovery takes them."""
        self.draining = True
        until = self.loop.time() + timeout
        while self.tasks and (left := until - self.loop.time()) > 0:  # a walk that ends may leave a doubt behind
            await asyncio.wait(self.tasks, timeout=left)
        return len(self.tasks)


def _hold(task: asyncio.Task[Any], tasks: set[asyncio.Task[Any]]) -> None:
    tasks.add(task)
    task.add_done_callback(tasks.discard)


def _given(result: Told | Problem) -> Told:
    if isinstance(result, Problem):  # several may be told of it: each raises its own
        raise Problem(result.code, result.detail, errors=result.errors, retry_after=result.retry_after, extra=result.extra)
    return result


def stands(transaction: Transaction) -> bool:
    """Whether the first answer still holds: a decline is final, an approval as long as the sale stands (201); else 202, the current truth."""
    return transaction.outcome is not None and (transaction.outcome != APPROVED or transaction.state == APPROVED)


def _repeated(transaction: Transaction) -> bool:
    """What will be repeated, or asked for, until the host has spoken: nobody waits for that. An advice whose first answer is overdue; a query
    once its first exchange has ended, which moved its version."""
    overdue = clock.now() > transaction.respond_by
    return (transaction.exchange == "advice" and overdue) or (transaction.exchange == "query" and (overdue or transaction.version > 1))
