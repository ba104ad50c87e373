"""The command line: `switch demo | serve | migrate | postgres | stub | onboard | acquirer | route`, and what the rooms below it add."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from switch import database, failpoints, logs
from switch.api.onboard import shown
from switch.commands import clearings, contests, cutovers, inquiries, inspection, paying, pricing
from switch.demo import demo
from switch.errors import PROBLEMS, Problem, SettingsError, StartError
from switch.ids import read
from switch.merchants import IssuedKey
from switch.merchants.onboarding import Onboarding
from switch.merchants.reversal_terms import ReversalTerms
from switch.parent import serve
from switch.payments.timers import Limits
from switch.postgres import EmbeddedPostgres, PostgresError
from switch.serve import database as database_of
from switch.serve import run, stop_event
from switch.settings import WORKERS_MAX, Settings, load
from switch.worker import COMMAND as WORKER
from switch.worker import work


def say(line: str) -> None:
    print(line, flush=True)


def _milliseconds(seconds: str) -> int:
    try:
        return round(float(seconds) * 1000)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError("it must be a number of seconds, such as 30") from None


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
    _onboarding_parsers(verbs)
    cutovers.parsers(verbs)
    pricing.parsers(verbs)
    contests.parsers(verbs)
    clearings.parsers(verbs)
    paying.parsers(verbs)
    inquiries.parsers(verbs)
    inspection.parsers(verbs)
    return parser


def _onboarding_parsers(verbs: Any) -> None:
    kinds = verbs.add_parser("onboard", help="make an organisation, merchant, store, terminal or key").add_subparsers(dest="kind", required=True)
    organisation = kinds.add_parser("organisation")
    merchant = kinds.add_parser("merchant")
    merchant.add_argument("--organisation", required=True)
    merchant.add_argument("--mcc", required=True)
    merchant.add_argument("--duplicate-policy", default="warn", choices=("warn", "refuse"))
    store = kinds.add_parser("store")
    store.add_argument("--merchant", required=True)
    store.add_argument("--city", default="")
    store.add_argument("--country", default="CN")
    merchant.add_argument("--time-zone", default="Asia/Shanghai")
    store.add_argument("--time-zone", help="default: the merchant's")
    terminal = kinds.add_parser("terminal")
    terminal.add_argument("--store", required=True)
    for part in (organisation, merchant, store, terminal):
        part.add_argument("--name", required=True)
    owner = kinds.add_parser("key").add_mutually_exclusive_group(required=True)
    owner.add_argument("--terminal")
    owner.add_argument("--merchant")
    owner.add_argument("--operator", metavar="PERSON")
    acquirers = verbs.add_parser("acquirer", help="acquirers").add_subparsers(dest="kind", required=True)
    added, changed = acquirers.add_parser("add"), acquirers.add_parser("change", help="what is given changes, on every worker")
    added.add_argument("name")
    added.add_argument("--dialect", default="iso87_ascii")
    added.add_argument("--host", required=True)
    added.add_argument("--port", required=True, type=int)
    added.add_argument("--message-mode", default="single", choices=("single", "dual"))
    added.add_argument("--answer-timeout", type=_milliseconds, default=30_000, metavar="SECONDS")
    changed.add_argument("name")
    changed.add_argument("--host")
    changed.add_argument("--port", type=int)
    changed.add_argument("--status", choices=("active", "down", "draining"))
    changed.add_argument("--answer-timeout", type=_milliseconds, metavar="SECONDS")
    for parser in (added, changed):
        _terms(parser)
    route = verbs.add_parser("route", help="routes").add_subparsers(dest="kind", required=True).add_parser("add")
    route.add_argument("--acquirer", required=True, metavar="NAME")
    route.add_argument("--merchant")
    route.add_argument("--brand")
    route.add_argument("--priority", type=int, default=100)


def _terms(parser: argparse.ArgumentParser) -> None:
    """How reversals go to the acquirer; what is not said is the default, or stays."""
    parser.add_argument("--reversal-codes", type=_codes, metavar="CODE=MEANING,...",
                        help="over the dialect's: acknowledged, not_found, retry or park, such as 21=acknowledged; '' for none")
    parser.add_argument("--reversal-max-age", dest="reversal_max_age_s", type=int, metavar="SECONDS")
    parser.add_argument("--reversals-per-second", type=int, metavar="N", help="of one worker")
    parser.add_argument("--reversals-at-once", type=int, metavar="N", help="of one worker")
    parser.add_argument("--reversal-first", action=argparse.BooleanOptionalAction, help="a terminal's reversal before its next sale")


def _codes(text: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in text.split(",") if pair)
    return {code: meaning for code, _, meaning in pairs}


def _terms_of(options: argparse.Namespace) -> ReversalTerms:
    return {"reversal_codes": options.reversal_codes, "reversal_max_age_s": options.reversal_max_age_s,
            "reversals_per_second": options.reversals_per_second, "reversals_at_once": options.reversals_at_once,
            "reversal_first": options.reversal_first}


def _id(kind: str, text: str) -> Any:
    found = read(kind, text)
    if found is None:
        raise Problem("not_found", f"{text[:60]} is not the id of a {kind}")
    return found


async def _onboard(options: argparse.Namespace, onboarding: Onboarding) -> Any:
    match options.verb, options.kind:
        case "onboard", "organisation":
            return await onboarding.organisation(options.name)
        case "onboard", "merchant":
            return await onboarding.merchant(_id("organisation", options.organisation), options.name, options.mcc, options.time_zone,
                                             options.duplicate_policy)
        case "onboard", "store":
            return await onboarding.store(_id("merchant", options.merchant), options.name, options.city, options.country, options.time_zone)
        case "onboard", "terminal":
            return await onboarding.terminal(_id("store", options.store), options.name)
        case "onboard", "key":
            return await onboarding.key(
                "terminal" if options.terminal else "merchant" if options.merchant else "operator",
                terminal_id=_id("terminal", options.terminal) if options.terminal else None,
                merchant_id=_id("merchant", options.merchant) if options.merchant else None, person=options.operator)
        case "acquirer", "change":
            known = await onboarding.acquirer_named(options.name)
            return await onboarding.change_acquirer(known.acquirer_id, status=options.status, host=options.host, port=options.port,
                                                    answer_timeout_ms=options.answer_timeout, **_terms_of(options))
        case "acquirer", _:
            await onboarding.install_bins()
            return await onboarding.acquirer(options.name, options.dialect, options.host, options.port, message_mode=options.message_mode,
                                             answer_timeout_ms=options.answer_timeout, **_terms_of(options))
        case _:
            return await onboarding.route(options.acquirer, merchant_id=_id("merchant", options.merchant) if options.merchant else None,
                                          brand=options.brand, priority=options.priority)


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


async def _write_directory(options: argparse.Namespace, settings: Settings) -> int:
    async with _database(settings) as url:
        await database.migrate(url)
        pool = await database.pool(url, "switch_writer", 2)
        try:
            made = await _onboard(options, Onboarding(pool, Limits(settings.commit_budget_s, settings.http_deadline_s)))
        finally:
            await pool.close()
        say(json.dumps({**shown(made.key), "key": made.text} if isinstance(made, IssuedKey) else shown(made)))
    return 0


async def _on_database(work: Callable[[argparse.Namespace, str, Callable[[str], None]], Awaitable[int]], options: argparse.Namespace,
                       settings: Settings) -> int:
    async with _database(settings) as url:
        await database.migrate(url)
        return await work(options, url, say)


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
    commands: dict[str, Callable[[], Awaitable[int]]] = {
        "serve": lambda: serve(settings, say, options.workers or settings.workers),
        "migrate": lambda: _migrate(settings), "postgres": lambda: _postgres(settings),
        "cutover": lambda: _on_database(cutovers.work, options, settings),
        "clearing": lambda: _on_database(clearings.work, options, settings),
        "payouts": lambda: _on_database(paying.work, options, settings),
        "demo": lambda: demo(settings, say, _address(options.acquirer) if options.acquirer else None, options.once),
        **{verb: lambda: _write_directory(options, settings) for verb in ("onboard", "acquirer", "route")},
    }
    if options.verb in commands:
        return run(commands[options.verb])
    if options.verb in ("tariff", "fees"):
        return pricing.work(options, settings, say)
    if options.verb == "disputes":
        return contests.work(options, settings, say)
    if options.verb in ("dialect", "message"):
        return inspection.look(options, say)
    return inquiries.ask(options, settings, say)


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code; a fault that a person can mend is one line on stderr and 2."""
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["stub"]:  # becomes the stub: its options, its signals and its exit code
        os.execv(sys.executable, [sys.executable, "-m", "acquirer_stubs", *words[1:]])
    options = None if words[:1] == [WORKER] else _parser().parse_args(words)
    try:
        settings = load()
        logs.configure(sys.stderr, settings.log_level)
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

