"""A short nemesis: two switches on one database, six kills and the faults between them; `make faults` is the long one."""

import asyncio
from pathlib import Path

from tests.faults import nemesis
from tests.faults.stage import ACQUIRERS


async def test_kills_and_other_faults_under_load_leave_three_books_that_agree(tmp_path: Path) -> None:
    told = await asyncio.to_thread(nemesis.run, tmp_path, 6, 18.0, 8, 20261125, print)
    print(told)
    assert told["different"] == [] and told["leaks"] == [] and told["differences"] == 0
    kills = {kind: each for kind, each in told["faults"].items() if kind.startswith("kill.")}
    assert kills.keys() == {"kill.postgres", "kill.switch-0", "kill.switch-1", "kill.worker", *(f"kill.stub-{name}" for name in ACQUIRERS)}
    assert sum(each["hit"] for each in kills.values()) >= 3, "the kills met nothing on its way: this test showed nothing"
    assert told["transactions"] >= 50 and told["sold"] > 0 and told["in_doubt"] > 0
