"""The command `switch route add | list | activate | retire | explain | try`: the first writes to the database, the others ask a running switch."""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import date
from typing import Any

from switch import database
from switch.api.onboard import shown
from switch.commands.inquiries import Question, asking, put, quoted
from switch.errors import Problem
from switch.ids import read
from switch.merchants.onboarding import Onboarding
from switch.merchants.routes import ENTRY_MODES, Conditions
from switch.money import text
from switch.settings import Settings

CONDITIONS = tuple(Conditions.__annotations__)
_LISTS = {"currencies": str, "mccs": str, "entry_modes": str, "weekdays": int}


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("route", help="which acquirer a sale goes to: rules, why, and what others would do").add_subparsers(
        dest="kind", required=True)
    added = kinds.add_parser("add", help="a rule; in force at once unless --draft")
    added.set_defaults(work=add)  # the others ask a running switch
    _adding(added)
    listed = asking(kinds.add_parser("list", help="all rules, newest first"))
    listed.add_argument("--state", choices=("draft", "active", "retired"))
    listed.add_argument("--after", metavar="ROUTE", help="those before rte_...")
    on = asking(kinds.add_parser("activate", help="switch a draft on"))
    on.add_argument("route", help="rte_...")
    on.add_argument("--retires", action="append", default=[], metavar="ROUTE", help="rte_... whose place it takes; may be repeated")
    asking(kinds.add_parser("retire", help="switch a rule off for good")).add_argument("route", help="rte_...")
    asked = asking(kinds.add_parser("explain", help="why a transaction went where it went, or a sale would"))
    asked.add_argument("transaction", nargs="?", help="txn_... in the books; else say a sale by the options")
    asked.add_argument("--terminal", help="trm_...")
    asked.add_argument("--bin", metavar="DIGITS", help="the first 6 to 12 digits of the card")
    asked.add_argument("--amount", type=int, metavar="MINOR_UNITS")
    asked.add_argument("--currency")
    asked.add_argument("--entry-mode", default="chip", choices=ENTRY_MODES)
    asked.add_argument("--at", help="RFC 3339; default: now")
    tried = asking(kinds.add_parser("try", help="where the sales of a period would go by other rules; nothing is written"))
    tried.add_argument("--activate", action="append", default=[], metavar="ROUTE", help="rte_... of a draft; may be repeated")
    tried.add_argument("--retire", action="append", default=[], metavar="ROUTE", help="rte_... of a rule in force; may be repeated")
    tried.add_argument("--from", dest="since", required=True, metavar="TIME", help="RFC 3339")
    tried.add_argument("--to", dest="until", required=True, metavar="TIME", help="RFC 3339")
    tried.add_argument("--merchant", help="mer_...; default: all")
    tried.add_argument("--limit", type=int, metavar="SALES")


def _adding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--acquirer", required=True, metavar="NAME")
    parser.add_argument("--merchant")
    parser.add_argument("--brand")
    parser.add_argument("--priority", type=int, default=100, help="the lowest is tried first")
    parser.add_argument("--name", help="what people call it")
    parser.add_argument("--bin-low", metavar="DIGITS", help="card numbers from, 4 to 12 digits")
    parser.add_argument("--bin-high", metavar="DIGITS", help="card numbers to, as many digits")
    parser.add_argument("--amount-min", type=int, metavar="MINOR_UNITS")
    parser.add_argument("--amount-max", type=int, metavar="MINOR_UNITS")
    parser.add_argument("--currencies", metavar="CNY,...")
    parser.add_argument("--mccs", metavar="5812,...")
    parser.add_argument("--entry-modes", metavar="chip,...")
    parser.add_argument("--weekdays", metavar="1,...", help="1 is Monday")
    parser.add_argument("--time-from", metavar="HH:MM", help="where the merchant is")
    parser.add_argument("--time-until", metavar="HH:MM")
    parser.add_argument("--weight", type=int, help="its part of what fits it and others of its rank")
    parser.add_argument("--cost-basis-points", type=int, metavar="N", help="without weights the cheaper one of a rank goes first")
    parser.add_argument("--cost-fixed", type=int, metavar="MINOR_UNITS")
    parser.add_argument("--healthy-percent", type=int, metavar="N", help="under so many requests answered it stands behind all others")
    parser.add_argument("--stores", metavar="STORE,...", help="sto_... of the merchant")
    parser.add_argument("--date-from", metavar="YYYY-MM-DD", help="the first day, where the merchant is")
    parser.add_argument("--date-until", metavar="YYYY-MM-DD", help="the first day on which it does not hold any more")
    parser.add_argument("--draft", action="store_true", help="not in force until it is activated")
    parser.add_argument("--by", default="command line", metavar="PERSON")


async def add(options: argparse.Namespace, url: str, settings: Settings, say: Callable[[str], None]) -> int:
    """On the database itself; tells the rule. Raises Problem."""
    merchant_id = None if options.merchant is None else read("merchant", options.merchant)
    if options.merchant is not None and merchant_id is None:
        raise Problem("not_found", f"{options.merchant[:60]} is not the id of a merchant")
    pool = await database.pool(url, "switch_writer", 2)
    try:
        made = await Onboarding(pool).route(options.acquirer, merchant_id, options.brand, options.priority, **_said(options))
    finally:
        await pool.close()
    say(json.dumps(shown(made)))
    return 0


def _said(options: argparse.Namespace) -> dict[str, Any]:
    """What is said of a rule. A part of a list that is no number stays a text, which the check then names."""
    said = {name: getattr(options, name) for name in CONDITIONS}
    for name, kind in _LISTS.items():
        if said[name] is not None:
            said[name] = [int(part) if kind is int and part.isdecimal() else part for part in said[name].split(",")]
    if said["stores"] is not None:
        said["stores"] = [read("store", part) or part for part in said["stores"].split(",")]
    for end in ("date_from", "date_until"):
        with suppress(ValueError):  # stays a text, as above
            said[end] = said[end] and date.fromisoformat(said[end])
    return {**said, "state": "draft" if options.draft else "active", "by": options.by}


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """All but `add`. Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "list":
            after = f"&after={quoted(options.after)}" if options.after else ""
            return Question("GET", f"/v1/routes?limit=200{after}", None, lambda body: _listed(body, options.state))
        case "activate":
            return Question("POST", f"/v1/routes/{quoted(options.route)}/activate", {"retires": options.retires}, lambda body: iter([_rule(body)]))
        case "retire":
            return Question("POST", f"/v1/routes/{quoted(options.route)}/retire", {}, lambda body: iter([_rule(body)]))
        case "explain" if options.transaction:
            return Question("GET", f"/v1/routes/explain?transaction={quoted(options.transaction)}", None, _explained)
        case "explain":
            sale = {name: getattr(options, name) for name in ("terminal", "bin", "amount", "currency", "entry_mode", "at")}
            return Question("POST", "/v1/routes/explain", {name: value for name, value in sale.items() if value is not None}, _explained)
    more = {name: getattr(options, name) for name in ("merchant", "limit") if getattr(options, name) is not None}
    return Question("POST", "/v1/routes/try", {"activate": options.activate, "retire": options.retire, "from": options.since, "to": options.until,
                                               **more}, _tried)


def _listed(body: Any, state: str | None) -> Iterator[str]:
    yield from (_rule(item) for item in body["items"] if state in (None, item["state"]))


def _rule(row: Any) -> str:
    steps = ("created", "activated", "retired")
    apart = {"id", "acquirer", "priority", "state", "name", *(f"{step}_{what}" for step in steps for what in ("by", "at"))}
    for_ = ", ".join(f"{name} {','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in row.items()
                     if name not in apart and value is not None) or "any sale"
    by = "".join(f"  {step} by {row[f'{step}_by']} at {row[f'{step}_at']}" for step in steps if row[f"{step}_by"])
    return f"{row['id']}  {row['state']:<7} priority {row['priority']}  to {row['acquirer']}  {row['name'] or ''}  for {for_}{by}"


def _explained(body: Any) -> Iterator[str]:
    sale = body["sale"]
    yield (f"{sale['transaction']}  {text(sale['amount'], sale['currency'])} {sale['entry_mode']} on {sale['bin']}... ({sale['brand']})  "
           f"MCC {sale['mcc']}  {sale['at']}  {sale['terminal']}")
    for each in body["alternatives"]:
        seen = "" if each["line"] is None else f"  line {each['line']}, answered {each['answered']} of {each['asked']}"
        yield f"{each['place']}. {each['name']}  by {each['route']} {each['route_name'] or ''}{seen}  {each['acquirer']}"
        yield from (f"     {why}" for why in each["why"])
    if not body["alternatives"]:
        yield "no rule leads anywhere"
    for each in body["others"]:
        yield f"-  {each['route']} {each['name'] or ''} priority {each['priority']}: {'; '.join(each['why_not'])}  {each['acquirer']}"
    if body["recorded"]:
        recorded = body["recorded"]
        yield (f"recorded: attempt {recorded['attempt']} at {recorded['acquirer']}, {recorded['status']}; the first attempt went "
               f"{'as the rules of then say' if recorded['as_explained'] else 'elsewhere: a line was down, full or not well'}")


def _tried(body: Any) -> Iterator[str]:
    yield (f"{body['looked_at']} sales{'' if body['whole'] else ' (the newest of more)'}: {body['moved']} would move, "
           f"{_percent(body['moved_basis_points'])}")
    for title in ("recorded", "before", "after"):
        for each in body[title]:
            yield f"  {title:<8} {each['sales']:>7} {_percent(each['share_basis_points']):>8}  {each['name'] or 'nowhere'}  {each['acquirer'] or ''}"
    for each in body["fired"]:
        yield f"  fired    {each['sales']:>7}           {each['route']} {each['name'] or ''}"
    for each in body["examples"]:
        yield (f"  {each['transaction']}  {text(each['amount'], each['currency'])} {each['brand']}: {each['before'] or 'nowhere'} -> "
               f"{each['after'] or 'nowhere'}  by {each['route'] or 'no rule'}")


def _percent(basis_points: int) -> str:
    return f"{basis_points // 100}.{basis_points % 100:02d} %"
