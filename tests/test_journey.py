"""`make journey`, as anybody runs it: a merchant's whole way over HTTP against a demo of its own."""

import json
import re
import subprocess
import sys

from tests.processes import ROOT


def test_two_merchants_go_the_whole_way() -> None:
    done = subprocess.run([sys.executable, "-m", "loadtests.journey"], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    lines = done.stdout.splitlines()
    assert json.loads(lines[-1])["limits_broken"] == []
    steps = [line.split()[0] for line in lines if line.startswith("J")]
    assert {"J1", "J2", "J3", "J4", "J5", "J6", "J7", "J9", "J10", "J12", "J17"} <= set(steps)
    assert sum("two sales went to the new acquirer" in line for line in lines) == 2, done.stdout
    assert sum("CNY confirmed" in line for line in lines) == 4, done.stdout
    days = [line.split()[2].rstrip(":") for line in lines if re.match(r"J10 [A-Z][a-z]{2} \d{4}-", line)]
    assert len(days) == 6 and days == sorted(set(days)), done.stdout
    assert any("a holiday" in line for line in lines) and sum("is paid for" in line for line in lines) == 2, done.stdout
