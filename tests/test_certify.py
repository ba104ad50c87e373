"""The certification itself: a table that is whole, scenarios that pass, and a switch or host that misbehaves is seen."""

import asyncio
from pathlib import Path

import pytest

from messages.dialect import LITERALS, load
from tests.certify.__main__ import SCENARIOS, certify, judged
from tests.certify.bench import Bench, opened
from tests.certify.table import Scenario, always


def test_every_number_stands_once() -> None:
    assert [each.number for each in SCENARIOS] == list(range(1, 57))


@pytest.mark.parametrize("dialect", sorted(LITERALS))
def test_what_does_not_apply_to_a_dialect_says_why(dialect: str) -> None:
    reasons = {each.number: each.needs(load(dialect)) for each in SCENARIOS}
    assert sum(not reason for reason in reasons.values()) >= 25
    assert all(reasons[each.number] for each in SCENARIOS if each.run is None)


async def test_scenarios_run_and_are_told(cluster_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = await certify(cluster_url, tmp_path, "visa_base1", {1, 7, 13, 35})
    assert [(each.number, each.result) for each in verdicts] == [(1, "pass"), (7, "pass"), (13, "pass"), (35, "not applicable")], verdicts
    assert capsys.readouterr().out.splitlines()[-1].endswith("the dialect does not offer capture")


async def test_a_scenario_that_is_not_kept_fails_with_its_reason(cluster_url: str, tmp_path: Path) -> None:
    async def wrong(bench: Bench) -> None:
        await bench.order("code", "05")
        await bench.approved(1000)

    async def never(bench: Bench) -> None:
        await bench.until((await bench.approved(1000))["id"], "reversed", 0.5)

    bench = await opened(cluster_url, tmp_path / "bench", "iso87_ascii")
    try:
        for run, reason in ((wrong, "do_not_honour"), (never, "is not reversed")):
            verdict = await judged(bench, Scenario(99, "made to fail", run, always))
            assert verdict.result == "fail" and reason in verdict.reason, verdict
    finally:
        await asyncio.to_thread(bench.end)
