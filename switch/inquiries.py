"""The commands that ask a running switch over HTTP with an operator's key: links, story, unmatched, reversals, approvals, jobs."""

import argparse
import http.client
import json
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


    kinds = verbs.add_parser("jobs", help="background jobs: list, show, try again").add_subparsers(dest="kind", required=True)
    listed = _asking(kinds.add_parser("list"))
    listed.add_argument("--state", choices=("queued", "running", "waiting", "done", "failed", "cancelled"))
    listed.add_argument("--job-kind", metavar="KIND", help="such as export")
    for kind, text in (("show", "one job, with its arguments and detail"), ("retry", "now, and with all its attempts"),
                       ("cancel", "one that runs stops within seconds")):
        _asking(kinds.add_parser(kind, help=text)).add_argument("job", help="job_...")


def _asking(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--url", help="the switch; default: the demo's")
    parser.add_argument("--key", help="an operator's key; default: the demo's")
    return parser


def ask(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    question = _question(options)
    url, key = _reached(options, settings)
    try:
        status, body = call(url, question.method, question.path, key, question.body)
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
        case "approvals", "list":
            return Question("GET", f"/v1/approvals?limit=200&state={options.state}", None, _each(_approval))
        case "approvals", kind:
            return Question("POST", f"/v1/approvals/{_quoted(options.approval)}{'/refuse' if kind == 'refuse' else ''}", {},
                            lambda body: iter([_approval(body)]))
        case "jobs", "list":
            asked = {"limit": "200", "state": options.state, "kind": options.job_kind}
            query = "&".join(f"{name}={_quoted(value)}" for name, value in asked.items() if value)
            return Question("GET", f"/v1/jobs?{query}", None, _each(_job))
        case "jobs", "show":
            return Question("GET", f"/v1/jobs/{_quoted(options.job)}", None, _whole_job)
        case "jobs", kind:
            return Question("POST", f"/v1/jobs/{_quoted(options.job)}/{kind}", {}, lambda body: iter([_job(body)]))
    if not options.action:
        return Question("GET", "/v1/links", None, _each(_line))
    if options.acquirer is None:
        raise StartError(f"links {options.action} needs the acq_... of the line; `switch links` shows them")
    return Question("POST", f"/v1/links/{_quoted(options.acquirer)}/{options.action}", {}, lambda body: iter([_line(body)]))


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


def _job(row: Any) -> str:
    done, total = row["progress"]["done"], row["progress"]["total"]
    progress = "" if not done and total is None else f"  {done}" if total is None else f"  {done}/{total}"
    return (f"{row['id']}  {row['kind']} {row['key']}  {row['state']}{progress}  {row['attempts']} attempts  asked by {row['asked_by']}"
            + (f"  {row['error']}" if row["error"] else ""))


def _whole_job(row: Any) -> Iterator[str]:
    yield _job(row)
    for name in ("merchant", "arguments", "detail", "cancel_asked_by", "created_at", "started_at", "not_before", "ended_at"):
        if row[name]:
            yield f"  {name.replace('_', ' ')}: {json.dumps(row[name], ensure_ascii=False) if isinstance(row[name], dict) else row[name]}"


def _asked(row: Any) -> Iterator[str]:
    yield _approval(row)
    yield f"another person decides: switch approvals approve {row['id']} --key ..."
