"""The command `switch contracts list | show | draw-up | revise | offer | withdraw | end | sign`: asks a running switch with an operator's
key, or `list`, `show`, `sign` and `end` with the merchant's own.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from switch.commands.files import unread
from switch.commands.inquiries import Question, asking, put, quoted
from switch.errors import StartError
from switch.settings import Settings

FILE_MAX = 64 << 10


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("contracts", help="contracts of merchants: draw up, offer, sign, end").add_subparsers(dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="newest first"))
    listed.add_argument("--merchant", help="mer_...")
    listed.add_argument("--state", help="such as in_force")
    asking(kinds.add_parser("show", help="one with its documents, signatures and history")).add_argument("contract", help="con_...")
    drawn = asking(kinds.add_parser("draw-up", help="a draft; it amends the contract in force"))
    drawn.add_argument("merchant", help="mer_...")
    drawn.add_argument("path", type=Path, help="JSON with the terms, as in docs/contracts.md")
    revised = asking(kinds.add_parser("revise", help="a new document, to be offered and signed anew"))
    revised.add_argument("contract", help="con_...")
    revised.add_argument("path", type=Path)
    offered = asking(kinds.add_parser("offer", help="to the merchant"))
    offered.add_argument("contract", help="con_...")
    offered.add_argument("--version", required=True, type=int, help="that you looked at")
    withdrawn = asking(kinds.add_parser("withdraw", help="take it back before it is in force"))
    withdrawn.add_argument("contract", help="con_...")
    ended = asking(kinds.add_parser("end", help="give notice; without --last-day it ends at once"))
    ended.add_argument("contract", help="con_...")
    ended.add_argument("--last-day", metavar="DATE")
    for parser in (revised, offered, withdrawn, ended):
        parser.add_argument("--reason", required=True)
    signed = asking(kinds.add_parser("sign", help="the newest document, by its hash"))
    signed.add_argument("contract", help="con_...")
    signed.add_argument("path", type=Path, help="the hand's signature, a PNG")
    signed.add_argument("--sha256", required=True, help="of the document that you have read")
    signed.add_argument("--name", required=True, help="of who signs")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: a file cannot be read, or the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "list":
            asked = {"merchant": options.merchant, "state": options.state}
            query = "&".join(["limit=200", *(f"{name}={quoted(value)}" for name, value in asked.items() if value)])
            return Question("GET", f"/v1/contracts?{query}", None, lambda body: (_line(row) for row in body["items"]))
        case "draw-up":
            return Question("POST", f"/v1/merchants/{quoted(options.merchant)}/contracts", {"terms": _terms(options.path)}, _whole)
    path = f"/v1/contracts/{quoted(options.contract)}"
    match options.kind:
        case "show":
            return Question("GET", path, None, _whole)
        case "revise":
            return Question("PUT", f"{path}/terms", {"terms": _terms(options.path), "reason": options.reason}, _whole)
        case "offer":
            return Question("POST", f"{path}/offer", {"version": options.version, "reason": options.reason}, _offered)
        case "withdraw":
            return Question("POST", f"{path}/withdraw", {"reason": options.reason}, _whole)
        case "end":
            more = {"last_day": options.last_day} if options.last_day else {}
            return Question("POST", f"{path}/end", {"reason": options.reason, **more}, _whole)
    if options.path.suffix != ".png":
        raise StartError(f"{options.path} is no signature: a hand's signature is a PNG, in a file whose name ends in .png")
    return Question("POST", f"{path}/signature?sha256={quoted(options.sha256)}&name={quoted(options.name)}", options.path, _whole)


def _terms(path: Path) -> dict[str, Any]:
    """Raises StartError."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(FILE_MAX))
    except OSError as error:
        raise unread(path, error) from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise StartError(f"the file is no JSON object of at most {FILE_MAX >> 10} kB")
    return found


def _line(row: Any) -> str:
    waits = f"  waits for {row['waits_for']}" if row["waits_for"] else ""
    until = f"  until {row['until']}" if row["until"] else ""
    return f"{row['id']}  {row['state']:<18} {row['merchant']} number {row['number']}  version {row['version']}{waits}{until}"


def _whole(body: Any) -> Iterator[str]:
    yield _line(body)
    for document in body["documents"]:
        yield f"  document {document['number']}  {document['sha256']}"
    for each in body["signatures"]:
        yield f"  document {each['document']} signed for the {each['side']} by {each['name']} at {each['at']}"
    for event in body["events"]:
        yield f"  {event['at']}  {event['event']:<11} {event['state']:<18} by {event['by']}{': ' + event['reason'] if event['reason'] else ''}"


def _offered(body: Any) -> Iterator[str]:
    """Done, or it waits for a second person."""
    if "events" in body:
        yield from _whole(body)
        return
    yield f"{body['id']}  {body['state']}: a second person must approve it"
    yield from (f"  {words}" for words in body["payload"]["below_standard"])
