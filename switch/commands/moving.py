"""The command `switch move plan | list | show | owed | share | step`: a merchant's change of acquirer; asks a running switch."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from switch import money
from switch.commands.inquiries import Question, acquirer_id, asking, put, quoted
from switch.settings import Settings

STEPS = ("register", "complete", "finish", "roll_back", "cancel")


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("move", help="a merchant's sales to another acquirer, and back").add_subparsers(dest="kind", required=True)
    plan = asking(kinds.add_parser("plan", help="a change; nothing moves yet"))
    plan.add_argument("merchant", help="mer_...")
    plan.add_argument("--from", dest="old", required=True, metavar="ACQUIRER", help="that is left: name or acq_...")
    plan.add_argument("--to", dest="new", required=True, metavar="ACQUIRER", help="name or acq_...")
    plan.add_argument("--for", dest="day", metavar="YYYY-MM-DD", help="the day that was agreed")
    listed = asking(kinds.add_parser("list", help="all, newest first"))
    listed.add_argument("--state")
    for kind, text in (("show", "one with its steps"), ("owed", "what is open at the acquirer that is left")):
        asking(kinds.add_parser(kind, help=text)).add_argument("move", help="mov_...")
    share = asking(kinds.add_parser("share", help="so much goes to the new acquirer, within a second"))
    share.add_argument("move", help="mov_...")
    share.add_argument("percent", type=int, metavar="PERCENT")
    share.add_argument("--store", action="append", metavar="STORE", help="sto_...; may be repeated; default: all")
    share.add_argument("--from-day", metavar="YYYY-MM-DD", help="where the merchant is; default: at once")
    step = asking(kinds.add_parser("step", help="the next step; roll_back gives everything back"))
    step.add_argument("move", help="mov_...")
    step.add_argument("event", choices=STEPS)
    for parser in (plan, share, step):
        parser.add_argument("--reason", required=True)


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    if options.kind == "plan":
        options.old, options.new = (acquirer_id(each, options, settings) for each in (options.old, options.new))
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "plan":
            body = {"merchant": options.merchant, "from_acquirer": options.old, "to_acquirer": options.new, "reason": options.reason}
            return Question("POST", "/v1/moves", body | ({"planned_for": options.day} if options.day else {}), _whole)
        case "list":
            return Question("GET", f"/v1/moves?limit=200{f'&state={quoted(options.state)}' if options.state else ''}", None,
                            lambda body: map(_line, body["items"]))
    path = f"/v1/moves/{quoted(options.move)}"
    match options.kind:
        case "show":
            return Question("GET", path, None, _whole)
        case "owed":
            return Question("GET", f"{path}/obligations", None, _owed)
        case "share":
            more = {"stores": options.store, "date_from": options.from_day}
            said = {name: value for name, value in more.items() if value is not None}
            return Question("POST", f"{path}/steps", {"event": "share", "percent": options.percent, "reason": options.reason, **said}, _whole)
    return Question("POST", f"{path}/steps", {"event": options.event, "reason": options.reason}, _whole)


def _line(row: Any) -> str:
    return f"{row['id']}  {row['state']:<11} {row['merchant']}  {row['from_acquirer']} -> {row['to_acquirer']}  since {row['since']}"


def _share(share: Any) -> str:
    if share is None:
        return ""
    return f"  {share['percent']} % of {'all stores' if share['stores'] is None else ', '.join(share['stores'])}" + (
        f" from {share['date_from']} on" if share["date_from"] else "")


def _whole(body: Any) -> Iterator[str]:
    yield f"{_line(body)}{_share(body['share'])}  can: {', '.join(body['can']) or 'nothing'}"
    yield from (f"  no number at the new acquirer: {each}" for each in body["missing_numbers"])
    for each in body["events"]:
        yield f"  {each['number']}. {each['at']}  {each['event']} -> {each['state']}{_share(each['share'])}  {each['by']}: {each['reason']}"


def _owed(body: Any) -> Iterator[str]:
    for each in body["open"]:
        yield f"{each['kind']:<18} {each['count']:>6}  {money.text(each['amount'], each['currency']):>18}  {each['what']}"
    yield from (f"contract: {each}" for each in body["contract"])
    if not body["open"]:
        yield "nothing is open"
