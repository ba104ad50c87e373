"""The command `switch risk ...`: rules, limits, lists and the review of what sales hit, asked of a running switch."""

import argparse
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

from switch.commands.inquiries import Question, asking, put, quoted
from switch.merchants.risk_rules import ACTIONS, BLOCKS, NEEDS, SUBJECTS
from switch.money import text
from switch.settings import Settings

_LISTS = ("mccs", "brands", "entry_modes")
_RULE = ("name", "kind", "action", "blocks", "merchant", "currency", "subject", "window_s", "count_max", "amount_min", "amount_max", "basis_points",
         "time_from", "time_until", "distance_km")
PATHS = {"rule": "risk-rules", "limit": "merchant-limits", "entry": "risk-lists", "hit": "risk-hits"}


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("risk", help="what sales are judged by, what they hit, and what people say to it").add_subparsers(
        dest="kind", required=True)
    _adding(asking(kinds.add_parser("add", help="write a rule; a draft unless --active")))
    limit = asking(kinds.add_parser("limit", help="limit what a merchant may sell; in force at once unless --draft"))
    limit.add_argument("merchant", help="mer_...")
    limit.add_argument("--currency", required=True)
    for span in ("sale", "day", "month"):
        limit.add_argument(f"--per-{span}", type=int, metavar="MINOR_UNITS")
    limit.add_argument("--draft", action="store_true")
    for verdict in ("block", "allow"):
        listed = asking(kinds.add_parser(verdict, help=f"put a card, terminal or merchant on the list: {verdict}"))
        listed.add_argument("what", help="trm_..., mer_..., txn_... (the card that made it), or a card's token")
        listed.add_argument("--reason", required=True)
    asking(kinds.add_parser("end", help="take an entry off its list")).add_argument("entry", help="rle_...")
    shown = asking(kinds.add_parser("list", help="all rules, limits, list entries or hits, newest first"))
    shown.add_argument("of", choices=("rules", "limits", "entries", "hits"))
    shown.add_argument("--state", choices=("open", "dismissed", "confirmed"), help="of hits")
    shown.add_argument("--after", metavar="ID")
    place = asking(kinds.add_parser("place", help="say where a store is; how far its terminals are counts from their next heartbeat"))
    place.add_argument("store", help="sto_...")
    place.add_argument("latitude_e6", type=_millionths, metavar="LATITUDE", help="degrees, such as 31.230416")
    place.add_argument("longitude_e6", type=_millionths, metavar="LONGITUDE")
    on = asking(kinds.add_parser("activate", help="switch a draft on"))
    on.add_argument("draft", help="rrl_... or lim_...")
    on.add_argument("--retires", action="append", default=[], metavar="ID", help="whose place it takes; may be repeated")
    asking(kinds.add_parser("retire", help="switch a rule or limit off for good")).add_argument("draft", metavar="ID", help="rrl_... or lim_...")
    for verb in ("dismiss", "confirm"):
        decided = asking(kinds.add_parser(verb, help=f"{verb} a hit"))
        decided.add_argument("hit", help="rht_...")
        decided.add_argument("--reason", required=True)
    tried = asking(kinds.add_parser("try", help="what rules would have hit among the sales of a period; nothing is written"))
    tried.add_argument("--activate", action="append", default=[], metavar="RULE", help="rrl_... of a draft; may be repeated")
    tried.add_argument("--retire", action="append", default=[], metavar="RULE", help="rrl_... of a rule in force; may be repeated")
    tried.add_argument("--from", dest="since", required=True, metavar="TIME", help="RFC 3339")
    tried.add_argument("--to", dest="until", required=True, metavar="TIME", help="RFC 3339")
    tried.add_argument("--limit", type=int, metavar="SALES")


def _adding(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", required=True, help="what people call it")
    parser.add_argument("--kind", dest="rule_kind", required=True, choices=tuple(NEEDS))
    parser.add_argument("--action", required=True, choices=ACTIONS)
    parser.add_argument("--blocks", choices=BLOCKS)
    parser.add_argument("--merchant", help="mer_...; default: all")
    parser.add_argument("--mccs", metavar="5812,...")
    parser.add_argument("--brands", metavar="visa,...")
    parser.add_argument("--entry-modes", metavar="manual,...")
    parser.add_argument("--currency")
    parser.add_argument("--subject", choices=SUBJECTS)
    parser.add_argument("--window-s", type=int, metavar="SECONDS")
    parser.add_argument("--count-max", type=int, metavar="N")
    parser.add_argument("--amount-min", type=int, metavar="MINOR_UNITS")
    parser.add_argument("--amount-max", type=int, metavar="MINOR_UNITS")
    parser.add_argument("--basis-points", type=int, metavar="N")
    parser.add_argument("--time-from", metavar="HH:MM", help="where the merchant is")
    parser.add_argument("--time-until", metavar="HH:MM")
    parser.add_argument("--distance-km", type=int, metavar="KM", help="of a terminal from its store")
    parser.add_argument("--active", action="store_true", help="in force at once")


def _millionths(text: str) -> int:
    try:
        return round(Decimal(text) * 1_000_000)
    except (ArithmeticError, ValueError):
        raise argparse.ArgumentTypeError(f"degrees, such as 31.230416, and not {text!r}") from None


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "add":
            said = {name: getattr(options, "rule_kind" if name == "kind" else name) for name in _RULE}
            said |= {name: getattr(options, name).split(",") for name in _LISTS if getattr(options, name) is not None}
            return Question("POST", "/v1/risk-rules", _given(said) | {"state": "active" if options.active else "draft"}, _one)
        case "limit":
            said = {name: getattr(options, name) for name in ("merchant", "currency", "per_sale", "per_day", "per_month")}
            return Question("POST", "/v1/merchant-limits", _given(said) | {"state": "draft" if options.draft else "active"}, _one)
        case "block" | "allow":
            name = {"trm_": "terminal", "mer_": "merchant", "txn_": "transaction"}.get(options.what[:4], "token")
            return Question("POST", "/v1/risk-lists", {name: options.what, "verdict": options.kind, "reason": options.reason}, _one)
        case "end":
            return Question("POST", f"/v1/risk-lists/{quoted(options.entry)}/end", {}, _one)
        case "list":
            path = PATHS["entry" if options.of == "entries" else options.of.removesuffix("s")]
            more = "".join(f"&{name}={quoted(value)}" for name in ("state", "after") if (value := getattr(options, name)))
            return Question("GET", f"/v1/{path}?limit=200{more}", None, _listed)
        case "place":
            place = {name: getattr(options, name) for name in ("latitude_e6", "longitude_e6")}
            return Question("PATCH", f"/v1/stores/{quoted(options.store)}", place, _one)
        case "activate":
            return Question("POST", f"{_living(options.draft)}/activate", {"retires": options.retires}, _one)
        case "retire":
            return Question("POST", f"{_living(options.draft)}/retire", {}, _one)
        case "dismiss" | "confirm":
            return Question("POST", f"/v1/risk-hits/{quoted(options.hit)}/{options.kind}", {"reason": options.reason}, _one)
    more_ = {} if options.limit is None else {"limit": options.limit}
    return Question("POST", "/v1/risk-rules/try", {"activate": options.activate, "retire": options.retire, "from": options.since,
                                                   "to": options.until, **more_}, _tried)


def _living(ident: str) -> str:
    return f"/v1/{PATHS['limit' if ident.startswith('lim_') else 'rule']}/{quoted(ident)}"


def _given(said: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value is not None}


def _listed(body: Any) -> Iterator[str]:
    yield from (_line(item) for item in body["items"])


def _one(body: Any) -> Iterator[str]:
    yield _line(body)


def _line(row: Any) -> str:
    """What is said, in order; a hit says why first."""
    apart = {"id", "figures", "token"}
    first = f"{row['id']}  " + (f"{row['action']}: {row['why']}  " if "why" in row else "")
    skipped = apart | ({"action", "why"} if "why" in row else set())
    return first + "  ".join(f"{name} {','.join(map(str, value)) if isinstance(value, list) else value}" for name, value in row.items()
                             if name not in skipped and value is not None)


def _tried(body: Any) -> Iterator[str]:
    yield f"{body['looked_at']} sales{'' if body['whole'] else ' (the newest of more)'}"
    for title in ("before", "after"):
        yield f"  {title:<7}" + "  ".join(f"{action} {count}" for action, count in body[title].items())
    for each in body["fired"]:
        yield (f"  {each['rule']}  {each['action']:<7} {each['hits']} hits of {each['cards']} cards at {each['merchants']} merchants; "
               f"{each['approved']} were approved, {each['charged_back']} charged back  {each['name']}")
    for each in body["examples"]:
        yield f"  {each['transaction']}  {text(each['amount'], each['currency'])} {each['masked_pan']} {each['status']}: {'; '.join(each['why'])}"
