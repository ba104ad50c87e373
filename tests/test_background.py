"""Background jobs: none dies silently, and one that took its cancellation for something else is ended all the same."""

import asyncio
import io
import json
from contextlib import suppress
from pathlib import Path

import pytest

from switch import background, logs
from switch.background import Background, supervised


async def fails() -> None:
    raise KeyError("4111111111111111")


async def test_a_job_that_fails_is_logged_with_its_place_and_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(logs.log, "stream", said)
    await supervised(fails())
    line = json.loads(said.getvalue())
    assert (line["event"], line["error"]) == ("job_failed", "KeyError")
    assert line["where"].startswith("test_background.py:") and "4111" not in said.getvalue()


async def test_a_job_is_held_while_it_runs_and_forgotten_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs.log, "stream", io.StringIO())
    jobs, go = Background(), asyncio.Event()

    async def waits() -> None:
        await go.wait()
        raise RuntimeError

    jobs.later(waits())
    await asyncio.sleep(0)
    assert len(jobs.tasks) == 1
    go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not jobs.tasks


async def deaf(times: int, heard: list[int]) -> None:
    """Goes on after so many cancellations, as a loop does whose wait_for met what it waited for."""
    while True:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        heard.append(1)
        if len(heard) > times:
            return


@pytest.mark.parametrize("times", [0, 1, 3])
async def test_a_task_that_swallows_a_cancellation_is_cancelled_again(times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "AGAIN_S", 0.01)
    heard: list[int] = []
    tasks = [asyncio.create_task(deaf(times, heard)), asyncio.create_task(asyncio.sleep(60))]
    await asyncio.sleep(0)
    try:
        async with asyncio.timeout(2):
            await background.end(tasks)
    finally:
        for _ in range(times):  # so that the loop of this test can end, too
            tasks[0].cancel()
            await asyncio.sleep(0)
    assert all(task.done() for task in tasks) and len(heard) == times + 1


async def test_nothing_to_end_is_no_wait() -> None:
    await background.end([])
    await Background().end()


async def test_jobs_that_somebody_began_end_together() -> None:
    jobs = Background()
    jobs.later(asyncio.sleep(60))
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await jobs.end()
    assert not jobs.tasks


def test_no_wait_of_ours_swallows_a_cancellation() -> None:
    """asyncio.wait_for of Python 3.11 returns the result of what it waited for when both come in one turn of the loop, and the loop goes on."""
    found = [path.name for path in Path(background.__file__).parent.rglob("*.py") if "wait_for(" in path.read_text()]
    assert not found, "use asyncio.timeout"
