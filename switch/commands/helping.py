"""The commands `switch article`, `switch announce` and `switch feedback`: help in words; ask a running switch with a key of support,
of an operator, or of who reads."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from switch.commands import files
from switch.commands.inquiries import Question, asking, put, quoted
from switch.errors import StartError
from switch.merchants.support.announcements import ROLES
from switch.merchants.support.feedback import KINDS
from switch.settings import Settings

ARTICLE = """a JSON file: {"topics": ["terminal"], "en": {"title": ..., "text": ...}, "zh": {...}}; `withdrawn` takes it away"""


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    articles = verbs.add_parser("article", help="help articles").add_subparsers(dest="kind", required=True)
    found = asking(articles.add_parser("list", help="by words and topic"))
    found.add_argument("words", nargs="*")
    found.add_argument("--topic", help="a category of tickets, a suggested cause, or a problem code")
    shown = asking(articles.add_parser("show", help="one"))
    written = asking(articles.add_parser("write", help="its next version"))
    written.add_argument("--file", type=Path, required=True, help=ARTICLE)
    for parser in (shown, written):
        parser.add_argument("article", help="such as paper")
    for parser in (found, shown):
        parser.add_argument("--language", choices=("en", "zh"), default="en")
    _announcements(verbs.add_parser("announce", help="announcements").add_subparsers(dest="kind", required=True))
    _feedbacks(verbs.add_parser("feedback", help="what merchants, terminals and applicants think").add_subparsers(dest="kind", required=True))


def _announcements(kinds: Any) -> None:
    made = asking(kinds.add_parser("make", help="to all, to a role or to a merchant"))
    made.add_argument("--file", type=Path, required=True, help="""a JSON file: {"en": {"title": ..., "text": ...}, "zh": {...}}""")
    made.add_argument("--role", choices=ROLES)
    made.add_argument("--merchant", help="mer_...")
    made.add_argument("--from", dest="starts_at", metavar="TIME", help="RFC 3339; now when not given")
    made.add_argument("--until", dest="ends_at", metavar="TIME", required=True, help="RFC 3339")
    asking(kinds.add_parser("list", help="newest first")).add_argument("--language", choices=("en", "zh"), default="en")
    read = asking(kinds.add_parser("read", help="you have read it"))
    withdrawn = asking(kinds.add_parser("withdraw", help="nobody else reads it from now on"))
    withdrawn.add_argument("--reason", required=True)
    for parser in (read, withdrawn):
        parser.add_argument("announcement", help="ann_...")


def _feedbacks(kinds: Any) -> None:
    given = asking(kinds.add_parser("give", help="say what you think"))
    given.add_argument("feedback_kind", choices=KINDS)
    given.add_argument("--about", help="the id of something of yours")
    asking(kinds.add_parser("list", help="newest first")).add_argument("--open", action="store_true", help="what nobody has answered")
    answered = asking(kinds.add_parser("answer", help="once"))
    answered.add_argument("feedback", help="fbk_...")
    for parser in (given, answered):
        parser.add_argument("--text", required=True)


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses; a file cannot be read."""
    return put(_question(options), options, settings, say)


def _file(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise files.unread(path, error) from None
    if not isinstance(found, dict):
        raise StartError(f"{path} must hold one JSON object")
    return found


def _question(options: argparse.Namespace) -> Question:
    match options.verb, options.kind:
        case "article", "list":
            topic = f"&topic={quoted(options.topic)}" if options.topic else ""
            return Question("GET", f"/v1/help-articles?limit=100&language={options.language}&q={quoted(' '.join(options.words))}{topic}", None,
                            lambda body: (f"{each['id']:<24} {each['title']}" for each in body["items"]))
        case "article", "show":
            return Question("GET", f"/v1/help-articles/{quoted(options.article)}?language={options.language}", None, _article)
        case "article", _:
            return Question("PUT", f"/v1/help-articles/{quoted(options.article)}", _file(options.file), _article)
        case "announce", "make":
            given = {name: value for name in ("role", "merchant", "starts_at", "ends_at") if (value := getattr(options, name)) is not None}
            return Question("POST", "/v1/announcements", _file(options.file) | given, _announced)
        case "announce", "list":
            return Question("GET", f"/v1/announcements?limit=200&language={options.language}", None,
                            lambda body: (line for each in body["items"] for line in _announced(each)))
        case "announce", "read":
            return Question("POST", f"/v1/announcements/{quoted(options.announcement)}/read", None, _announced)
        case "announce", _:
            return Question("POST", f"/v1/announcements/{quoted(options.announcement)}/withdrawal", {"reason": options.reason}, _announced)
        case "feedback", "give":
            about = {"about": options.about} if options.about else {}
            return Question("POST", "/v1/feedbacks", {"kind": options.feedback_kind, "text": options.text} | about, _said)
        case "feedback", "list":
            return Question("GET", f"/v1/feedbacks?limit=200{'&answered=false' if options.open else ''}", None,
                            lambda body: (line for each in body["items"] for line in _said(each)))
    return Question("POST", f"/v1/feedbacks/{quoted(options.feedback)}/answer", {"text": options.text}, _said)


def _article(body: Any) -> Iterator[str]:
    yield f"{body['id']}  version {body['version']}  {', '.join(body['topics'])}{'  withdrawn' if body['withdrawn'] else ''}"
    yield body["title"]
    yield body["text"]


def _announced(body: Any) -> Iterator[str]:
    to = body["merchant"] or body["role"] or "all"
    state = "withdrawn" if body["withdrawn_at"] else "in force" if body["in_force"] else "not in force"
    reads = "" if body["reads"] is None else f"  read by {body['reads']}"
    yield f"{body['id']}  to {to}  {body['starts_at']} to {body['ends_at']}  {state}{reads}{'  read' if body['read_at'] else ''}"
    yield f"  {body['title']}: {body['text']}"


def _said(body: Any) -> Iterator[str]:
    yield f"{body['id']}  {body['at']}  {body['kind']:<10} {body['by']}{' about ' + body['about'] if body['about'] else ''}: {body['text']}"
    if body["answer"]:
        yield f"  {body['answered_at']}  {body['answered_by']}: {body['answer']}"
