"""Background jobs: asked for once, run by one worker at a time, begun again after a death, and never in the way of a payment."""

import asyncio
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.adapters.persistence import schema_inspect, schema_plan
from pgqueuer.domain.schema.declaration import target

from migrations.versions.r0010_jobs import STEPS as DATABASE_STEPS
from switch import database, metrics
from switch.database import Pool
from switch.errors import Problem
from switch.ids import show
from switch.settlement.jobs import foreman as foreman_module
from switch.settlement.jobs import queue, table
from switch.settlement.jobs.foreman import Foreman
from switch.settlement.jobs.table import Due, Job, Kind, NotYet, Run, Taken, Unfit, kinds_of
from tests.conftest import create_database
from tests.flows import eventually
from tests.processes import Process, environment

LEASE_S = 1.0
ROOT = Path(__file__).resolve().parent.parent


@pytest_asyncio.fixture
async def url(cluster_url: str) -> str:
    return await create_database(cluster_url)


@pytest_asyncio.fixture
async def pool(url: str) -> AsyncIterator[Pool]:
    opened = await database.pool(url, "switch_writer", 4)
    yield opened
    await opened.close()


@asynccontextmanager
async def working(url: str, *kinds: Kind, lease_s: float = LEASE_S, count: int = 1, at_once: int = 3) -> AsyncIterator[list[Foreman]]:
    """Foremen of so many workers; stopped with the body."""
    foremen = [Foreman(kinds_of(*kinds), lambda role: database.connect(url, role), lambda: database.pool(url, "switch_writer", 4), lease_s, at_once)
               for _ in range(count)]
    tasks = [asyncio.create_task(each.work()) for each in foremen]
    try:
        yield foremen
    finally:
        for each in foremen:
            await each.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def asked(pool: Pool, kind: str, key: str = "", **arguments: Any) -> Job:
    async with pool.acquire() as connection, connection.transaction():
        return (await table.ask(connection, kind, Due(key or uuid4().hex, arguments), "Li Wei"))[0]


async def reached(pool: Pool, job: Job, state: str, seconds: float = 15.0) -> Job:
    async def there() -> Job | None:
        now = await table.one(pool, job.job_id)
        return now if now.state == state else None

    return await eventually(there, f"the job is not {state} but {await table.one(pool, job.job_id)}", seconds)


def counting(then: Callable[[Run], Any] | None = None) -> tuple[Callable[[Run], Any], Counter[UUID]]:
    runs: Counter[UUID] = Counter()

    async def do(run: Run) -> Any:
        runs[run.job.job_id] += 1
        return await then(run) if then is not None else None

    return do, runs


def test_the_database_holds_the_steps_of_this_table() -> None:
    assert sorted(DATABASE_STEPS) == sorted(f"{before}>{after}" for before, states in table.STEPS.items() for after in states)


async def test_the_tables_of_the_queue_are_those_that_pgqueuer_expects(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        live = await schema_inspect.inspect(AsyncpgDriver(connection), queue.NAMES)
        plan = schema_plan.plan(live, target(queue.NAMES), queue.NAMES)
    finally:
        await connection.close()
    # its function and trigger are ours, said shorter: they tell of what is new
    assert [statement for statement in plan.statements if "fn_pgqueuer_changed" not in statement] == []


async def test_the_writer_may_not_delete_from_the_queue_and_the_queues_role_sees_nothing_else(url: str) -> None:
    writer, role = await database.connect(url, "switch_writer"), await database.connect(url, queue.ROLE)
    try:
        for relation in ("pgqueuer", "pgqueuer_log", "pgqueuer_schedules", "pgqueuer_statistics"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await writer.execute(f"DELETE FROM queue.{relation}")
        for relation in ("job", "transaction", "merchant", "alert", "api_key"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await role.fetch(f"SELECT * FROM {relation}")
    finally:
        await writer.close()
        await role.close()


async def test_a_key_is_one_job_however_often_it_is_asked_for(url: str, pool: Pool) -> None:
    do, runs = counting()
    async def once() -> Job:
        return await asked(pool, "count", "2026-11-25", day="2026-11-25")

    found = await asyncio.gather(*(once() for _ in range(4)))
    assert len({job.job_id for job in found}) == 1
    async with working(url, Kind("count", "counts", do), count=2):
        done = await reached(pool, found[0], "done")
        again = await once()
        await asyncio.sleep(0.3)
    assert (again.job_id, again.state, again.arguments) == (done.job_id, "done", {"day": "2026-11-25"})
    assert runs == {done.job_id: 1}
    assert (done.attempts, done.failures, done.asked_by) == (1, 0, "Li Wei")
    assert done.started_at and done.ended_at and done.created_at <= done.started_at <= done.ended_at


async def test_what_is_rolled_back_was_never_asked_for(url: str, pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pool.acquire() as connection, connection.transaction():
            await table.ask(connection, "count", Due("never"), "Li Wei")
            raise ZeroDivisionError
    assert await pool.fetchval("SELECT (SELECT count(*) FROM job) + (SELECT count(*) FROM queue.pgqueuer)") == 0


async def test_progress_and_detail_are_seen_while_it_runs(url: str, pool: Pool) -> None:
    go_on = asyncio.Event()

    async def do(run: Run) -> Mapping[str, Any]:
        await run.progress(3, 10, part="first")
        await go_on.wait()
        await run.progress(10, 10)
        return {"rows": 10}

    async with working(url, Kind("count", "counts", do)):
        job = await asked(pool, "count")

        async def told() -> Job | None:
            now = await table.one(pool, job.job_id)
            return now if now.progress_done == 3 else None

        seen = await eventually(told, "no progress is shown")
        assert (seen.state, seen.progress_total, seen.detail, seen.ended_at) == ("running", 10, {"part": "first"}, None)
        go_on.set()
        done = await reached(pool, job, "done")
    assert (done.progress_done, done.progress_total, done.detail) == (10, 10, {"part": "first", "rows": 10})


async def test_a_failure_is_tried_again_after_a_pause_and_says_why_without_the_errors_text(url: str, pool: Pool) -> None:
    async def do(run: Run) -> None:
        if run.job.attempts < 3:
            raise ValueError("4111111111111111")

    async with working(url, Kind("count", "counts", do, attempts=3, pause_s=0.2)):
        job = await asked(pool, "count")
        waiting = await reached(pool, job, "waiting")
        assert waiting.error and waiting.error.startswith("ValueError at test_jobs.py:")
        done = await reached(pool, job, "done")
    assert (done.attempts, done.failures, done.error) == (3, 2, None)
    for relation in ("job", "queue.pgqueuer", "queue.pgqueuer_log"):
        connection = await asyncpg.connect(url)
        assert "4111" not in str(await connection.fetch(f"SELECT t::text FROM {relation} t")), relation
        await connection.close()


async def test_what_fails_as_often_as_its_kind_allows_waits_for_a_person_with_an_alert(url: str, pool: Pool) -> None:
    broken = True

    async def do(run: Run) -> None:
        if broken:
            raise ValueError

    before = metrics.jobs.labels("count", "failed")._value.get()
    async with working(url, Kind("count", "counts", do, attempts=2, pause_s=0.1)):
        job = await asked(pool, "count")
        failed = await reached(pool, job, "failed")
        assert (failed.attempts, failed.failures) == (2, 2) and failed.ended_at
        alert = await pool.fetchrow("SELECT kind, count FROM alert WHERE object = $1", show("job", job.job_id))
        assert tuple(alert) == ("job_failed", 1)
        assert metrics.jobs.labels("count", "failed")._value.get() == before + 1
        await asyncio.sleep(0.5)
        assert (await table.one(pool, job.job_id)).attempts == 2, "it must not run by itself again"
        broken = False
        async with pool.acquire() as connection:
            again = await table.retry(connection, job.job_id)
        assert (again.state, again.failures, again.ended_at) == ("queued", 0, None)
        done = await reached(pool, job, "done")
        assert done.attempts == 3
        with pytest.raises(Problem, match="conflict"):
            async with pool.acquire() as connection:
                await table.retry(connection, job.job_id)


async def test_a_retry_does_not_wait_for_the_pause(url: str, pool: Pool) -> None:
    broken = True

    async def do(run: Run) -> None:
        if broken:
            raise ValueError

    async with working(url, Kind("count", "counts", do, pause_s=600)):
        job = await asked(pool, "count")
        await reached(pool, job, "waiting")
        broken = False
        async with pool.acquire() as connection:
            await table.retry(connection, job.job_id)
        await reached(pool, job, "done", 8)


async def test_a_retry_does_not_hang_on_the_place_that_the_ended_attempt_still_has(url: str, pool: Pool) -> None:
    job = await asked(pool, "count")
    taker = await database.connect(url, queue.ROLE)
    await taker.execute("UPDATE queue.pgqueuer SET status = 'picked' WHERE payload = $1", job.job_id.bytes)
    async with pool.acquire() as connection:
        claimed = await table.claim(connection, job.job_id, uuid4(), 10)
        assert isinstance(claimed, Job) and await table.finish(connection, claimed, table.Ending("failed", "broken", failed=True))
        await table.retry(connection, job.job_id)
    await taker.execute("DELETE FROM queue.pgqueuer WHERE payload = $1 AND status = 'picked'", job.job_id.bytes)
    await taker.close()
    do, runs = counting()
    async with working(url, Kind("count", "counts", do)):
        await reached(pool, job, "done")
    assert runs == {job.job_id: 1}


async def test_what_cannot_be_done_is_not_tried_again(url: str, pool: Pool) -> None:
    async def do(run: Run) -> None:
        raise Unfit("There is no such settlement.")

    async with working(url, Kind("count", "counts", do)):
        failed = await reached(pool, await asked(pool, "count"), "failed")
    assert (failed.error, failed.attempts) == ("There is no such settlement.", 1)


async def test_waiting_for_something_counts_as_no_failure(url: str, pool: Pool) -> None:
    async def do(run: Run) -> None:
        if run.job.attempts < 4:
            raise NotYet(0.1, "2 payments of the day have no outcome.")

    async with working(url, Kind("count", "counts", do, attempts=2)):
        done = await reached(pool, await asked(pool, "count"), "done")
    assert (done.attempts, done.failures) == (4, 0)


async def test_an_attempt_that_takes_too_long_is_ended(url: str, pool: Pool) -> None:
    ended = asyncio.Event()

    async def do(run: Run) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async with working(url, Kind("count", "counts", do, limit_s=0.2, attempts=1)):
        failed = await reached(pool, await asked(pool, "count"), "failed")
    assert ended.is_set() and failed.error == "It took longer than the 0.2 s that its kind may take."


async def test_a_running_job_can_be_cancelled_and_asked_for_again(url: str, pool: Pool) -> None:
    started, stopped = asyncio.Event(), asyncio.Event()

    async def do(run: Run) -> None:
        if run.job.attempts > 1:
            return
        started.set()
        try:
            await asyncio.sleep(60)
        finally:
            stopped.set()

    async with working(url, Kind("count", "counts", do)):
        job = await asked(pool, "count")
        await started.wait()
        async with pool.acquire() as connection:
            asked_to_stop = await table.cancel(connection, job.job_id, "Wang Fang")
            assert (asked_to_stop.state, asked_to_stop.cancel_asked_by) == ("running", "Wang Fang")
            cancelled = await reached(pool, job, "cancelled")
            assert stopped.is_set() and cancelled.ended_at
            with pytest.raises(Problem, match="conflict"):
                await table.cancel(connection, job.job_id, "Wang Fang")
            await table.retry(connection, job.job_id)
        assert (await reached(pool, job, "done")).cancel_asked_by is None


async def test_a_queued_job_is_cancelled_at_once_and_never_runs(url: str, pool: Pool) -> None:
    do, runs = counting()
    job = await asked(pool, "count")
    async with pool.acquire() as connection:
        assert (await table.cancel(connection, job.job_id, "Wang Fang")).state == "cancelled"
    async with working(url, Kind("count", "counts", do)):
        await asyncio.sleep(0.5)
    assert not runs


async def test_a_job_that_runs_is_nobody_elses_until_its_lease_is_over(pool: Pool) -> None:
    job, one, other = await asked(pool, "count"), uuid4(), uuid4()
    async with pool.acquire() as connection:
        first = await table.claim(connection, job.job_id, one, 0.4)
        assert isinstance(first, Job) and first.attempts == 1
        left = await table.claim(connection, job.job_id, other, 0.4)
        assert isinstance(left, float) and 0 < left <= 0.4
        assert await table.renew(pool, [first], 0.4) == {job.job_id: None}
        await asyncio.sleep(0.45)
        second = await table.claim(connection, job.job_id, other, 10)
        assert isinstance(second, Job) and second.attempts == 2
        assert await table.renew(pool, [first], 0.4) == {}
        assert not await table.finish(connection, first, table.Ending("done"))
        assert (await table.one(pool, job.job_id)).state == "running"
        assert await table.finish(connection, second, table.Ending("done"))
        assert await table.claim(connection, job.job_id, one, 10) is None


async def test_two_workers_run_each_job_once(url: str, pool: Pool) -> None:
    async def briefly(run: Run) -> None:
        await asyncio.sleep(0.01)

    do, runs = counting(briefly)
    async with working(url, Kind("count", "counts", do), count=2):
        made = [await asked(pool, "count") for _ in range(30)]
        for job in made:
            await reached(pool, job, "done", 30)
    assert runs == {job.job_id: 1 for job in made}


async def test_a_kind_may_be_limited_over_all_workers(url: str, pool: Pool) -> None:
    running, most = 0, 0

    async def do(run: Run) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.1)
        running -= 1

    async with working(url, Kind("count", "counts", do, at_once=1), count=2):
        made = [await asked(pool, "count") for _ in range(6)]
        for job in made:
            await reached(pool, job, "done", 30)
    assert most == 1


async def test_a_worker_that_stands_still_loses_its_job_and_writes_nothing_more(url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lease of the first is not renewed: the second begins anew, and what the first would still commit is refused."""
    go_on, refused, ran_by = asyncio.Event(), asyncio.Event(), []

    async def still(run: Run) -> None:
        ran_by.append(run.job.attempts)
        if run.job.attempts > 1:  # runs while the first comes back
            go_on.set()
            await asyncio.wait_for(refused.wait(), 5)
            return
        try:
            await asyncio.shield(go_on.wait())
        except asyncio.CancelledError:
            pytest.fail("nobody told it")
        async with run.pool.acquire() as connection, connection.transaction():
            try:
                await run.hold(connection)
            except Taken:
                refused.set()
                raise
        raise AssertionError("it still held the job")

    kind = Kind("count", "counts", still)
    async with working(url, kind) as (first,):
        async def nothing(*_: Any, **named: Any) -> list[Any]:
            return []

        job = await asked(pool, "count")
        await reached(pool, job, "running")
        assert first.managers is not None
        monkeypatch.setattr(first, "_renew", nothing)
        for name in ("update_heartbeat", "dequeue"):
            monkeypatch.setattr(first.managers[0].queries, name, nothing)
        monkeypatch.setattr(first, "_stop_all", lambda why: None)
        async with working(url, kind):
            done = await reached(pool, job, "done")
            await asyncio.sleep(0.2)
            assert await table.one(pool, job.job_id) == done
        first.attempts.clear()
    assert ran_by == [1, 2] and done.attempts == 2


async def test_a_worker_that_drains_hands_its_jobs_on(url: str, pool: Pool) -> None:
    async def do(run: Run) -> None:
        if run.job.attempts == 1:
            await asyncio.sleep(60)

    async with AsyncExitStack() as stack:
        kind = Kind("count", "counts", do)
        async with working(url, kind, lease_s=30.0):
            job = await asked(pool, "count")
            await reached(pool, job, "running")
        handed = await table.one(pool, job.job_id)
        assert (handed.state, handed.failures) == ("queued", 0), "no lease has to run out first"
        await stack.enter_async_context(working(url, kind))
        assert (await reached(pool, job, "done", 8)).attempts == 2


async def test_kill_9_in_the_middle_another_worker_carries_on(url: str, pool: Pool, tmp_path: Path) -> None:
    def worker(name: str) -> Process:
        return Process(tmp_path, name, (sys.executable, "-m", "tests.job_worker", url, str(tmp_path), str(LEASE_S)),
                       environment(tmp_path) | {"PYTHONPATH": str(ROOT)})

    job, total = await asked(pool, "steps", steps=30, pause_s=0.1), 30
    workers = [worker("first")]
    try:
        async def half() -> bool:
            return (await table.one(pool, job.job_id)).progress_done >= 8

        await eventually(half, "the first worker does not begin", 20)
        workers.append(worker("second"))
        await eventually(lambda: _true("\n" in workers[1].out), "the second worker does not start", 20)
        os.kill(workers[0].pid, signal.SIGKILL)
        done = await reached(pool, job, "done", 30)
    finally:
        for each in workers:
            each.kill()
    lines = [line.split() for line in (tmp_path / "steps").read_text().splitlines()]
    assert done.attempts == 2 and done.detail == {"step": total, "finished_by": workers[1].pid}
    assert {int(pid) for pid, *_ in lines} == {each.pid for each in workers}
    numbers = [int(number) for *_, number in lines]
    last = max(int(number) for pid, *_, number in lines if int(pid) == workers[0].pid)
    assert numbers == sorted(set(numbers)) and set(range(1, total + 1)) - set(numbers) <= {last + 1}, "a step is done once, but for the one it died in"


async def _true(value: object) -> bool:
    return bool(value)


async def test_what_the_queue_has_lost_is_put_back(url: str, pool: Pool) -> None:
    do, runs = counting()
    job = await asked(pool, "count")
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM queue.pgqueuer")
    await connection.execute("UPDATE job SET not_before = now() - interval '31 seconds'")
    await connection.close()
    async with working(url, Kind("count", "counts", do)):
        await asyncio.sleep(0.3)
        assert not runs
        async with pool.acquire() as held:
            assert await table.put_back(held, ["count"]) == 1
        await reached(pool, job, "done")


async def test_a_schedule_asks_for_what_is_due_and_each_key_runs_once(url: str, pool: Pool) -> None:
    looked: list[datetime] = []

    async def due(now: datetime) -> list[Due]:
        looked.append(now)
        return [Due("2026-11-25", {"acquirer": "one"}), Due("2026-11-26", {"acquirer": "one"})]

    do, runs = counting()
    async with working(url, Kind("count", "counts", do, schedule="* * * * * */1", due=due), count=2):
        async def twice() -> bool:
            return len(looked) >= 3

        await eventually(twice, "nobody looks", 15)
    rows = await pool.fetch("SELECT key, state, asked_by, arguments FROM job ORDER BY key")
    assert [(row["key"], row["asked_by"]) for row in rows] == [("2026-11-25", "schedule"), ("2026-11-26", "schedule")]
    assert len(runs) == 2 and set(runs.values()) == {1}
    assert all(abs(now - datetime.now(UTC)) < timedelta(seconds=30) for now in looked)
    assert len({now.replace(microsecond=0) for now in looked}) == len(looked), "one worker looks at each tick"


async def test_a_schedule_that_fails_is_looked_at_again(url: str, pool: Pool) -> None:
    looked = 0

    async def due(now: datetime) -> list[Due]:
        nonlocal looked
        looked += 1
        if looked == 1:
            raise ValueError
        return [Due("a")]

    do, runs = counting()
    async with working(url, Kind("count", "counts", do, schedule="* * * * * */1", due=due)):
        async def ran() -> bool:
            return bool(runs)

        await eventually(ran, "the schedule is dead", 15)


async def test_the_queue_comes_back_with_its_database_connection(url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreman_module, "RECONNECT_S", 0.2)
    do, _ = counting()
    async with working(url, Kind("count", "counts", do)):
        await reached(pool, await asked(pool, "count"), "done")
        owner = await asyncpg.connect(url)
        await owner.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'switch_queue' AND datname = current_database()")
        await owner.close()
        await reached(pool, await asked(pool, "count"), "done", 20)


@pytest.mark.parametrize(("failures", "seconds"), [(1, 10), (2, 20), (3, 40), (7, 640), (8, 900), (500, 900)])
def test_pauses_grow_and_have_an_end(failures: int, seconds: float) -> None:
    async def do(run: Run) -> None: ...

    assert Kind("count", "counts", do).pause(failures) == seconds


async def test_the_oldest_job_that_does_not_run_is_measured(pool: Pool) -> None:
    assert await table.overdue(pool) == 0
    await asked(pool, "count")
    await asyncio.sleep(0.2)
    assert 0.1 < await table.overdue(pool) < 60
