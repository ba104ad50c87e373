"""The command `switch leave begin | list | show | step`: the end of a merchant; asks a running switch."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from switch.commands.inquiries import Question, asking, put, quoted
from switch.money import text
from switch.settings import Settings

STEPS = ("stop", "return", "settle", "close", "withdraw")


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("leave", help="a merchant that leaves, step by step").add_subparsers(dest="kind", required=True)
    begin = asking(kinds.add_parser("begin", help="notice is given; everything goes on as before"))
    begin.add_argument("merchant", help="mer_...")
    asking(kinds.add_parser("list", help="all, newest first"))
    asking(kinds.add_parser("show", help="one with what is open")).add_argument("leaving", help="lvg_...")
    step = asking(kinds.add_parser("step", help="the next step"))
    step.add_argument("leaving", help="lvg_...")
    step.add_argument("event", choices=STEPS)
    for parser in (begin, step):
        parser.add_argument("--reason", required=True)


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "begin":
            return Question("POST", "/v1/leavings", {"merchant": options.merchant, "reason": options.reason}, _whole)
        case "list":
            return Question("GET", "/v1/leavings?limit=200", None, lambda body: map(_line, body["items"]))
        case "show":
            return Question("GET", f"/v1/leavings/{quoted(options.leaving)}", None, _whole)
    return Question("POST", f"/v1/leavings/{quoted(options.leaving)}/steps", {"event": options.event, "reason": options.reason}, _whole)


def _line(row: Any) -> str:
    return f"{row['id']}  {row['state']:<9} {row['merchant']}  since {row['since']}"


def _whole(body: Any) -> Iterator[str]:
    yield f"{_line(body)}  can: {', '.join(body['can']) or 'nothing'}"
    yield from (f"  open: {each['kind']} {each['count']} of {text(each['amount'], each['currency'])}" for each in body["open"])
    yield from (f"  kept until {each['until']}: {each['what']} ({each['source']})" for each in body["kept"])
    for each in body["events"]:
        yield f"  {each['number']}. {each['at']}  {each['event']} -> {each['state']}  {each['by']}: {each['reason']}"
