"""The commands that arrange an acquirer's lines and breakers on the database itself: a running switch follows within a second."""

import argparse
import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

from switch import database
from switch.api.answers import stamp
from switch.errors import Problem
from switch.ids import read, show
from switch.merchants.lines import SECURING, Breaker, Line, add_line, breaker_of, change_line, lines_of, set_breaker
from switch.merchants.onboarding import Onboarding
from switch.settings import Settings


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    kinds = verbs.add_parser("line", help="further lines of an acquirer: list, add, change").add_subparsers(dest="kind", required=True)
    listed = kinds.add_parser("list", help="all of an acquirer, also the first, as JSON")
    added = kinds.add_parser("add", help="one more, beside those there are or behind them")
    changed = kinds.add_parser("change", help="what is given changes, on every worker")
    for parser in (listed, added, changed):
        parser.add_argument("acquirer", metavar="NAME", help="of the acquirer")
    changed.add_argument("line", help="lin_...")
    changed.add_argument("--status", choices=("active", "down", "retired"), help="retired is its end")
    for parser, must in ((added, True), (changed, False)):
        parser.add_argument("--host", required=must)
        parser.add_argument("--port", type=int, required=must)
        parser.add_argument("--priority", type=int, help="the lowest that is well carries; default 0")
        parser.add_argument("--connections", type=int, metavar="N", help="at once, of each worker; default 1")
        parser.add_argument("--tls-server-name", dest="server_name", metavar="NAME",
                            help="speak TLS: what the host's certificate must be for; '' for none")
        parser.add_argument("--tls-ca", dest="ca_file", metavar="FILE", help="who may have signed it; default: who the machine trusts")
        parser.add_argument("--tls-cert", dest="certificate_file", metavar="FILE", help="our own certificate, if the host wants one")
        parser.add_argument("--tls-key", dest="key_file", metavar="FILE", help="its key")
    kinds = verbs.add_parser("breaker", help="when an acquirer's lines stop taking new payments").add_subparsers(dest="kind", required=True)
    kinds.add_parser("show", help="when it opens and closes").add_argument("acquirer", metavar="NAME")
    arranged = kinds.add_parser("set", help="when it opens and closes from now on, on every worker")
    arranged.add_argument("acquirer", metavar="NAME")
    arranged.add_argument("--faults", type=int, required=True, help="timeouts and outage codes that open it; 0 for no breaker")
    arranged.add_argument("--percent", type=int, default=50, help="of all that ended in the window; default 50")
    arranged.add_argument("--window-ms", type=int, default=10_000, help="what is looked back on; default 10000")
    arranged.add_argument("--pause-ms", type=int, default=5_000, help="before it is probed with echoes; default 5000")
    arranged.add_argument("--probes", type=int, default=3, help="echoes in a row that close it; default 3")
    arranged.add_argument("--codes", type=lambda text: tuple(text.split(",")), metavar="CODE,...", help="default: the dialect's")


def _shown(line: Line) -> str:
    return json.dumps({"id": show("line", line.line_id), "acquirer": show("acquirer", line.acquirer_id), "host": line.host, "port": line.port,
                       "priority": line.priority, "connections": line.connections, "status": line.status, "first": line.first,
                       **{name: getattr(line, name) for name in SECURING}, "created_at": stamp(line.created_at)})


async def work(options: argparse.Namespace, url: str, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises Problem: not_found, invalid, conflict, already_exists, not_ready."""
    pool = await database.pool(url, "switch_writer", 1)
    try:
        acquirer_id = (await Onboarding(pool).acquirer_named(options.acquirer)).acquirer_id
        given = {name: getattr(options, name, None) for name in ("host", "port", "priority", "connections", *SECURING)}
        match options.verb, options.kind:
            case "line", "list":
                for line in await lines_of(pool, acquirer_id):
                    say(_shown(line))
            case "line", "add":
                say(_shown(await add_line(pool, acquirer_id, **{name: value for name, value in given.items() if value is not None})))
            case "line", _:
                say(_shown(await change_line(pool, acquirer_id, _line_id(options.line), status=options.status, **given)))
            case "breaker", "show":
                _tell(await breaker_of(pool, acquirer_id), say)
            case _:
                wanted = Breaker(options.faults, options.percent, options.window_ms, options.pause_ms, options.probes, options.codes)
                _tell(await set_breaker(pool, acquirer_id, wanted), say)
    finally:
        await pool.close()
    return 0


def _tell(breaker: Breaker, say: Callable[[str], None]) -> None:
    codes = ", ".join(breaker.codes) if breaker.codes else "those of the dialect"
    say(f"opens at {breaker.faults} faults that are {breaker.percent} % of what ended within {breaker.window_ms} ms; codes: {codes}; closes after "
        f"{breaker.pause_ms} ms by {breaker.probes} echoes" if breaker.faults else "there is no breaker")


def _line_id(text: str) -> UUID:
    found = read("line", text)
    if found is None:
        raise Problem("not_found", f"{text[:60]} is not the id of a line")
    return found
