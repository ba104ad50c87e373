"""Real processes, killed at every named place: each run restarts, lets its tills retry, and compares the three books."""

import asyncio
from pathlib import Path

from switch.failpoints import NAMES
from tests.faults.sweep import sweep


async def test_killed_at_every_failpoint_and_restarted_the_three_books_agree(cluster_url: str, tmp_path: Path) -> None:
    results, passed = await asyncio.to_thread(sweep, cluster_url, tmp_path / "sweep", False)
    assert passed == set(NAMES), "a clean run passes every failpoint; let the scenario of tests/faults/sweep.py pass the new one"
    assert {str(result.case): result.differences for result in results if result.differences} == {}
    assert [str(result.case) for result in results[1:] if not result.reached] == [], "nobody was killed there: this showed nothing"
    assert {result.case.name for result in results[1:]} == set(NAMES)
