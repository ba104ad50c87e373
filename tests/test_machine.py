"""The suite's own plugin, in a pytest of its own: what is run again, and what is not."""

import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT

# A process that is stopped for a while is as good as a machine that stands still.
TESTS = """
import os, signal, subprocess

runs = []

def stand_still():
    awakener = subprocess.Popen(["sh", "-c", f"sleep 0.6; kill -CONT {os.getpid()}"])
    os.kill(os.getpid(), signal.SIGSTOP)
    awakener.wait()

def test_stood_still_once():
    runs.append(1)
    if len(runs) == 1:
        stand_still()
    assert len(runs) == 2

def test_stands_still_and_is_wrong():
    stand_still()
    assert False

def test_is_wrong():
    assert False
"""


def test_a_failure_counts_unless_the_machine_stood_still(tmp_path: Path) -> None:
    (tmp_path / "test_still.py").write_text(TESTS)
    ran = subprocess.run([sys.executable, "-m", "pytest", "-p", "tests.machine", "-p", "no:cacheprovider", "-c", "/dev/null", "-raR", "test_still.py"],
                         cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}, capture_output=True, text=True, timeout=60)
    said = ran.stdout
    assert "2 failed, 1 passed, 3 rerun" in said, said
    for name, outcomes in (("test_stood_still_once", ["RERUN"]), ("test_stands_still_and_is_wrong", ["RERUN", "FAILED"]), ("test_is_wrong", ["FAILED"])):
        assert [outcome for outcome in ("RERUN", "FAILED") if f"{outcome} test_still.py::{name}" in said] == outcomes, said
    assert "It stood still for 0." in said
