"""What runs the switch, or works on its database, in this process: each verb that does, with everything that it stands on."""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from switch import database
from switch.demo import demo
from switch.errors import StartError
from switch.parent import serve
from switch.postgres import EmbeddedPostgres, PostgresError
from switch.serve import SAY, run, stop_event
from switch.serve import database as database_of
from switch.settings import Settings
from switch.worker import work


def start(options: argparse.Namespace, settings: Settings, say: SAY) -> int:
    """Returns the exit code. Raises StartError and Problem."""
    verbs: dict[str, Callable[[], Awaitable[int]]] = {
        "serve": lambda: serve(settings, say, options.workers or settings.workers),
        "worker": lambda: work(settings),
        "migrate": lambda: _migrate(settings, say), "postgres": lambda: _postgres(settings, say),
        "demo": lambda: demo(settings, say, _address(options.acquirer) if options.acquirer else None, options.once),
    }
    try:
        return run(verbs.get(options.verb, lambda: _on_database(options, settings, say)))
    except PostgresError as error:
        raise StartError(str(error)) from None


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[str]:
    """The configured database, the embedded one that a switch is running, or the embedded one started for this command."""
    folder = settings.home / "postgres"
    if settings.database_url is None and (folder / "port").exists() and (folder / "password").exists():
        url = f"postgresql://switch:{(folder / 'password').read_text().strip()}@127.0.0.1:{(folder / 'port').read_text().strip()}/switch"
        try:
            await (await asyncpg.connect(url, timeout=2)).close()
        except (*database.UNKNOWN, asyncpg.PostgresError):
            pass
        else:
            yield url
            return
    async with database_of(settings, lambda line: print(line, file=sys.stderr)) as (url, _):
        yield url


async def _on_database(options: argparse.Namespace, settings: Settings, say: SAY) -> int:
    async with _database(settings) as url:
        await database.migrate(url)
        code: int = await options.work(options, url, settings, say)
        return code


async def _migrate(settings: Settings, say: SAY) -> int:
    async with _database(settings) as url:
        say(json.dumps({"schema": await database.migrate(url, lambda line: print(line, file=sys.stderr))}))
    return 0


async def _postgres(settings: Settings, say: SAY) -> int:
    stop = stop_event()
    embedded = EmbeddedPostgres(settings.home, binaries=settings.postgres_bin, progress=lambda line: print(line, file=sys.stderr))
    url = await embedded.start()
    keeper = asyncio.create_task(embedded.supervise())
    try:
        say(json.dumps({"database_url": url, "pid": embedded.pid}))
        await stop.wait()
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        await embedded.stop()
    return 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise StartError("--acquirer must be HOST:PORT")
    return host, int(port)
