"""The command `switch disputes list | show | open | decide`: asks a running switch with an operator's key."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from switch import money
from switch.commands.inquiries import Question, acquirer_id, asking, put, quoted
from switch.settings import Settings


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("disputes", help="what cardholders contest: list, show, enter a notice, decide").add_subparsers(
        dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="newest first"))
    listed.add_argument("--open", action="store_true", help="only those that are not closed")
    listed.add_argument("--state", help="such as chargeback")
    listed.add_argument("--merchant", help="mer_...")
    asking(kinds.add_parser("show", help="one with what happened to it")).add_argument("dispute", help="dsp_...")
    made = asking(kinds.add_parser("open", help="enter an acquirer's notice"))
    made.add_argument("--kind", dest="notice", default="chargeback", choices=("retrieval", "chargeback"))
    made.add_argument("--acquirer", required=True, help="name or acq_...")
    made.add_argument("--reference", required=True, help="the acquirer's own, such as CB-4711")
    sale = made.add_mutually_exclusive_group(required=True)
    sale.add_argument("--transaction", help="txn_... of the sale")
    sale.add_argument("--rrn", help="of the sale, when its id is not known")
    made.add_argument("--amount", required=True, type=int, metavar="MINOR_UNITS")
    made.add_argument("--currency", required=True)
    made.add_argument("--reason-code", required=True)
    made.add_argument("--noticed-on", required=True, metavar="YYYY-MM-DD")
    decide = asking(kinds.add_parser("decide", help="enter the outcome that the acquirer tells"))
    decide.add_argument("dispute", help="dsp_...")
    decide.add_argument("outcome", choices=("won", "lost", "withdrawn", "pre_arbitration"))
    decide.add_argument("--note", help="what you know and from whom")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    if options.kind == "open":
        options.acquirer = acquirer_id(options.acquirer, options, settings)
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "list":
            asked = {"open": "true" if options.open else None, "state": options.state, "merchant": options.merchant}
            query = "&".join(["limit=200", *(f"{name}={quoted(value)}" for name, value in asked.items() if value)])
            return Question("GET", f"/v1/disputes?{query}", None, _listed)
        case "show":
            return Question("GET", f"/v1/disputes/{quoted(options.dispute)}", None, _story)
        case "open":
            names = ("acquirer", "reference", "transaction", "rrn", "amount", "currency", "reason_code", "noticed_on")
            body = {"kind": options.notice, **{name: value for name in names if (value := getattr(options, name)) is not None}}
            return Question("POST", "/v1/disputes", body, lambda said: iter([_dispute(said)]), keyed=True)
    more = {"note": options.note} if options.note else {}
    return Question("POST", f"/v1/disputes/{quoted(options.dispute)}/decide", {"outcome": options.outcome, **more},
                    lambda said: iter([_dispute(said)]), keyed=True)


def _dispute(row: Any) -> str:
    until = f"  answer by {row['answer_by']}" if row["answer_by"] else ""
    return (f"{row['id']}  {row['state']:<15} {money.text(row['amount'], row['currency'])} "
            f"(charged {money.text(row['charged'], row['currency'])})  {row['reference']}  reason {row['reason_code']}  {row['transaction']}{until}")


def _story(body: Any) -> Iterator[str]:
    yield _dispute(body)
    for event in body["events"]:
        note = f": {event['note']}" if event["note"] else ""
        yield f"  {event['at']}  {event['event']:<12} {event['state']:<15} by {event['by']}{note}"
    for file in body["evidence"]:
        yield f"  {file['id']}  {file['media_type']}  {file['size']} bytes  {file['name']}"


def _listed(body: Any) -> Iterator[str]:
    return (_dispute(item) for item in body["items"])
