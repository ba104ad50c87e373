"""What a fault run is made of: a furnished database, a stub per acquirer, switches; every process a child, ended by its own pid."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg

from switch import database
from switch.merchants.onboarding import Onboarding
from tests.processes import SWITCH, Process, environment, family, wait

ACQUIRERS = ("single", "dual")
READY_S = 60.0
told_ports = set[int]()


class Timers(NamedTuple):
    """Milliseconds, of both acquirers."""

    answer_ms: int
    grace_ms: int


def free_port() -> int:
    """A port that comes back: below the ephemeral ones, so that no outgoing connection takes it while its owner restarts; never told twice,
    since whoever was told it first may bind it later.
    """
    while True:
        port = random.randrange(12_000, 19_000)
        if port in told_ports:
            continue
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            told_ports.add(port)
            return port


def sql(url: str, statement: str, *arguments: object) -> list[asyncpg.Record]:
    """One statement on a connection of its own, from any thread."""
    async def run() -> list[asyncpg.Record]:
        for tries_left in reversed(range(20)):
            try:
                connection = await asyncpg.connect(url, timeout=10)
                break
            except asyncpg.TooManyConnectionsError:
                if not tries_left:
                    raise
                await asyncio.sleep(0.5)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    return asyncio.run(run())


def database_url(url: str, name: str) -> str:
    return f"{url.rsplit('/', 1)[0]}/{name}"


def new_database(url: str, template: str | None = None) -> str:
    """An empty database on the cluster, or a copy of another that nobody is connected to; its URL."""
    name = f"f_{uuid.uuid4().hex[:12]}"
    sql(url, f"CREATE DATABASE {name}" + (f" TEMPLATE {template.rsplit('/', 1)[1]}" if template else ""))
    return database_url(url, name)


class Keys(NamedTuple):
    """Bearer keys of the terminals by acquirer, and of an operator."""

    terminals: dict[str, list[str]]
    operator: str


def furnish(url: str, timers: Timers, ports: dict[str, int], terminals: int) -> Keys:
    """A merchant per acquirer, each with `terminals` terminals."""
    async def run() -> Keys:
        await database.migrate(url)
        pool, keys = await database.pool(url, "switch_writer", 2), {}
        try:
            office = Onboarding(pool)
            await office.install_bins()
            organisation = await office.organisation("Fault run")
            for mode in ACQUIRERS:
                merchant = await office.merchant(organisation.organisation_id, f"Merchant {mode}", "5812", "Asia/Shanghai")
                store = await office.store(merchant.merchant_id, f"Store {mode}", city="Shanghai")
                acquirer = await office.acquirer(mode, "iso87_ascii", "127.0.0.1", ports[mode], message_mode=mode,
                                                 answer_timeout_ms=timers.answer_ms, reversal_grace_ms=timers.grace_ms)
                await office.route(acquirer.acquirer_id, merchant.merchant_id)
                made = [await office.terminal(store.store_id, f"Till {number}") for number in range(terminals)]
                keys[mode] = [(await office.key("terminal", terminal_id=each.terminal_id)).text for each in made]
            return Keys(keys, (await office.key("operator", person="Fault Runner")).text)
        finally:
            await pool.close()

    return asyncio.run(run())


class Kept:
    """A process that is started again on the same port and state whenever it ends, until `stop`. `start` makes one life."""

    def __init__(self, name: str, start: Callable[[], Process]) -> None:
        self.name, self.start, self.lives = name, start, [start()]
        self.stopping = False
        self.one_at_a_time = threading.Lock()

    @property
    def process(self) -> Process:
        return self.lives[-1]

    def kill(self) -> None:
        """kill -9, and the next life."""
        with self.one_at_a_time:
            self.process.kill()
        self.revive()

    def revive(self) -> None:
        """A new life if the last one has ended."""
        with self.one_at_a_time:
            if not self.process.running and not self.stopping:
                self.lives.append(self.start())

    def stop(self) -> int:
        """Its exit code after SIGTERM."""
        with self.one_at_a_time:
            self.stopping = True
        with suppress(ProcessLookupError):
            self.process.popen.send_signal(signal.SIGCONT)
        return self.process.stop(seconds=60.0)

    def end(self) -> None:
        """Whatever still runs is killed, every life by its own pid."""
        with self.one_at_a_time:
            self.stopping = True
        for each in self.lives:
            if each.running:
                each.kill()

    @property
    def said(self) -> str:
        """What all lives said on stderr."""
        return "".join(each.err for each in self.lives)


class Stub(Kept):
    """One acquirer's host with its durable book: every life on the same ports and the same book."""

    def __init__(self, folder: Path, name: str, port: int, delay_s: float = 0.0, dialect: str = "iso87_ascii",
                 *options: str) -> None:
        self.port, self.control_port, self.book = port, free_port(), folder / f"{name}.book.jsonl"
        command = (sys.executable, "-m", "acquirer_stubs", "--port", str(port), "--control-port", str(self.control_port),
                   "--book", str(self.book), "--delay", f"{delay_s:g}", "--dialect", dialect, *options)
        super().__init__(name, lambda: Process(folder, f"stub-{name}", command, environment(folder)))

    def order(self, action: str, value: object = None, match: object = "any", count: int | None = 1) -> None:
        """A fault of the host (acquirer_stubs/faults.py)."""
        self.call("POST", "/faults", {"match": match, "action": action, "value": value, "count": count})

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Raises OSError when the host is away."""
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{self.control_port}{path}", data, method=method)
        with urllib.request.urlopen(asked, timeout=10) as answer:
            return json.loads(answer.read())

    def up(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.control_port), 1.0):
            return True
        return False


class Server(Kept):
    """One `switch serve` on a port of its own, with so many workers. `failpoint` is for its first life alone."""

    def __init__(self, folder: Path, name: str, url: str, failpoint: str = "", workers: int = 1, **variables: str) -> None:
        self.port = free_port()
        home = folder / f"home-{name}"
        home.mkdir(exist_ok=True)
        self.variables = environment(home, SWITCH_DATABASE_URL=url, SWITCH_PORT=str(self.port), SWITCH_KEYS_FILE=str(folder / "keys.json"),
                                     SWITCH_SIGN_ON_WAIT="3", **variables)
        self.failpoint, self.many = failpoint, workers > 1

        def start() -> Process:
            armed = {"SWITCH_TESTING": "1", "SWITCH_FAILPOINT": self.failpoint} if self.failpoint else {}
            self.failpoint = ""
            return Process(folder, f"switch-{name}", (*SWITCH, "serve", "--workers", str(workers)), self.variables | armed)

        super().__init__(name, start)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def workers(self) -> list[int]:
        """Pids of those who serve: the children of a parent, else the process itself."""
        return family(self.process.pid)[1:] if self.many else [self.process.pid]

    def ready(self) -> bool:
        """Whether this life serves; the line that says so comes once it admits."""
        return self.process.running and "\n" in self.process.out

    def wait_ready(self) -> None:
        """Also through lives that end before they serve."""
        wait(lambda: self.ready() or self.revive(), f"{self.name} does not serve: {self.said[-1500:]}", READY_S)


def postgres(folder: Path) -> tuple[Process, str]:
    """A cluster of its own, whose keeper starts it again when it dies; the keeper and the URL."""
    keeper = Process(folder, "postgres", (*SWITCH, "postgres"), environment(folder / "cluster"))
    wait(lambda: "\n" in keeper.out or not keeper.running, "PostgreSQL does not start", 120.0)
    assert keeper.running, keeper.err[-2000:]
    return keeper, str(json.loads(keeper.out.splitlines()[0])["database_url"])


def until(reached: Callable[[], bool], seconds: float, pause_s: float = 0.1) -> bool:
    """Whether it came true in time; faults on the way to it do not count."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError, ValueError, IndexError):
            if reached():
                return True
        time.sleep(pause_s)
    return False


def signalled(pid: int, number: signal.Signals) -> bool:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
        return True
    return False
