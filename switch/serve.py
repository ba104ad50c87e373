"""One process that serves: the embedded PostgreSQL if wanted, the switch, uvicorn, signals, the drain."""

import asyncio
import fcntl
import logging
import os
import resource
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import uvicorn
import uvloop

from switch import logs
from switch.api.edge import EdgeLimits, edge_protocol
from switch.app import Switch
from switch.errors import StartError
from switch.postgres import EmbeddedPostgres, PostgresError
from switch.settings import Settings

BACKLOG = 2048
KEEP_ALIVE_S = 75
SAY = Callable[[str], None]


class Server(uvicorn.Server):
    """uvicorn without its own signal handling: a signal starts our drain, and the exit code is ours."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
async def database(settings: Settings, say: SAY) -> AsyncIterator[tuple[str, bool]]:
    """The database's URL, and whether it is ours alone: the embedded PostgreSQL unless SWITCH_DATABASE_URL names one."""
    if settings.database_url is not None:
        yield settings.database_url, False
        return
    embedded = EmbeddedPostgres(settings.home, binaries=settings.postgres_bin, progress=say)
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
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise StartError(f"cannot listen on {settings.host} port {settings.port}: {error.strerror}; "
                         "set SWITCH_PORT to another (0 = any)") from None
    listening.listen(BACKLOG)
    listening.setblocking(False)
    return listening


def base_url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    shown = "127.0.0.1" if host == "0.0.0.0" else f"[{host}]" if ":" in host else host
    return f"http://{shown}:{port}"


@asynccontextmanager
async def serving(switch: Switch, listening: socket.socket, settings: Settings) -> AsyncIterator[None]:
    """Serves while the body runs, then drains: walks end first, connections after."""
    config = uvicorn.Config(
        switch.application(), http=edge_protocol(EdgeLimits(connections=settings.max_connections)), lifespan="off", access_log=False,
        log_config=None, log_level="critical", timeout_keep_alive=KEEP_ALIVE_S, backlog=BACKLOG, server_header=False, ws="none", proxy_headers=False)
    server = Server(config)
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        while not server.started and not task.done():
            await asyncio.sleep(0.005)
        yield
    finally:
        logs.info("draining")
        switch.draining = True
        await switch.stop()
        server.should_exit = True
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(task, 3)
