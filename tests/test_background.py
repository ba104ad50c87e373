"""Background jobs: none dies silently."""

import asyncio
import io
import json

import pytest

from switch import logs
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
    background, go = Background(), asyncio.Event()

    async def waits() -> None:
        await go.wait()
        raise RuntimeError

    background.later(waits())
    await asyncio.sleep(0)
    assert len(background.tasks) == 1
    go.set()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not background.tasks
