"""The foreman: one per worker. Takes jobs from the queue, runs each in one worker at a time, and looks at the schedules each minute."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from pgqueuer.core.qm import QueueManager
from pgqueuer.core.sm import SchedulerManager
from pgqueuer.domain.errors import PgqException, RetryRequested
from pgqueuer.domain.models import Job as Queued
from pgqueuer.domain.models import Schedule

from switch import logs, metrics
from switch.clock import clock
from switch.database import UNKNOWN, Connection, Pool
from switch.settlement.jobs import queue, table
from switch.settlement.jobs.table import Ending, Job, Kind, NotYet, Run, Taken, Unfit

LEASE_S = 10.0  # a job whose worker has not said for so long that it lives is another's
RENEW_PART, TRUST_PART = 0.2, 0.6  # of the lease: renewed so often; after so long without, what runs here stops
AT_ONCE = 3  # jobs of one worker
OVERDUE_S, RECONNECT_S, STOP_S, GRACE_S = 15.0, 2.0, 5.0, 5.0
PUT_BACK = "put_back"
EVERY_MINUTE = "* * * * *"

CONNECTION_LOST = (*UNKNOWN, asyncpg.PostgresError)


class Attempt:
    """A job that this worker runs."""

    def __init__(self, run: Run, kind: Kind) -> None:
        self.run, self.kind = run, kind
        self.stopped: str | None = None  # why: draining, taken, cancelled, slow
        self.task: asyncio.Task[Mapping[str, Any] | None] = asyncio.ensure_future(kind.do(run))

    def stop(self, why: str) -> None:
        """Its function is cancelled where it waits; the first reason stands."""
        if self.stopped is None and not self.task.done():
            self.stopped = why
            self.task.cancel()


class Foreman:
    """The jobs of one worker, over connections of their own."""

    def __init__(self, kinds: Mapping[str, Kind], connect: Callable[[str], Awaitable[Connection]], pool: Callable[[], Awaitable[Pool]],
                 lease_s: float = LEASE_S, at_once: int = AT_ONCE, schedules: bool = True) -> None:
        """`connect`: a connection that acts as a role; `pool`: connections that act as the writer, for the jobs alone.

        `schedules`: whether this worker looks for what is due; without, only what somebody asks for is done.
        """
        self.kinds, self.connect, self.open_pool, self.lease_s, self.at_once = kinds, connect, pool, lease_s, at_once
        self.schedules = schedules
        self.holder = uuid4()
        self.attempts: dict[UUID, Attempt] = {}
        self.pool: Pool | None = None
        self.managers: tuple[QueueManager, SchedulerManager] | None = None
        self.draining = False
        self.ended = asyncio.Event()

    async def work(self) -> None:
        """Until `stop`: serves the queue, and begins anew when the database comes back."""
        try:
            while not self.draining:
                try:
                    await self._serve()
                except (*CONNECTION_LOST, PgqException, RuntimeError, ValueError) as error:
                    logs.warning("jobs_interrupted", error=type(error).__name__, where=logs.place(error))
                    await asyncio.sleep(RECONNECT_S)
        finally:
            self.ended.set()
            if self.pool is not None:
                self.pool.terminate()

    async def stop(self) -> None:
        """What runs here goes back into the queue, for another worker to begin at once."""
        self.draining = True
        self._stop_all("draining")
        for manager in self.managers or ():
            manager.shutdown.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self.ended.wait()

    async def _serve(self) -> None:
        """One connection's life."""
        if self.pool is None:
            self.pool = await self.open_pool()
        connection = await self.connect(queue.ROLE)
        keeper = asyncio.ensure_future(self._keep(self.pool))
        try:
            connection.add_termination_listener(lambda *_: self._stop_all("draining"))
            await self._run_managers(queue.queries(connection))
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            connection.terminate()

    async def _run_managers(self, queries: Any) -> None:
        self.managers = (QueueManager(queries, queue.CHANNEL), SchedulerManager(queries))
        manager, scheduler = self.managers
        scheduler.shutdown = manager.shutdown
        for kind in self.kinds.values():
            manager.entrypoint(kind.name, concurrency_limit=kind.at_once, accepts_context=False)(self._carried_out)
            if kind.schedule is not None and self.schedules:
                scheduler.schedule(kind.name, kind.schedule, accepts_context=False)(self._look)
        scheduler.schedule(PUT_BACK, EVERY_MINUTE, accepts_context=False)(self._put_back)
        if self.draining:
            return
        running = [asyncio.ensure_future(each) for each in (
            manager.run(dequeue_timeout=timedelta(seconds=self.lease_s / 2), batch_size=1, max_concurrent_tasks=max(2, self.at_once),
                        shutdown_on_listener_failure=True, heartbeat_timeout=timedelta(seconds=self.lease_s),
                        log_aggregation_interval=timedelta(0)),
            scheduler.run())]
        try:
            await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            manager.shutdown.set()
            self._stop_all("draining")
            done, late = await asyncio.wait(running, timeout=GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        for task in done:
            task.result()

    def _stop_all(self, why: str) -> None:
        for attempt in list(self.attempts.values()):
            attempt.stop(why)

    # The leases

    async def _keep(self, pool: Pool) -> None:
        """Renews the leases of what runs here. What is another's by now stops, and everything when the database does not answer in time."""
        loop = asyncio.get_running_loop()
        renewed_at, looked_at = loop.time(), 0.0
        while True:
            await asyncio.sleep(self.lease_s * RENEW_PART)
            asked_at = loop.time()
            try:
                async with asyncio.timeout(self.lease_s * (TRUST_PART - RENEW_PART)):
                    await self._renew(pool)
                    renewed_at = asked_at
                    if asked_at - looked_at > OVERDUE_S:
                        looked_at = asked_at
                        metrics.job_overdue.set(await table.overdue(pool))
            except (*CONNECTION_LOST, TimeoutError) as error:
                logs.warning("job_leases_not_renewed", error=type(error).__name__)
                if loop.time() - renewed_at > self.lease_s * TRUST_PART:
                    self._stop_all("taken")

    async def _renew(self, pool: Pool) -> None:
        held = dict(self.attempts)
        if not held:
            return
        mine = await table.renew(pool, [attempt.run.job for attempt in held.values()], self.lease_s)
        for job_id, attempt in held.items():
            if job_id not in mine:
                attempt.stop("taken")
            elif mine[job_id] is not None:
                attempt.stop("cancelled")

    # One job

    async def _carried_out(self, queued: Queued) -> None:
        """What the queue runs. Whatever is to come again is asked back from it; no error of a job ever gets into its tables."""
        again = await self._attempted(UUID(bytes=queued.payload))
        if again is not None:
            raise RetryRequested(timedelta(seconds=again))

    async def _attempted(self, job_id: UUID) -> float | None:
        """In how many seconds the queue brings it again; None: never."""
        assert self.pool is not None
        if self.draining or job_id in self.attempts:
            return self.lease_s / 2
        try:
            async with self.pool.acquire() as connection:
                claimed = await table.claim(connection, job_id, self.holder, self.lease_s)
        except CONNECTION_LOST as error:
            logs.warning("job_not_claimed", error=type(error).__name__)
            return self.lease_s / 2
        if not isinstance(claimed, Job):
            return claimed
        ending = await self._attempt(claimed)
        if ending is None:
            return self.lease_s
        try:
            async with self.pool.acquire() as connection:
                await table.finish(connection, claimed, ending)
        except CONNECTION_LOST as error:  # its row says "running" until the lease is over; then it is begun again
            logs.warning("job_end_not_written", error=type(error).__name__)
            return self.lease_s
        return ending.again_s if ending.state in ("queued", "waiting") else None

    async def _attempt(self, job: Job) -> Ending | None:
        """Runs it to its end, or to the limit of its kind. None: it was taken over, and nothing may be written of it."""
        assert self.pool is not None
        kind = self.kinds[job.kind]
        attempt = self.attempts[job.job_id] = Attempt(Run(job, self.pool), kind)
        metrics.jobs_running.set(len(self.attempts))
        started_at = asyncio.get_running_loop().time()
        if self.draining:  # between the claim and now
            attempt.stop("draining")
        try:
            await asyncio.wait([attempt.task], timeout=kind.limit_s)
            attempt.stop("slow")
            await asyncio.wait([attempt.task], timeout=GRACE_S)
        finally:
            attempt.task.cancel()
            del self.attempts[job.job_id]
            metrics.jobs_running.set(len(self.attempts))
        metrics.job_seconds.labels(kind.name).observe(asyncio.get_running_loop().time() - started_at)
        return ending_of(attempt, job)

    # The schedules

    async def _look(self, schedule: Schedule) -> None:
        """Asks for what is due. Each in its own commit: the next look finds what this one did not get to."""
        assert self.pool is not None
        kind = self.kinds[schedule.entrypoint]
        assert kind.due is not None
        try:
            for due in await kind.due(clock.now()):
                async with self.pool.acquire() as connection, connection.transaction():
                    await table.ask(connection, kind.name, due, "schedule")
        except CONNECTION_LOST as error:
            logs.warning("schedule_not_looked_at", type=kind.name, error=type(error).__name__)
        except Exception as error:
            logs.error("schedule_failed", type=kind.name, error=type(error).__name__, where=logs.place(error))

    async def _put_back(self, schedule: Schedule) -> None:
        assert self.pool is not None
        with suppress(*CONNECTION_LOST):
            async with self.pool.acquire() as connection:
                await table.put_back(connection, self.kinds)


def ending_of(attempt: Attempt, job: Job) -> Ending | None:
    """What an attempt's end means for its job."""
    task, kind = attempt.task, attempt.kind
    error = task.exception() if task.done() and not task.cancelled() else None
    if task.done() and not task.cancelled() and error is None:
        return Ending("done", detail=task.result() or {})
    if attempt.stopped == "taken" or isinstance(error, Taken):
        return Ending("cancelled") if attempt.stopped == "cancelled" else None
    if attempt.stopped == "cancelled":
        return Ending("cancelled")
    if attempt.stopped == "draining":
        return Ending("queued")
    match error:
        case NotYet():
            return Ending("waiting", str(error), error.seconds)
        case Unfit():
            return Ending("failed", str(error), failed=True)
    if attempt.stopped == "slow":
        words = f"It took longer than the {kind.limit_s:g} s that its kind may take."
    else:  # the text of an error we did not write may hold data
        words = f"{type(error).__name__} at {logs.place(error)}" if error is not None else "It was cancelled by itself."
        logs.warning("job_attempt_failed", type=kind.name, error=type(error).__name__, where=logs.place(error) if error else None,
                     attempt=job.attempts)
    if job.failures + 1 >= kind.attempts:
        return Ending("failed", words, failed=True)
    return Ending("waiting", words, kind.pause(job.failures + 1), failed=True)
