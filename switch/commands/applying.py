"""The command `switch applications begin | list | queue | show | missing | score | submit | withdraw | take | judge | decide | key`: asks a running
switch with an operator's key, or `show`, `missing`, `submit` and `withdraw` with the applicant's own.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from switch.commands.files import unread
from switch.commands.inquiries import Question, asking, put, quoted
from switch.errors import Problem
from switch.settings import Settings

FILE_MAX = 64 << 10


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("applications", help="merchants who apply: begin, follow, review, decide").add_subparsers(dest="kind", required=True)
    begun = asking(kinds.add_parser("begin", help="a draft, and the applicant's key, shown once"))
    begun.add_argument("path", type=Path, help="JSON with entity_type, country and profile, as POST /v1/applications takes it")
    listed = asking(kinds.add_parser("list", help="all, newest first"))
    listed.add_argument("--state", help="such as in_review")
    queue = asking(kinds.add_parser("queue", help="what waits, the most urgent first"))
    queue.add_argument("--waits-for", choices=("applicant", "reviewer"), default="reviewer")
    queue.add_argument("--overdue", action="store_true", help="only those whose time is over")
    for kind, text in (("show", "one with its documents and history"), ("missing", "what is missing, wrong or expired"),
                       ("score", "the score with every reason"), ("submit", "hand it in"), ("key", "a new key for the applicant, shown once")):
        asking(kinds.add_parser(kind, help=text)).add_argument("application", help="apl_...")
    for kind, text in (("take", "review it"), ("withdraw", "take it back for good")):
        parser = asking(kinds.add_parser(kind, help=text))
        parser.add_argument("application", help="apl_...")
        parser.add_argument("--reason", required=True)
        if kind == "take":
            parser.add_argument("--over", action="store_true", help="from a colleague who has it")
    judge = asking(kinds.add_parser("judge", help="what you found of a document"))
    judge.add_argument("application", help="apl_...")
    judge.add_argument("document", help="doc_...")
    judge.add_argument("verdict", choices=("accepted", "refused"))
    judge.add_argument("--reason", required=True)
    decide = asking(kinds.add_parser("decide", help="approve, refuse, or ask for more"))
    decide.add_argument("application", help="apl_...")
    decide.add_argument("decision", choices=("approve", "refuse", "ask_more"))
    decide.add_argument("--version", required=True, type=int, help="that you looked at")
    decide.add_argument("--reason", required=True)


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "begin":
            return Question("POST", "/v1/applications", _document(options.path), _begun)
        case "list":
            return Question("GET", f"/v1/applications?limit=200{f'&state={quoted(options.state)}' if options.state else ''}", None, _listed)
        case "queue":
            return Question("GET", f"/v1/reviews?limit=200&waits_for={options.waits_for}{'&overdue=true' if options.overdue else ''}", None, _listed)
    path = f"/v1/applications/{quoted(options.application)}"
    match options.kind:
        case "show":
            return Question("GET", path, None, _whole)
        case "missing":
            return Question("GET", f"{path}/missing", None, _missing)
        case "score":
            return Question("GET", f"{path}/score", None, _score)
        case "submit":
            return Question("POST", f"{path}/submit", {}, _whole)
        case "key":
            return Question("POST", f"{path}/keys", {}, lambda body: iter([body["key"]]))
        case "take":
            return Question("POST", f"{path}/take", {"reason": options.reason, "take_over": options.over}, _whole)
        case "withdraw":
            return Question("POST", f"{path}/withdraw", {"reason": options.reason}, _whole)
        case "judge":
            return Question("POST", f"{path}/documents/{quoted(options.document)}/verdicts", {"verdict": options.verdict, "reason": options.reason},
                            _whole)
    return Question("POST", f"{path}/decisions", {"decision": options.decision, "version": options.version, "reason": options.reason}, _decided)


def _document(path: Path) -> dict[str, Any]:
    """Raises StartError, Problem invalid."""
    try:
        with path.open("rb") as file:
            found = json.loads(file.read(FILE_MAX))
    except OSError as error:
        raise unread(path, error) from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Problem("invalid", f"{path} is no JSON object of at most {FILE_MAX >> 10} kB.")
    return found


def _line(row: Any) -> str:
    due = f"  {row['waits_for']} until {row['due_at']}" if row["due_at"] else ""
    who = f"  with {row['reviewer']}" if row["reviewer"] else ""
    made = f"  {row['merchant']}" if row["merchant"] else ""
    return f"{row['id']}  {row['state']:<11} version {row['version']}  {row['entity_type']} {row['country']}{due}{who}{made}"


def _listed(body: Any) -> Iterator[str]:
    return (_line(item) for item in body["items"])


def _whole(body: Any) -> Iterator[str]:
    yield _line(body)
    for document in body["documents"]:
        yield (f"  {document['id']}  {document['kind']} version {document['version']}  {document['file'] or 'no file'}  "
               f"{document['verdict'] or 'not looked at'}")
    yield from (f"  {line}" for line in _missing({"items": body["missing"]}))
    for event in body["events"]:
        yield f"  {event['at']}  {event['event']:<9} {event['state']:<11} by {event['by']}{': ' + event['reason'] if event['reason'] else ''}"


def _missing(body: Any) -> Iterator[str]:
    return (f"{gap['kind']}  {gap['what']}: {gap['what_to_do']}" for gap in body["items"])


def _begun(body: Any) -> Iterator[str]:
    yield from _whole(body)
    yield f"key {body['key']}"


def _score(body: Any) -> Iterator[str]:
    yield f"{body['application']}  version {body['version']}  score {body['score']}"
    for reason in body["reasons"]:
        yield f"  {reason['points']:+}  {reason['rule']}: {reason['words']}"
    for words in body["two_people"]:
        yield f"  two people: {words}"


def _decided(body: Any) -> Iterator[str]:
    """Done, or it waits for a second person."""
    return _whole(body) if "events" in body else iter([f"{body['id']}  {body['state']}: a second person must approve it"])
