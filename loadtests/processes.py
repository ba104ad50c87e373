"""Starting, watching and stopping the processes of a run; CPU and memory of a process tree from /proc."""
import itertools
import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
TICKS = os.sysconf("SC_CLK_TCK")


class RunError(Exception):
    """A run cannot go on or its result does not hold; the text is the one line to print."""


def until(look: Callable[[], T | None], what: str, seconds: float = 30.0) -> T:
    """The first that `look` finds; nothing, False and an empty list are not found yet."""
    end = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > end:
            raise RunError(f"{what}: not within {seconds:g} s")
        time.sleep(0.1)
    return found


class Processes:
    """All processes of one run, stopped by pid in reverse order; output goes to files below `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[tuple[Path, subprocess.Popen[bytes]]] = []
        self.numbers = itertools.count(1)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], ready: str | None,
              seconds: float = 60.0) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
        """Starts a process; with `ready`, waits for the JSON line on its stdout that has this member, and returns the line."""
        path = self.folder / f"{next(self.numbers):03d}-{name}"
        with open(f"{path}.out", "wb") as out, open(f"{path}.err", "wb") as err:
            process = subprocess.Popen(command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        self.running.append((path, process))
        end = time.monotonic() + seconds
        while ready is not None:
            line = json_line(Path(f"{path}.out").read_bytes(), ready)
            if line is not None:
                return process, line
            if process.poll() is not None or time.monotonic() > end:
                raise RunError(f"{name} is not ready (exit code {process.returncode}): {tail(path)}")
            time.sleep(0.05)
        return process, {}

    def run(self, name: str, command: Sequence[str], environment: Mapping[str, str], seconds: float = 60.0) -> dict[str, Any]:
        """Runs a command to its end and returns the last JSON object it printed ({} if none)."""
        path = self.folder / f"{next(self.numbers):03d}-{name}"
        with open(f"{path}.out", "wb") as out, open(f"{path}.err", "wb") as err:
            code = subprocess.run(command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=seconds,
                                  check=False).returncode
        if code != 0:
            raise RunError(f"{name} failed with {code}: {tail(path)}")
        return json_line(Path(f"{path}.out").read_bytes(), None) or {}

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """The last lines of a running or just ended process."""
        return next((tail(path) for path, known in self.running if known is process), "")

    def stop(self, process: subprocess.Popen[bytes], seconds: float = 45.0) -> None:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        self.running = [pair for pair in self.running if pair[1] is not process]

    def stop_all(self) -> None:
        for _, process in reversed(list(self.running)):
            self.stop(process, 15.0)


def json_line(output: bytes, member: str | None) -> dict[str, Any] | None:
    """The last complete line that is a JSON object (and has `member`)."""
    for line in reversed(output.split(b"\n")[:-1]):
        if line.startswith(b"{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict) and (member is None or member in value):
                return value
    return None


def tail(path: Path) -> str:
    lines = (Path(f"{path}.err").read_text(errors="replace") + Path(f"{path}.out").read_text(errors="replace")).strip().splitlines()
    return " | ".join(lines[-5:])[-800:]


def call(method: str, url: str, body: object = None, key: str | None = None, seconds: float = 30.0) -> Any:
    """One small HTTP call of the orchestration (never of the measured load); raises OSError for any status that is not 2xx."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=seconds) as response:
        raw = response.read()
    return json.loads(raw) if raw else None


def tree(root: int) -> list[int]:
    """The process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (fields := stat(int(name))):
            children.setdefault(int(fields[1]), []).append(int(name))
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat after the command's name: [0] state, [1] parent, [11..14] utime stime cutime cstime."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return []
    return text[text.rindex(")") + 2:].split(" ")


def cpu_seconds(root: int) -> float:
    """User + system time of the tree, with what its processes have reaped; a child that died is counted by its parent only."""
    return sum(int(tick) for pid in tree(root) if (fields := stat(pid)) for tick in fields[11:15]) / TICKS


def rss_mb(root: int) -> float:
    """Resident memory of the largest process of the tree (a worker), MB of 10^6 bytes."""
    return max(memory(pid) for pid in tree(root))


def memory(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("VmRSS:")), 0.0)
