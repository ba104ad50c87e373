"""The command line: `switch demo | serve | migrate | postgres | stub`, and the verbs of commands/."""

import argparse
import asyncio
import inspect
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from switch import database, failpoints, logs
from switch.commands import (
    accepting,
    applying,
    choosing,
    circuits,
    clearings,
    contests,
    contracting,
    cutovers,
    fleet,
    helping,
    importing,
    inquiries,
    inspection,
    keying,
    leaving,
    moving,
    onboarding,
    paying,
    pricing,
    risk,
    routes,
    standing_in,
    support,
)
from switch.demo import demo
from switch.errors import PROBLEMS, Problem, SettingsError, StartError
from switch.parent import serve
from switch.postgres import EmbeddedPostgres, PostgresError
from switch.serve import database as database_of
from switch.serve import run, stop_event
from switch.settings import WORKERS_MAX, Settings, load
from switch.worker import COMMAND as WORKER
from switch.worker import work

# Of commands that ask a running switch or nobody, `work(options, settings, say)`; of those that work on the database itself, a coroutine.
COMMANDS = (onboarding, applying, contracting, circuits, routes, standing_in, risk, support, helping, cutovers, pricing, contests, keying, fleet,
            accepting, importing, moving, choosing, leaving, clearings, paying, inquiries, inspection)
OnDatabase = Callable[[argparse.Namespace, str, Settings, Callable[[str], None]], Awaitable[int]]


def say(line: str) -> None:
    print(line, flush=True)


def _workers(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= WORKERS_MAX):
        raise argparse.ArgumentTypeError(f"it must be a whole number from 1 to {WORKERS_MAX}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("switch", description="A payment transaction switch. Settings are SWITCH_* variables.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    shown = verbs.add_parser("demo", help="everything on this machine, with one authorization to see")
    shown.add_argument("--acquirer", metavar="HOST:PORT", help="use this host instead of the stub")
    shown.add_argument("--once", action="store_true", help="end after the sample, with 0 or 1")
    served = verbs.add_parser("serve", help="serves until it is told to stop")
    served.add_argument("--workers", type=_workers, metavar="N", help="processes that serve; default: SWITCH_WORKERS, else 1")
    verbs.add_parser("migrate", help="bring the schema to this release's revision")
    verbs.add_parser("postgres", help="the embedded PostgreSQL alone, in the foreground")
    verbs.add_parser("stub", help="the acquirer stub; options as of python -m acquirer_stubs")
    for command in COMMANDS:
        _join(verbs, command)
    return parser


def _join(verbs: Any, command: Any) -> None:
    """What verbs a file of commands/ adds, its `work` does."""
    before = set(verbs.choices)
    command.parsers(verbs)
    for verb in verbs.choices.keys() - before:
        verbs.choices[verb].set_defaults(work=command.work)


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


async def _on_database(work: OnDatabase, options: argparse.Namespace, settings: Settings) -> int:
    async with _database(settings) as url:
        await database.migrate(url)
        return await work(options, url, settings, say)


async def _migrate(settings: Settings) -> int:
    async with _database(settings) as url:
        say(json.dumps({"schema": await database.migrate(url, lambda line: print(line, file=sys.stderr))}))
    return 0


async def _postgres(settings: Settings) -> int:
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


def _dispatch(options: argparse.Namespace, settings: Settings) -> int:
    starting: dict[str, Callable[[], Awaitable[int]]] = {
        "serve": lambda: serve(settings, say, options.workers or settings.workers),
        "migrate": lambda: _migrate(settings), "postgres": lambda: _postgres(settings),
        "demo": lambda: demo(settings, say, _address(options.acquirer) if options.acquirer else None, options.once),
    }
    if options.verb in starting:
        return run(starting[options.verb])
    if inspect.iscoroutinefunction(options.work):
        return run(lambda: _on_database(options.work, options, settings))
    answer: int = options.work(options, settings, say)
    return answer


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code; a fault that a person can mend is one line on stderr and 2."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["stub"]:  # becomes the stub: its options, its signals and its exit code
        os.execv(sys.executable, [sys.executable, "-m", "acquirer_stubs", *words[1:]])
    options = None if words[:1] == [WORKER] else _parser().parse_args(words)
    try:
        settings = load()
        logs.configure(None, settings.log_level)
        if failpoints.ARMED:
            logs.error("failpoints_armed", detail="this process is under test and may kill itself", where=os.environ["SWITCH_FAILPOINT"])
        if options is None:  # a child of `serve`: nothing that a person starts
            return run(lambda: work(settings))
        return _dispatch(options, settings)
    except (SettingsError, StartError, PostgresError) as error:
        print(f"switch: {error}", file=sys.stderr)
    except Problem as problem:
        places = "; ".join(f"{fault['field']}: {fault['rule']}" for fault in problem.errors)
        print(f"switch: {problem.detail or PROBLEMS[problem.code].title}" + (f" ({places})" if places else ""), file=sys.stderr)
    return 2

