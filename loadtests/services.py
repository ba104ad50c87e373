"""What a run is made of, each as one process: PostgreSQL, an acquirer stub, the baseline or the switch, on fresh databases."""
import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from loadtests.processes import Processes, RunError

ROOT = Path(__file__).resolve().parent.parent
SWITCH = [sys.executable, "-m", "switch"]
# What was approved and how much, and over how many keys: it must equal what the driver was answered.
BOOKED = {
    "baseline": """SELECT count(*) AS approvals, coalesce(sum(amount), 0)::bigint AS amount, count(DISTINCT idempotency_key) AS keys,
                          (SELECT count(*) FROM baseline_transaction) AS rows
                   FROM baseline_transaction WHERE status = 'approved'""",
    "switch": """SELECT count(*) AS approvals, coalesce(sum(approved_amount), 0)::bigint AS amount, count(DISTINCT idempotency_key) AS keys,
                        (SELECT count(*) FROM transaction) AS rows
                 FROM transaction WHERE state = 'APPROVED'""",
}
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


class Stub(NamedTuple):
    process: "subprocess.Popen[bytes]"
    port: int
    control_url: str


class Service(NamedTuple):
    """A service under test: its process, where it listens, the caller's key if it wants one, its database."""

    kind: str
    process: "subprocess.Popen[bytes]"
    url: str
    key: str | None
    database_url: str
    stub: Stub


def environment(home: Path, **more: str) -> dict[str, str]:
    """Ours without any SWITCH_ setting of the caller's shell: default settings are what is measured."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SWITCH_")}
    return plain | {"SWITCH_HOME": str(home), "PYTHONPATH": str(ROOT)} | more


def database(url: str, name: str) -> str:
    return urllib.parse.urlsplit(url)._replace(path=f"/{name}").geturl()


class Cluster:
    """The embedded PostgreSQL of a run; refuses to measure one that does not write durably."""

    def __init__(self, processes: Processes, home: Path) -> None:
        self.home = home
        _, line = processes.start("postgres", [*SWITCH, "postgres"], environment(home), "database_url", 120.0)
        self.url, self.pid = str(line["database_url"]), int(line["pid"])

    async def check(self) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            for name, wanted in DURABLE.items():
                if (found := await connection.fetchval(f"SHOW {name}")) != wanted:
                    raise RunError(f"{name} is {found}, not {wanted}")
            if await connection.fetchval("SELECT count(*) FROM pg_db_role_setting WHERE setconfig::text LIKE '%commit%'"):
                raise RunError("a database or role overrides how commits are written")
        finally:
            await connection.close()

    @asynccontextmanager
    async def fresh(self) -> AsyncIterator[str]:
        """A new database, dropped at the end; the drop ends with a checkpoint, so every run starts after one."""
        name = f"run_{secrets.token_hex(4)}"
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(f"CREATE DATABASE {name}")
            yield database(self.url, name)
        finally:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await connection.close()


async def tidy(url: str) -> None:
    """What a planting has left for autovacuum, which would do it beside the measurement."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("VACUUM (ANALYZE) transaction, duty, idempotency", timeout=1800)
    finally:
        await connection.close()


def start_stub(processes: Processes, home: Path, delay: float = 0.0) -> Stub:
    book = home / f"book-{secrets.token_hex(4)}.jsonl"
    command = [sys.executable, "-m", "acquirer_stubs", "--port", "0", "--control-port", "0", "--book", str(book), "--fast",
               "--delay", f"{delay:g}", "--die-with-parent"]
    process, line = processes.start("stub", command, environment(home), "control_url")
    return Stub(process, int(line["port"]), str(line["control_url"]))


def start_baseline(processes: Processes, home: Path, database_url: str, stub: Stub) -> Service:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "baseline:app", "--app-dir", str(ROOT / "loadtests"), "--loop", "uvloop",
               "--http", "httptools", "--no-access-log", "--host", "127.0.0.1", "--port", str(port)]
    variables = environment(home, BASELINE_DATABASE_URL=database_url, BASELINE_ACQUIRER=f"127.0.0.1:{stub.port}")
    process, _ = processes.start("baseline", command, variables, None)
    wait_for_port(process, port)
    return Service("baseline", process, f"http://127.0.0.1:{port}", None, database_url, stub)


def free_port() -> int:
    """The baseline's server prints no port, so it is given one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(process: "subprocess.Popen[bytes]", port: int, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.05)
    raise RunError(f"nothing listens on port {port} (exit code {process.returncode})")


class Merchant(NamedTuple):
    id: str
    key: str
    terminal_keys: list[str]


def onboard(processes: Processes, variables: Mapping[str, str], name: str, terminals: int) -> Merchant:
    """One merchant with one store and its terminals, over the command line."""
    def add(*arguments: str) -> dict[str, Any]:
        return processes.run(f"onboard-{arguments[0]}", [*SWITCH, "onboard", *arguments], variables)
    organisation = add("organisation", "--name", name)["id"]
    merchant = add("merchant", "--organisation", organisation, "--name", name, "--mcc", "5999")["id"]
    store = add("store", "--merchant", merchant, "--name", f"{name} 1")["id"]
    keys = [str(add("key", "--terminal", add("terminal", "--store", store, "--name", f"{name} till {number}")["id"])["key"])
            for number in range(1, terminals + 1)]
    return Merchant(merchant, str(add("key", "--merchant", merchant)["key"]), keys)


def start_demo(processes: Processes, home: Path) -> dict[str, Any]:
    """A demo of its own with everything; what it hands over."""
    path = home / "demo.json"
    process, _ = processes.start("demo", [*SWITCH, "demo"], environment(home, SWITCH_PORT="0"), None)
    end = time.monotonic() + 90
    while not path.exists():
        if process.poll() is not None or time.monotonic() > end:
            raise RunError(f"the demo is not ready (exit code {process.returncode}): {processes.said(process)}")
        time.sleep(0.1)
    demo = json.loads(path.read_text())
    assert isinstance(demo, dict)
    return demo


def start_switch(processes: Processes, home: Path, database_url: str, stub: Stub, **settings: str) -> Service:
    """A migrated database, one merchant, one terminal, one acquirer with one line, and one worker."""
    variables = environment(home, SWITCH_DATABASE_URL=database_url, SWITCH_HOST="127.0.0.1", SWITCH_PORT="0", **settings)
    processes.run("migrate", [*SWITCH, "migrate"], variables)
    merchant = onboard(processes, variables, "Bench", 1)
    processes.run("acquirer", [*SWITCH, "acquirer", "add", "bench", "--dialect", "iso87_ascii", "--host", "127.0.0.1", "--port",
                               str(stub.port), "--message-mode", "single"], variables)
    processes.run("route", [*SWITCH, "route", "add", "--acquirer", "bench"], variables)
    process, line = processes.start("switch", [*SWITCH, "serve"], variables, "base_url")
    return Service("switch", process, str(line["base_url"]), merchant.terminal_keys[0], database_url, stub)
