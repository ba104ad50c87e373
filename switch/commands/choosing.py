"""The command `switch offer add | list | activate | retire | compare | recommend | rate`: what acquirers offer; asks a running switch."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from switch import money
from switch.commands.files import unread
from switch.commands.inquiries import Question, asking, put, quoted
from switch.errors import StartError
from switch.settings import Settings

FILE_MAX = 64 << 10


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("offer", help="what acquirers offer, side by side, and what a business needs").add_subparsers(dest="kind", required=True)
    for kind, text in (("add", "a draft, from JSON as POST /v1/offers takes it"), ("compare", "a month under every offer"),
                       ("recommend", "terminals, methods and a plan by a questionnaire")):
        asking(kinds.add_parser(kind, help=text)).add_argument("path", type=Path, help="a JSON file")
    asking(kinds.add_parser("list", help="all, newest first"))
    for kind, text in (("activate", "show a draft to all"), ("retire", "take it back for good")):
        asking(kinds.add_parser(kind, help=text)).add_argument("offer", help="ofr_...")
    rated = asking(kinds.add_parser("rate", help="an acquirer that you sold through; with a merchant's key"))
    rated.add_argument("acquirer", help="acq_...")
    rated.add_argument("stars", type=int, choices=range(1, 6))
    rated.add_argument("--words", default="")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "add":
            return Question("POST", "/v1/offers", _document(options.path), lambda body: iter([_offer(body)]))
        case "compare":
            return Question("POST", "/v1/offers/comparisons", _document(options.path), lambda body: map(_compared, body["items"]))
        case "recommend":
            return Question("POST", "/v1/recommendations", _document(options.path), _recommended)
        case "list":
            return Question("GET", "/v1/offers?limit=200", None, lambda body: map(_offer, body["items"]))
        case "rate":
            return Question("POST", "/v1/ratings", {"acquirer": options.acquirer, "stars": options.stars, "words": options.words},
                            lambda body: iter([f"{body['acquirer']}  {body['stars']} of 5 {body['words']}".rstrip()]))
    return Question("POST", f"/v1/offers/{quoted(options.offer)}/{options.kind}", {}, lambda body: iter([_offer(body)]))


def _document(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            content = file.read(FILE_MAX + 1)
        if len(content) > FILE_MAX:
            raise StartError(f"{path} is larger than {FILE_MAX} bytes")
        return json.loads(content)
    except OSError as error:
        raise unread(path, error) from None
    except ValueError as error:
        raise StartError(f"{unread(path, error)}; see docs/choosing.md for its members") from None


def _offer(row: Any) -> str:
    return f"{row['id']}  {row['state']:<7} {row['acquirer']}  T+{row['funding_days']}  {row['name']}"


def _compared(row: Any) -> str:
    cost, measured = row["cost"], row["measured"]
    price = row["why_not"] if cost is None else (
        "{} a month ({} fees, {} by the month, {} tax)".format(
            *(money.text(cost[name], cost["currency"]) for name in ("total", "fees", "periodic", "tax"))))
    return (f"{row['offer']}  {row['name']} of {row['acquirer_name']}: {price}; T+{row['funding_days']}; {', '.join(row['methods'])}; "
            f"of {measured['asked']} asked, approved {measured['approval_basis_points']}, up {measured['uptime_basis_points']} in 1/100 %, "
            f"p50 {measured['p50_ms']} ms, p95 {measured['p95_ms']} ms; {row['rating']['count']} ratings")


def _recommended(body: Any) -> Iterator[str]:
    terminal = body["terminal"]
    yield f"{terminal['count']} x {terminal['what']}: {terminal['why']}"
    yield from (f"  {each['method']}{'' if each['asked'] else ' (worth adding)'}: {each['why']}" for each in body["methods"])
    none = "no plan: no offer has an acquirer that takes all of it; `switch offer list` shows the offers"
    yield none if body["plan"] is None else f"plan: {_compared(body['plan'])}"
    for line in (body["plan"] or {"cost": {"lines": []}})["cost"]["lines"]:
        yield f"  {line['amount']:>10}  {line['rule']}: {line['words']}"
