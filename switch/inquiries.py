"""The commands that ask a running switch over HTTP with an operator's key: links, story, unmatched, reversals, approvals, disputes."""

import argparse
import http.client
import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from switch.demo import call
from switch.errors import StartError
from switch.settings import Settings


class Question(NamedTuple):
    """What is asked, and how an answer is told."""

    method: str
    path: str
    body: dict[str, Any] | None
    tell: Callable[[Any], Iterator[str]]
    keyed: bool = False  # it needs an idempotency key; each call is a question of its own


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    links = _asking(verbs.add_parser("links", help="the acquirers' lines, or a verb for one of them"))
    links.add_argument("action", nargs="?", choices=("drain", "down", "up", "sign-on"))
    links.add_argument("acquirer", nargs="?", help="acq_... of the line")
    _asking(verbs.add_parser("story", help="everything that happened to a transaction")).add_argument("transaction", help="txn_...")
    unmatched = _asking(verbs.add_parser("unmatched", help="answers of acquirers that matched no request: how many by acquirer, reason and "
                                                           "differing field"))
    unmatched.add_argument("--acquirer", help="acq_...; default: all")
    unmatched.add_argument("--since", help="RFC 3339; default: a day ago")
    unmatched.add_argument("--until", help="RFC 3339; default: now")
    kinds = verbs.add_parser("reversals", help="what is owed: list, send again, resolve by hand").add_subparsers(dest="kind", required=True)
    listed = _asking(kinds.add_parser("list"))
    listed.add_argument("--state", choices=("open", "parked"))
    listed.add_argument("--acquirer", help="acq_...")
    _asking(kinds.add_parser("retry", help="send it again now; a parked one is opened again")).add_argument("transaction", help="txn_...")
    resolve = _asking(kinds.add_parser("resolve", help="ask a second person to end a parked one"))
    resolve.add_argument("transaction", help="txn_...")
    resolve.add_argument("resolution", choices=("reversed", "confirmed"), help="reversed: nothing stands at the acquirer; confirmed: the sale does")
    resolve.add_argument("--reason", required=True, help="what you know and from whom; it stays in the story")
    resolve.add_argument("--approved-amount", type=int, metavar="MINOR_UNITS", help="of a confirmed one, when not the whole")
    kinds = verbs.add_parser("approvals", help="what waits for a second person").add_subparsers(dest="kind", required=True)
    listed = _asking(kinds.add_parser("list"))
    listed.add_argument("--state", default="waiting", choices=("waiting", "approved", "refused", "expired", "all"))
    for kind, text in (("approve", "do what another person asked for"), ("refuse", "refuse it, or take back what you asked for")):
        _asking(kinds.add_parser(kind, help=text)).add_argument("approval", help="app_...")
    _dispute_parsers(verbs.add_parser("disputes", help="what cardholders contest: list, show, enter a notice, decide").add_subparsers(
        dest="kind", required=True))


def _dispute_parsers(kinds: Any) -> None:
    listed = _asking(kinds.add_parser("list"))
    listed.add_argument("--open", action="store_true", help="only those that are not closed")
    listed.add_argument("--state", help="such as chargeback")
    listed.add_argument("--merchant", help="mer_...")
    _asking(kinds.add_parser("show", help="one with what happened to it")).add_argument("dispute", help="dsp_...")
    made = _asking(kinds.add_parser("open", help="enter an acquirer's notice"))
    made.add_argument("--kind", dest="notice", default="chargeback", choices=("retrieval", "chargeback"))
    made.add_argument("--acquirer", required=True, help="acq_...")
    made.add_argument("--reference", required=True, help="the acquirer's own, such as CB-4711")
    sale = made.add_mutually_exclusive_group(required=True)
    sale.add_argument("--transaction", help="txn_... of the sale")
    sale.add_argument("--rrn", help="of the sale, when its id is not known")
    made.add_argument("--amount", required=True, type=int, metavar="MINOR_UNITS")
    made.add_argument("--currency", required=True)
    made.add_argument("--reason-code", required=True)
    made.add_argument("--noticed-on", required=True, metavar="YYYY-MM-DD")
    decide = _asking(kinds.add_parser("decide", help="enter the outcome that the acquirer tells"))
    decide.add_argument("dispute", help="dsp_...")
    decide.add_argument("outcome", choices=("won", "lost", "withdrawn", "pre_arbitration"))
    decide.add_argument("--note", help="what you know and from whom")


def _asking(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--url", help="the switch; default: the demo's")
    parser.add_argument("--key", help="an operator's key; default: the demo's")
    return parser


def ask(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    question = _question(options)
    url, key = _reached(options, settings)
    headers = {"Idempotency-Key": secrets.token_hex(16)} if question.keyed else {}
    try:
        status, body = call(url, question.method, question.path, key, question.body, **headers)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise StartError(f"the switch cannot be reached ({getattr(error, 'strerror', None) or type(error).__name__}); check --url") from None
    if status >= 400 or not isinstance(body, dict):
        said = body if isinstance(body, dict) else {}
        places = "; ".join(f"{fault['field']}: {fault['rule']}" for fault in said.get("errors") or ())
        raise StartError(f"refused with {status}: {said.get('detail') or said.get('title') or 'no switch answers at this URL'}"
                         + (f" ({places})" if places else ""))
    for line in question.tell(body):
        say(line)
    return 0


def _question(options: argparse.Namespace) -> Question:
    match options.verb, getattr(options, "kind", None):
        case "story", _:
            return Question("GET", f"/v1/transactions/{_quoted(options.transaction)}/story", None, _story)
        case "unmatched", _:
            asked = {"acquirer": options.acquirer, "from": options.since, "to": options.until}
            query = "&".join(f"{name}={_quoted(value)}" for name, value in asked.items() if value)
            return Question("GET", f"/v1/unmatched-answers/summary?{query}", None, _each(_unmatched))
        case "reversals", "list":
            wanted = [f"{name}={_quoted(value)}" for name in ("state", "acquirer") if (value := getattr(options, name)) is not None]
            return Question("GET", "/v1/reversals?" + "&".join(["limit=200", *wanted]), None, _each(_reversal))
        case "reversals", "retry":
            return Question("POST", f"/v1/reversals/{_quoted(options.transaction)}/retry", {}, lambda body: iter([_reversal(body)]))
        case "reversals", _:
            more = {} if options.approved_amount is None else {"approved_amount": options.approved_amount}
            return Question("POST", f"/v1/reversals/{_quoted(options.transaction)}/resolve",
                            {"resolution": options.resolution, "reason": options.reason, **more}, _asked)
        case "disputes", _:
            return _dispute_question(options)
        case "approvals", "list":
            return Question("GET", f"/v1/approvals?limit=200&state={options.state}", None, _each(_approval))
        case "approvals", kind:
            return Question("POST", f"/v1/approvals/{_quoted(options.approval)}{'/refuse' if kind == 'refuse' else ''}", {},
                            lambda body: iter([_approval(body)]))
    if not options.action:
        return Question("GET", "/v1/links", None, _each(_line))
    if options.acquirer is None:
        raise StartError(f"links {options.action} needs the acq_... of the line; `switch links` shows them")
    return Question("POST", f"/v1/links/{_quoted(options.acquirer)}/{options.action}", {}, lambda body: iter([_line(body)]))


def _dispute_question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "list":
            asked = {"open": "true" if options.open else None, "state": options.state, "merchant": options.merchant}
            query = "&".join(["limit=200", *(f"{name}={_quoted(value)}" for name, value in asked.items() if value)])
            return Question("GET", f"/v1/disputes?{query}", None, _each(_dispute))
        case "show":
            return Question("GET", f"/v1/disputes/{_quoted(options.dispute)}", None, _dispute_story)
        case "open":
            names = ("acquirer", "reference", "transaction", "rrn", "amount", "currency", "reason_code", "noticed_on")
            body = {"kind": options.notice, **{name: value for name in names if (value := getattr(options, name)) is not None}}
            return Question("POST", "/v1/disputes", body, lambda said: iter([_dispute(said)]), keyed=True)
    more = {"note": options.note} if options.note else {}
    return Question("POST", f"/v1/disputes/{_quoted(options.dispute)}/decide", {"outcome": options.outcome, **more},
                    lambda said: iter([_dispute(said)]), keyed=True)


def _dispute(row: Any) -> str:
    until = f"  answer by {row['answer_by']}" if row["answer_by"] else ""
    return (f"{row['id']}  {row['state']:<15} {row['amount']} {row['currency']} (charged {row['charged']})  {row['reference']}  "
            f"reason {row['reason_code']}  {row['transaction']}{until}")


def _dispute_story(body: Any) -> Iterator[str]:
    yield _dispute(body)
    for event in body["events"]:
        note = f": {event['note']}" if event["note"] else ""
        yield f"  {event['at']}  {event['event']:<12} {event['state']:<15} by {event['by']}{note}"
    for file in body["evidence"]:
        yield f"  {file['id']}  {file['media_type']}  {file['size']} bytes  {file['name']}"


def _reached(options: argparse.Namespace, settings: Settings) -> tuple[str, str]:
    """URL and operator's key of the switch to ask: as said, else the demo's of this home."""
    url, key = options.url, options.key
    if url is None or key is None:
        try:
            handover = json.loads((settings.home / "demo.json").read_text())
        except (OSError, ValueError):
            raise StartError(f"no demo runs in {settings.home}; say --url and --key (an operator's key)") from None
        url, key = url or handover["base_url"], key or handover["operator_key"]
    return url, key


def _quoted(text: str) -> str:
    return quote(text, safe="")


def _each(tell: Callable[[Any], str]) -> Callable[[Any], Iterator[str]]:
    return lambda body: (tell(item) for item in body["items"])


def _story(body: Any) -> Iterator[str]:
    yield body["in_short"]
    for step in body["steps"]:
        yield f"  {step['at']}  {step['after_ms']:>10.1f} ms  {step['what']}"


def _line(line: Any) -> str:
    return (f"{line['name']:<20} {line['state']:<12} {line['host']}:{line['port']}  pending {line['pending']}/{line['window']}  "
            f"sent {line['sent']} answered {line['answered']} timeouts {line['timeouts']} late {line['late']}  {line['acquirer']}")


def _unmatched(line: Any) -> str:
    return f"{line['count']:>8}  {line['reason']:<12} field {line['field'] or '-':<4} {line['first_at']} to {line['last_at']}  {line['acquirer']}"


def _reversal(row: Any) -> str:
    why = f" ({row['parked_reason']})" if row["parked_reason"] else ""
    return (f"{row['transaction']}  {row['state']}{why}  {row['amount']} {row['currency']}  because of {row['cause']}  sent {row['transmissions']} "
            f"times  last code {row['last_code'] or '-'}  {row['age_s']} s old  {row['acquirer']}")


def _approval(row: Any) -> str:
    decided = f"  {row['state']} by {row['decided_by']}" if row["decided_by"] else f"  {row['state']} until {row['expires_at']}"
    return f"{row['id']}  {row['kind']} {row['object']} {json.dumps(row['payload'])}  asked by {row['requested_by']}: {row['reason']}{decided}"


def _asked(row: Any) -> Iterator[str]:
    yield _approval(row)
    yield f"another person decides: switch approvals approve {row['id']} --key ..."
