"""`python -m tests.ablations [NAME ...]`: applies each ablation to a temporary copy of the tree and runs its one test, which must go red."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.ablations import NOT_BUILT, ROOT, SAFEGUARDS, Ablation, ablations, applied

SECONDS_MAX = 240
# Bytecode comes along, which is of the very files that it names; what is compiled from a changed one is never kept.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".switch", "*.pyc.*", ".*_cache", "*.egg-info", "reports", "build")


@contextmanager
def copy() -> Iterator[Path]:
    """The tree as it is now, committed or not, somewhere else."""
    with tempfile.TemporaryDirectory(prefix="ablation-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        yield tree


def verdict(tree: Path, *tests: str) -> str:
    """green, red (a test failed, and none broke down in its fixtures), or what else happened: an ablation must be caught by an assertion."""
    report = tree.parent / "report.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={report}", *tests]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    except subprocess.TimeoutExpired:
        return f"no verdict within {SECONDS_MAX} s"
    last = done.stdout.strip().splitlines()[-3:]
    if done.returncode not in (0, 1) or not report.exists():
        return f"pytest ended with {done.returncode}: {' / '.join(last)}"
    suite = ET.parse(report).getroot()[0]
    failed = [case.get("name", "") for case in suite if case.find("failure") is not None]
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    if counts["tests"] == 0 or counts["skipped"]:
        return "the test did not run"
    if counts["failures"]:
        return f"red: {', '.join(failed)}" if len(tests) > 1 else "red"
    return f"broken down outside the test: {' / '.join(last)}" if counts["errors"] else "green"


def ablated(tree: Path, ablation: Ablation) -> str:
    """What the ablation's test says without the safeguard; the copy is whole again afterwards."""
    try:
        texts = applied(ablation, tree)
    except LookupError as fault:
        return f"no longer applies: {fault}"
    before = {file: (tree / file).read_bytes() for file in texts}
    try:
        for file, text in texts.items():
            (tree / file).write_text(text, encoding="utf-8")
        return verdict(tree, ablation.test)
    finally:
        for file, content in before.items():
            (tree / file).write_bytes(content)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ablations", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these; all if none is named")
    wanted = parser.parse_args(arguments).names
    known = {ablation.name: ablation for ablation in ablations()}
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        parser.error(f"no such ablation: {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = [ablation for ablation in known.values() if not wanted or ablation.name in wanted]
    faults = 0
    with copy() as tree:
        tests = sorted({ablation.test for ablation in chosen})
        whole = verdict(tree, *tests)
        print(f"ablations: with every safeguard in place the {len(tests)} tests are {whole}", flush=True)
        faults += whole != "green"
        for at, ablation in enumerate(chosen, 1):
            begun = time.monotonic()
            found = ablated(tree, ablation)
            faults += found != "red"
            print(f"ablations: {at}/{len(chosen)} {ablation.name}: {found} ({time.monotonic() - begun:.1f} s) {ablation.test}", flush=True)
    missing = [name for name in SAFEGUARDS if name in NOT_BUILT and not wanted]
    for name in missing:
        print(f"ablations: {name}: not built yet: {NOT_BUILT[name]}")
    print(f"ablations: {len(chosen)} run, {len(missing)} not built yet, {faults} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
