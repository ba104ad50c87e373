"""What a process that serves is made of: signals, locks, the embedded PostgreSQL if wanted, the socket, uvicorn, the drain."""

import asyncio
import fcntl
import logging
import os
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import uvicorn
import uvloop

from switch import logs
from switch.api.changes import ASGI
from switch.api.edge import EdgeLimits, edge_protocol
from switch.api.straight import StraightWay
from switch.app import Switch
from switch.errors import StartError
from switch.postgres import EmbeddedPostgres, PostgresError
from switch.settings import Settings

BACKLOG = 2048
KEEP_ALIVE_S = 75
ACCEPT_AT_ONCE, OTHERS_TURN_S, ACCEPT_AGAIN_S = 4, 0.001, 0.2
RUN_LOCK_S = 10.0  # a killed parent's workers are dead long before
CONNECTIONS_OF_A_WORKER = 40  # to PostgreSQL, at most
SAY = Callable[[str], None]


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: a signal starts our drain, and the exit code is ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class SharingServer(Server):
    """For a socket that several processes accept from: a few connections, then the others' turn. The loop's own server would take a whole
    burst at once, and with it all the work of its terminals.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.servers = []
        self.accepting: set[asyncio.Task[object]] = set()
        for listening in sockets or []:
            self._listen(listening)
        self.started = True

    def _listen(self, listening: socket.socket) -> None:
        if not self.should_exit:
            asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _accept(self, listening: socket.socket) -> None:
        loop, pause = asyncio.get_running_loop(), OTHERS_TURN_S
        for _ in range(ACCEPT_AT_ONCE):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, ConnectionAbortedError):  # another process was faster; the client has gone
                break
            except OSError as error:  # no file descriptor left: the others may have some
                logs.error("accept_failed", error=type(error).__name__)
                pause = ACCEPT_AGAIN_S
                break
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            task: asyncio.Task[object] = loop.create_task(loop.connect_accepted_socket(self._protocol, connection))
            self.accepting.add(task)
            task.add_done_callback(self.accepting.discard)
        loop.remove_reader(listening)
        loop.call_later(pause, self._listen, listening)

    def _protocol(self) -> asyncio.Protocol:
        return self.config.http_protocol_class(config=self.config, server_state=self.server_state,  # type: ignore[call-arg]
                                               app_state=self.lifespan.state)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for listening in sockets or []:
            asyncio.get_running_loop().remove_reader(listening)
        await super().shutdown(sockets)


class Libraries(logging.Handler):
    """What a library logs becomes one line of ours: its place and the error's name, never its text or traceback, which may hold data."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[0] if record.exc_info else None
        logs.warning("library", where=f"{record.name} {record.filename}:{record.lineno}", error=error.__name__ if error else None)


def run(main: Callable[[], Awaitable[int]]) -> int:
    """Runs in the main thread on uvloop; no core dump, since a dump would hold card numbers."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    logging.basicConfig(handlers=[Libraries(logging.WARNING)])

    async def inner() -> int:
        return await main()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(inner())


def stop_event() -> asyncio.Event:
    """Set by SIGINT or SIGTERM."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


async def first(*waits: Coroutine[Any, Any, object], timeout: float | None = None) -> int | None:
    """The place of the one that is done first, None after `timeout`; the others are cancelled."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        return next((place for place, task in enumerate(tasks) if task.done()), None)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def make_home(settings: Settings) -> None:
    """The folder for data and keys. Raises StartError."""
    try:
        settings.home.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartError(f"the folder {settings.home} cannot be made: {error.strerror}; set SWITCH_HOME to one of ours") from None


@asynccontextmanager
async def home_lock(settings: Settings) -> AsyncIterator[None]:
    """One demo per home folder; the embedded PostgreSQL has a lock of its own."""
    make_home(settings)
    try:
        handle = os.open(settings.home / "switch.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StartError(f"{settings.home / 'switch.lock'} cannot be opened: {error.strerror}; set SWITCH_HOME to a folder of ours") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(handle, 20).decode(errors="replace").strip() or "unknown"
            raise StartError(f"another demo (pid {holder}) uses {settings.home}; stop it, or set SWITCH_HOME to another folder") from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


@asynccontextmanager
async def run_lock(settings: Settings) -> AsyncIterator[int]:
    """One `serve` per home folder. The lock lives until the last process that inherited it has ended: whoever holds it knows that the
    workers of an earlier run are dead. Raises StartError when it runs, or its workers do not end within RUN_LOCK_S.
    """
    folder = settings.home / "run"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(f"{folder} cannot be used: {error.strerror}; set SWITCH_HOME to a folder of ours") from None
    try:
        until = time.monotonic() + RUN_LOCK_S
        while not _locked(handle):
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip() or "unknown"
            if time.monotonic() > until or Path(f"/proc/{holder}").exists():
                raise StartError(f"another switch (pid {holder}), or a worker of it, uses {settings.home}; stop it, or set SWITCH_HOME to another")
            await asyncio.sleep(0.05)
        os.ftruncate(handle, os.pwrite(handle, f"{os.getpid()}\n".encode(), 0))
        yield handle
    finally:
        os.close(handle)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@asynccontextmanager
async def database(settings: Settings, say: SAY, workers: int = 1) -> AsyncIterator[tuple[str, bool]]:
    """The database's URL, and whether it is ours alone: the embedded PostgreSQL unless SWITCH_DATABASE_URL names one."""
    if settings.database_url is not None:
        yield settings.database_url, False
        return
    embedded = EmbeddedPostgres(settings.home, binaries=settings.postgres_bin, progress=say,
                                settings={"max_connections": str(max(100, 20 + CONNECTIONS_OF_A_WORKER * workers))})
    try:
        url = await embedded.start()
    except PostgresError as error:
        raise StartError(str(error)) from None
    keeper = asyncio.create_task(_kept(embedded))
    try:
        yield url, True
    finally:
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        await embedded.stop()


async def _kept(embedded: EmbeddedPostgres) -> None:
    try:
        await embedded.supervise()
    except PostgresError as error:
        logs.error("postgres_gone", detail=str(error))


def listen(settings: Settings) -> socket.socket:
    """Raises StartError when the port is taken or the address is not ours."""
    return listen_on(settings.host, settings.port, "SWITCH_PORT")


def listen_on(host: str, port: int, setting: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # not named, asyncio leaves Nagle on: 40 ms for a body
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}; "
                         f"set {setting} to another (0 = any)") from None
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening


def base_url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


@asynccontextmanager
async def http(application: ASGI, listening: socket.socket, connections: int, shared: bool = False,
               straight: StraightWay | None = None) -> AsyncIterator[None]:
    """Answers HTTP while the body runs. `shared`: other processes accept from the same socket."""
    config = uvicorn.Config(
        application, http=edge_protocol(EdgeLimits(connections=connections), straight), lifespan="off", access_log=False,
        log_config=None, log_level="critical", timeout_keep_alive=KEEP_ALIVE_S, backlog=BACKLOG, server_header=False, ws="none", proxy_headers=False)
    server = SharingServer(config) if shared else Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        yield
    finally:
        server.should_exit = True
        with suppress(asyncio.TimeoutError):
            async with asyncio.timeout(3):
                await task


@asynccontextmanager
async def serving(switch: Switch, listening: socket.socket, settings: Settings, shared: bool = False) -> AsyncIterator[None]:
    """Serves while the body runs, then drains: walks end first, connections after."""
    application, straight = switch.application()
    async with http(application, listening, settings.max_connections, shared, straight):
        try:
            yield
        finally:
            logs.info("draining")
            switch.draining = True
            await switch.stop()
