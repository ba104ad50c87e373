"""The command `switch ticket list | queue | show | transaction | causes | open | step | say | rate`: asks a running switch with a key of support,
of an operator, or of the merchant."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from switch.commands.inquiries import Question, asking, put, quoted
from switch.merchants.support.articles import CATEGORIES
from switch.merchants.support.life import LIFE, SEVERITIES
from switch.money import text
from switch.settings import Settings


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("ticket", help="what does not work in shops: tickets, their causes and steps").add_subparsers(dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="tickets, newest first"))
    listed.add_argument("--state", choices=LIFE.states)
    asking(kinds.add_parser("queue", help="what is to be done, the most urgent first")).add_argument("--assignee", help="only this person's")
    asking(kinds.add_parser("show", help="one with what was done and said")).add_argument("ticket", help="tkt_...")
    asking(kinds.add_parser("transaction", help="the one that it is about, as it stands now")).add_argument("ticket", help="tkt_...")
    asking(kinds.add_parser("causes", help="what may be wrong, from the switch's records")).add_argument("ticket", help="tkt_...")
    opened = asking(kinds.add_parser("open", help="say what does not work"))
    opened.add_argument("subject")
    for name in ("merchant", "store", "terminal", "transaction"):
        opened.add_argument(f"--{name}", help="what it is about")
    opened.add_argument("--category", choices=CATEGORIES, default="other")
    opened.add_argument("--severity", choices=SEVERITIES, default="normal")
    step = asking(kinds.add_parser("step", help="the next step of its life"))
    step.add_argument("ticket", help="tkt_...")
    step.add_argument("event", choices=sorted(LIFE.events))
    step.add_argument("--assignee", help="to assign; yourself when not given")
    step.add_argument("--replacement", help="dev_..., to swap")
    said = asking(kinds.add_parser("say", help="a word without a step"))
    said.add_argument("ticket", help="tkt_...")
    said.add_argument("--internal", action="store_true", help="the merchant does not see it")
    rated = asking(kinds.add_parser("rate", help="how it was looked after, once it is closed; by its merchant"))
    rated.add_argument("ticket", help="tkt_...")
    rated.add_argument("stars", type=int, choices=range(1, 6))
    rated.add_argument("--text", default="", help="in words")
    for parser in (opened, step, said):
        parser.add_argument("--text", required=True, help="it stays in the ticket's story")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "list":
            return Question("GET", f"/v1/tickets?limit=200{f'&state={options.state}' if options.state else ''}", None, _listed)
        case "queue":
            return Question("GET", f"/v1/ticket-queue?limit=200{f'&assignee={quoted(options.assignee)}' if options.assignee else ''}", None, _listed)
        case "open":
            about = _given(options, "merchant", "store", "terminal", "transaction")
            return Question("POST", "/v1/tickets", {"subject": options.subject, "text": options.text, "severity": options.severity,
                                                     "category": options.category} | about, _whole)
    path = f"/v1/tickets/{quoted(options.ticket)}"
    match options.kind:
        case "transaction":
            return Question("GET", f"{path}/transaction", None, _transaction)
        case "causes":
            return Question("GET", f"{path}/causes", None, _causes)
        case "step":
            more = _given(options, "assignee", "replacement")
            return Question("POST", f"{path}/steps", {"event": options.event, "text": options.text} | more, _whole)
        case "say":
            return Question("POST", f"{path}/comments", {"text": options.text, "internal": options.internal}, _whole)
        case "rate":
            return Question("POST", f"{path}/rating", {"stars": options.stars, "text": options.text}, _whole)
    return Question("GET", path, None, _whole)


def _line(row: Any) -> str:
    due = f"  {'overdue' if row['overdue'] else 'until'} {row['answer_by'] or row['resolve_by']}" if row["resolve_by"] else ""
    who = f"  with {row['assignee']}" if row["assignee"] else ""
    return f"{row['id']}  {row['severity']:<8} {row['state']:<20}{due}{who}  {row['terminal'] or row['store'] or row['merchant']}  {row['subject']}"


def _listed(body: Any) -> Iterator[str]:
    return (_line(item) for item in body["items"])


def _whole(body: Any) -> Iterator[str]:
    yield _line(body)
    for event in body["events"]:
        by = f"{event['by']}{' (internal)' if event['internal'] else ''}"
        yield f"  {event['at']}  {event['event']:<9} {event['state']:<20} by {by}: {event['text']}"
    if body["rating"]:
        yield f"  rated {body['rating']['stars']} of 5 {body['rating']['text']}"


def _transaction(body: Any) -> Iterator[str]:
    amount = f"{text(body['amount'], body['currency'])}"
    yield f"{body['id']}  {body['type']} of {amount}  {body['status']}, {body['payment_status']}  {body['created_at']}"
    answered = f"answer {body['response_code'] or 'none'}  approval {body['approval_code'] or 'none'}"
    yield f"  RRN {body['rrn']}  STAN {body['stan']}  {answered}  by {body['acquirer']}"


def _causes(body: Any) -> Iterator[str]:
    for each in body["items"]:
        yield f"{each['kind']}: {each['says']}"
        yield "  " + "  ".join(f"{name} {value}" for name, value in each["evidence"].items() if value is not None)
    if not body["items"]:
        yield "nothing that the switch has recorded points to a cause"
