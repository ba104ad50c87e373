"""Failpoints: no-ops without the setting, refused without SWITCH_TESTING, and each name stands somewhere in the switch."""

import dis
import re
import subprocess
import sys
from pathlib import Path

import pytest

from switch import failpoints
from switch.errors import SettingsError
from switch.failpoints import ALL, Order, Plan, armed, plan
from switch.settings import load
from tests.processes import ROOT, environment

TESTING = {"SWITCH_TESTING": "1"}


def child(folder: Path, code: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", f"from switch.failpoints import failpoint\n{code}"], env=environment(folder, **variables),
                          capture_output=True, text=True, timeout=30, check=False)


def test_without_the_setting_every_failpoint_is_one_empty_function() -> None:
    assert not failpoints.ARMED
    assert failpoints.failpoint is failpoints.failpoint_written
    assert len(list(dis.get_instructions(failpoints.failpoint))) <= 3
    with pytest.raises(StopIteration):
        failpoints.failpoint_held("t1.before_commit").__await__().send(None)  # never gives the loop away


def test_every_name_stands_in_the_switch_and_no_other() -> None:
    placed = {name for path in (ROOT / "switch").rglob("*.py") for name in re.findall(r"failpoint(?:_written|_held|_half)?\(\"([^\"]+)\"[,)]", path.read_text())}
    placed |= {f"cutover.{step}" for step in re.findall(r"_commit\(\"(\w+)\"\)", (ROOT / "switch/settlement/cutover/steps.py").read_text())}
    assert placed == set(ALL)


@pytest.mark.parametrize("environ", [
    {"SWITCH_FAILPOINT": "t1.before_commit:1:kill"}, {"SWITCH_FAILPOINT": "record:passed"}, {"SWITCH_FAILPOINT": "t1.before_commit:1:kill", "SWITCH_TESTING": ""},
])
def test_without_testing_the_setting_stops_the_start_and_arms_nothing(environ: dict[str, str]) -> None:
    assert plan(environ).orders == () and plan(environ).record == ""
    with pytest.raises(SettingsError, match="for tests alone"):
        load(environ)


@pytest.mark.parametrize("text", ["t1.before_commit", "t1.before_commit:0:kill", "t1.before_commit:1:explode", "nowhere:1:kill", "record:", "a,b",
                                  "t1.before_commit:1:kill,", "t1.before_commit:1:sleep=", "t1.before_commit:1:sleep=1000000", "t1.before_commit:9999999:kill"])
def test_what_is_no_failpoint_stops_the_start(text: str) -> None:
    with pytest.raises(SettingsError, match="must be name:occurrence:action"):
        load(TESTING | {"SWITCH_FAILPOINT": text})


def test_testing_is_1_or_not_set() -> None:
    with pytest.raises(SettingsError, match="SWITCH_TESTING must be 1"):
        load({"SWITCH_TESTING": "yes"})
    load(TESTING)


def test_orders_and_a_record_may_stand_together() -> None:
    assert plan(TESTING | {"SWITCH_FAILPOINT": "record:f,send.before:3:sleep=0.5,drain.mid:1:stop"}) == Plan(
        (Order("send.before", 3, "sleep", 0.5), Order("drain.mid", 1, "stop", 0.0)), "f")


def test_it_acts_at_the_occurrence_and_records_what_is_passed(tmp_path: Path) -> None:
    passed = tmp_path / "passed"
    pass_by = armed(plan(TESTING | {"SWITCH_FAILPOINT": f"record:{passed},send.before:2:raise"}))
    pass_by("send.before")
    pass_by("send.after")
    with pytest.raises(failpoints.InjectedFault):
        pass_by("send.before")
    pass_by("send.before")
    assert passed.read_text().split() == ["send.before", "send.after", "send.before", "send.before"]


def test_a_kill_leaves_no_time_for_anything(tmp_path: Path) -> None:
    code = "import atexit\natexit.register(print, 'ended')\nfailpoint('drain.mid')\nprint('once', flush=True)\nfailpoint('drain.mid')\nprint('twice')"
    done = child(tmp_path, code, SWITCH_FAILPOINT="drain.mid:2:kill", **TESTING)
    assert (done.returncode, done.stdout) == (-9, "once\n")
    assert child(tmp_path, code, SWITCH_FAILPOINT="drain.mid:2:kill").stdout == "once\ntwice\nended\n"


HALVES = """
import asyncio
from switch.failpoints import failpoint_half

async def main():
    for frames in ([b"first"], [b"whole", b"12345678"], [b"last"]):
        failpoint_half("send.half", lambda part: print(part.decode(), flush=True), frames)
        await asyncio.sleep(0)

asyncio.run(main())
"""


def test_a_kill_in_the_middle_of_a_frame_leaves_its_first_half(tmp_path: Path) -> None:
    done = child(tmp_path, HALVES, SWITCH_FAILPOINT="send.half:2:kill", **TESTING)
    assert (done.returncode, done.stdout) == (-9, "first\nwhole1234\n")
    done = child(tmp_path, HALVES, SWITCH_FAILPOINT="send.half:2:sleep=0.1", **TESTING)
    assert (done.returncode, done.stdout) == (0, "first\nwhole1234\n5678\nlast\n")
    assert child(tmp_path, HALVES).stdout == "first\nwhole12345678\nlast\n"


def test_a_start_under_test_says_so_loudly(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "switch", "story", "txn_0"], capture_output=True, text=True, timeout=30, check=False,
                          env=environment(tmp_path, SWITCH_FAILPOINT="drain.mid:9:kill", SWITCH_LOG_LEVEL="error", **TESTING))
    assert '"event": "failpoints_armed"' in done.stderr and "drain.mid:9:kill" in done.stderr
