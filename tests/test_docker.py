"""The Dockerfile, read as text and tried as far as it goes without an engine: its install lines run in a clean environment."""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from switch.database import head
from switch.settings import VARIABLES

ROOT = Path(__file__).resolve().parent.parent
BUILD_TOOLS = ("build-essential", "gcc", "g++", "make", "rustc", "cargo", "-dev", "git", "pip", "apt-get", "apk")
UNREACHABLE = re.compile(r"Retrying \(Retry|Temporary failure in name resolution|Network is unreachable|Connection refused|timed out")


class Line(NamedTuple):
    word: str
    rest: str


def stages() -> list[list[Line]]:
    """The instructions of each stage, comments out and continuations joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = [Line(*line.split(None, 1)) for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    found: list[list[Line]] = []
    for line in lines:
        if line.word == "FROM":
            found.append([])
        found[-1].append(line)
    return found


BUILD, LAST = stages()


def rest_of(stage: list[Line], word: str) -> list[str]:
    return [line.rest for line in stage if line.word == word]


def test_both_stages_stand_on_the_same_slim_python() -> None:
    assert [rest_of(stage, "FROM")[0].split()[0] for stage in (BUILD, LAST)] == ["python:3.11-slim"] * 2


def test_the_last_stage_has_no_build_tools_and_installs_nothing() -> None:
    assert [tool for tool in BUILD_TOOLS for run in rest_of(LAST, "RUN") if tool in run] == []
    assert rest_of(LAST, "COPY") == ["--from=build /opt/switch /opt/switch"], "only what the first stage made comes in"
    assert rest_of(LAST, "ADD") == []


def test_the_installers_do_not_travel_into_the_last_stage() -> None:
    assert rest_of(BUILD, "RUN")[-1].endswith("pip uninstall --yes setuptools pip")


def test_everything_is_installed_from_the_lock_by_hash_or_without_dependencies() -> None:
    installs = [part for run in rest_of(BUILD, "RUN") for part in run.split("&&") if "pip install" in part]
    assert len(installs) == 2
    assert "--require-hashes --only-binary :all: -r requirements/run.txt" in installs[0]
    assert "--no-deps --no-build-isolation" in installs[1]


def test_it_runs_as_a_user_of_its_own_by_number_and_never_goes_back() -> None:
    users = [line.rest for line in LAST if line.word == "USER"]
    assert users == ["10001:10001"]
    after = [line.word for line in LAST[LAST.index(Line("USER", users[0])) + 1:]]
    assert "RUN" not in after
    assert "COPY" not in after
    assert "useradd --uid 10001 --gid 10001" in rest_of(LAST, "RUN")[0]


def test_the_home_is_a_volume_that_belongs_to_that_user() -> None:
    assert rest_of(LAST, "VOLUME") == ["/var/lib/switch"]
    assert "install -d -m 0700 -o switch -g switch /var/lib/switch" in rest_of(LAST, "RUN")[0]
    environment = " ".join(rest_of(LAST, "ENV"))
    assert "SWITCH_HOME=/var/lib/switch" in environment
    assert set(re.findall(r"\b(SWITCH_\w+)=", environment)) <= set(VARIABLES), "an unknown variable stops the start"


def test_it_serves_the_port_that_it_exposes() -> None:
    port = re.findall(r"SWITCH_PORT=(\d+)", " ".join(rest_of(LAST, "ENV")))
    assert rest_of(LAST, "EXPOSE") == port
    assert (json.loads(rest_of(LAST, "ENTRYPOINT")[0]), json.loads(rest_of(LAST, "CMD")[0])) == (["switch"], ["serve"])


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path of the top level out of the build (the last pattern that fits decides)."""
    out = False
    for pattern in (ROOT / ".dockerignore").read_text().split():
        if fnmatch(path, pattern.removeprefix("!")) or path.startswith(pattern.removeprefix("!") + "/"):
            out = not pattern.startswith("!")
    return out


def copied() -> list[str]:
    return [source for rest in rest_of(BUILD, "COPY") for source in rest.split()[:-1]]


def test_every_source_that_is_copied_exists_and_reaches_the_build() -> None:
    assert [source for source in copied() if not (ROOT / source).exists()] == []
    assert [source for source in copied() if ignored(source)] == []


@pytest.mark.parametrize("secret", [".switch", ".venv", ".git", "reports", "tests", "requirements/dev.txt"])
def test_what_the_image_does_not_need_is_not_even_sent_to_the_build(secret: str) -> None:
    assert ignored(secret)


class Health(BaseHTTPRequestHandler):
    asked: str

    def do_GET(self) -> None:
        self.server.asked = self.path  # type: ignore[attr-defined]
        self.send_response(self.server.status)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    listening = HTTPServer(("127.0.0.1", 0), Health)
    thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
    thread.start()
    yield listening
    listening.shutdown()
    thread.join()
    listening.server_close()


def health(port: int) -> int:
    options, command = rest_of(LAST, "HEALTHCHECK")[0].split("CMD", 1)
    assert {"--interval", "--timeout", "--start-period", "--retries"} == set(re.findall(r"--[a-z-]+", options))
    program, *arguments = json.loads(command)
    assert program == "python"
    return subprocess.run([sys.executable, *arguments], env={"SWITCH_PORT": str(port)}, stderr=subprocess.DEVNULL, check=False).returncode


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False), (404, False)])
def test_the_health_check_asks_healthz_and_believes_only_200(server: HTTPServer, status: int, healthy: bool) -> None:
    server.status = status  # type: ignore[attr-defined]
    assert (health(server.server_port) == 0) is healthy
    assert server.asked == "/healthz"  # type: ignore[attr-defined]


def test_the_health_check_fails_when_nobody_listens() -> None:
    with socket.socket() as bound:  # a port that is ours, so that nobody else answers
        bound.bind(("127.0.0.1", 0))
        assert health(bound.getsockname()[1]) != 0


def bare(home: Path) -> dict[str, str]:
    """The environment of a stranger: an empty home, nothing of ours. How pip reaches its registry is the machine's."""
    kept = {name: value for name, value in os.environ.items()
            if name in ("PATH", "LANG", "SSL_CERT_FILE") or name.startswith("PIP_") or name.lower().endswith("_proxy")}
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    return kept | {"HOME": str(home), "PIP_CACHE_DIR": cache}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """What the first stage makes: its RUN lines, run in a copy of what it copies, with /opt/switch somewhere else."""
    context, home = tmp_path_factory.mktemp("context"), tmp_path_factory.mktemp("home")
    target = tmp_path_factory.mktemp("image") / "switch"
    for source in copied():
        (context / source).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, context / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, context / source)
    environment = bare(home)
    for run in rest_of(BUILD, "RUN"):
        command = run.replace("/opt/switch", shlex.quote(str(target))).replace("python -m venv", f"{shlex.quote(sys.executable)} -m venv")
        done = subprocess.run(["sh", "-c", command], cwd=context, env=environment, capture_output=True, text=True, check=False)
        if done.returncode and "pip install" in run and UNREACHABLE.search(done.stderr):
            pytest.skip(f"the package registry cannot be reached: {done.stderr.strip().splitlines()[-1][:200]}")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return target / "bin", environment


def run(program: str, *arguments: str, installed: tuple[Path, dict[str, str]], cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    where, environment = installed
    return subprocess.run([where / program, *arguments], cwd=cwd, env=environment | extra, capture_output=True, text=True, check=False, timeout=120)


def test_the_installed_switch_helps_from_anywhere(installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    done = run("switch", "--help", installed=installed, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "serve" in done.stdout


def test_the_installed_packages_bring_their_migrations_and_dialects_and_no_installer(
        installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    program = ("from importlib.util import find_spec; from switch.database import head; from messages.dialect import load; "
               "print(head(), load('iso87_ascii').name, find_spec('pip'), find_spec('setuptools'))")
    done = run("python", "-c", program, installed=installed, cwd=tmp_path)
    assert done.stdout.split() == [head(), "iso87_ascii", "None", "None"], done.stderr


def test_the_installed_switch_makes_a_payment(installed: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    done = run("switch", "demo", "--once", installed=installed, cwd=tmp_path, SWITCH_HOME=str(tmp_path / "home"), SWITCH_PORT="0")
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
    assert "approved" in done.stdout
