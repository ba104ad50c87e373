"""The command `switch licence show | record | verdict`: licences of merchants that end; asks a running switch."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from switch.commands.inquiries import Question, asking, put, quoted
from switch.merchants.applications.requirements import ACCOUNT, KINDS
from switch.settings import Settings


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("licence", help="licences of a merchant: what it needs, until when, and what was done").add_subparsers(
        dest="kind", required=True)
    show = asking(kinds.add_parser("show", help="what is needed, in force, recorded and was done"))
    record = asking(kinds.add_parser("record", help="a licence of a merchant that never applied, as you have seen it"))
    for parser in (show, record):
        parser.add_argument("merchant", help="mer_...")
    record.add_argument("--paper", required=True, choices=[kind for kind in KINDS if kind != ACCOUNT])
    record.add_argument("--number", required=True, help="what stands on it")
    record.add_argument("--name", help="where one stands on it")
    record.add_argument("--until", required=True, metavar="DATE", help="its last day")
    record.add_argument("--currency", required=True, help="of the small limits that its end brings")
    verdict = asking(kinds.add_parser("verdict", help="what you found of a renewed one"))
    verdict.add_argument("document", help="doc_...")
    verdict.add_argument("verdict", choices=("accepted", "refused"))
    for parser in (record, verdict):
        parser.add_argument("--reason", required=True)


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "show":
            return Question("GET", f"/v1/licences?merchant={quoted(options.merchant)}", None, _whole)
        case "record":
            fields = {"number": options.number} | ({"name": options.name} if options.name else {})
            wanted = {"kind": options.paper, "fields": fields, "expires_on": options.until, "currency": options.currency, "reason": options.reason}
            return Question("POST", f"/v1/merchants/{quoted(options.merchant)}/licences", wanted, _lifted)
    return Question("POST", f"/v1/licences/{quoted(options.document)}/verdicts", {"verdict": options.verdict, "reason": options.reason}, _lifted)


def _lifted(body: Any) -> Iterator[str]:
    yield f"{body['document']}  lifted: {', '.join(body['lifted']) or 'nothing'}"


def _whole(body: Any) -> Iterator[str]:
    yield f"{body['merchant']}  {'watched' if body['watched'] else 'not watched'}  needs: {', '.join(body['needed']) or 'nothing'}"
    yield from (f"  {each['kind']} until {each['expires_on']}  {each['document']}" for each in body["in_force"])
    yield from (f"  ended: {each['kind']} on {each['expires_on']}  {each['document']}" for each in body["ended"])
    for each in body["recorded"]:
        yield f"  recorded {each['at']}  {each['kind']} until {each['expires_on']}  {each['by']}: {each['reason']}"
    for each in body["steps"]:
        yield f"  done {each['at']}  {each['step']} of {each['kind']} until {each['expires_on']}  {each['by']}: {each['reason']}"
