"""The commands `switch traffic` and `switch notice list | read`: how a merchant sells, and what it was told; ask a running switch."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

from switch import money
from switch.commands.inquiries import Question, asking, put, quoted
from switch.settings import Settings


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    traffic = asking(verbs.add_parser("traffic", help="what a merchant sold hour by hour, of the last day or of at most seven"))
    traffic.add_argument("--merchant", help="mer_..., for operators")
    for name, at in (("from", "since"), ("to", "until")):
        traffic.add_argument(f"--{name}", dest=at, metavar="TIME", help="RFC 3339")
    kinds = verbs.add_parser("notice", help="what a merchant was told; with its key").add_subparsers(dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="newest first"))
    listed.add_argument("--unread", action="store_true")
    read = asking(kinds.add_parser("read", help="it was read; shows it with its deliveries"))
    read.add_argument("notice", help="ntc_...")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_traffic(options) if options.verb == "traffic" else _notice(options), options, settings, say)


def _traffic(options: argparse.Namespace) -> Question:
    given = {"merchant": options.merchant, "from": options.since, "to": options.until}
    return Question("GET", "/v1/traffic?" + "&".join(f"{name}={quoted(value)}" for name, value in given.items() if value), None, _hours)


def _notice(options: argparse.Namespace) -> Question:
    if options.kind == "list":
        return Question("GET", f"/v1/notices?limit=200{'&unread=true' if options.unread else ''}", None, lambda body: map(_line, body["items"]))
    return Question("POST", f"/v1/notices/{quoted(options.notice)}/read", {}, _whole)


def _hours(body: Any) -> Iterator[str]:
    for row in body["items"]:
        rate = "-" if row["approval_rate"] is None else f"{row['approval_rate'] / 100:.2f} %"
        yield (f"{row['hour']}  {row['currency']}  {row['sales']} sales: {row['approved']} approved ({rate}), {row['declined']} declined, "
               f"{row['undone']} undone, {row['open']} open; {money.text(row['amount'], row['currency'])} approved; {row['refunds']} refunds; "
               f"{row['terminals']} terminals")


def _line(row: Any) -> str:
    return f"{row['id']}  {row['happened_at']}  {'read  ' if row['read_at'] else 'unread'}  {row['kind']:<22} {row['title']}: {row['text']}"


def _whole(body: Any) -> Iterator[str]:
    yield _line(body)
    for each in body["deliveries"]:
        yield f"  {each['webhook']}  {each['state']}  {each['attempts']} attempts  {each['last_fault'] or ''}".rstrip()
