"""The frame of a measurement: a folder of its own, processes that are stopped whatever happens, a report, and what it says last as one JSON line."""

import argparse
import contextlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg

from loadtests.processes import Processes, RunError
from loadtests.services import ROOT

Result = dict[str, Any]


def parser(name: str, document: str | None) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"python -m loadtests.{name}", description=(document or "").splitlines()[0])


def say(text: str) -> None:
    print(text, flush=True)


def measured(name: str, measure: Callable[[Result, Processes, Path], list[str]]) -> int:
    """The exit code: 1 when a limit was broken. `measure` fills in the result as it gets on, and returns which limits were broken."""
    reports = ROOT / "reports"
    reports.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=reports))  # beside the sources: /tmp may be in memory and fsync for nothing
    result: Result = {}
    processes, failures = Processes(home), []
    try:
        failures += measure(result, processes, home)
    except (TimeoutError, RunError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError, subprocess.SubprocessError) as error:
        failures.append(str(error) or type(error).__name__)
    finally:
        with contextlib.suppress(KeyboardInterrupt):
            processes.stop_all()
            shutil.rmtree(home, ignore_errors=True)
    result["limits_broken"] = failures
    (reports / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    for failure in failures:
        say(f"FAILED: {failure}")
    say(json.dumps(result))
    return 1 if failures else 0
