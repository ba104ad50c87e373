"""The commands that ask a running switch over HTTP with an operator's key."""

import argparse
import http.client
import json
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from switch import money
from switch.commands.files import nothing, unread
from switch.errors import StartError, in_words
from switch.inquiry import call
from switch.settings import Settings


class Question(NamedTuple):
    """What is asked, and how an answer is told."""

    method: str
    path: str
    body: dict[str, Any] | Path | None
    tell: Callable[[Any], Iterator[str]]
    keyed: bool = False  # it needs an idempotency key; each call is a question of its own


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    links = asking(verbs.add_parser("links", help="the acquirers' lines, or a verb for one of them"))
    links.add_argument("action", nargs="?", choices=("list", "drain", "down", "up", "sign-on"))
    links.add_argument("acquirer", nargs="?", help="of the line: name or acq_...")
    asking(verbs.add_parser("story", help="everything that happened to a transaction")).add_argument("transaction", help="txn_...")
    unmatched = asking(verbs.add_parser("unmatched", help="answers of acquirers that matched no request: how many by acquirer, reason and "
                                                           "differing field"))
    unmatched.add_argument("--acquirer", help="name or acq_...; default: all")
    unmatched.add_argument("--since", help="RFC 3339; default: a day ago")
    unmatched.add_argument("--until", help="RFC 3339; default: now")
    kinds = verbs.add_parser("alerts", help="what went wrong and is nobody's yet: list, take on").add_subparsers(dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="newest first; docs/runbook.md has an entry for each kind"))
    listed.add_argument("--alert-kind", metavar="KIND", help="such as line_down")
    listed.add_argument("--new", action="store_true", help="only those that nobody has acknowledged")
    listed.add_argument("--standing", action="store_true", help="only what is still so, as a worker found within the minute")
    asking(kinds.add_parser("acknowledge", help="say that you have it; that solves nothing")).add_argument("alert", help="alr_...")
    hooks = asking(verbs.add_parser("webhooks", help="endpoints of merchants that fail, or were disabled because they did; list: all"))
    hooks.add_argument("action", nargs="?", choices=("list",))
    kinds = verbs.add_parser("reversals", help="what is owed: list, send again, resolve by hand").add_subparsers(dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="what is owed, or parked for a person"))
    listed.add_argument("--state", choices=("open", "parked"))
    listed.add_argument("--acquirer", help="name or acq_...")
    asking(kinds.add_parser("retry", help="send it again now; a parked one is opened again")).add_argument("transaction", help="txn_...")
    resolve = asking(kinds.add_parser("resolve", help="ask a second person to end a parked one"))
    resolve.add_argument("transaction", help="txn_...")
    resolve.add_argument("resolution", choices=("reversed", "confirmed"), help="reversed: nothing stands at the acquirer; confirmed: the sale does")
    resolve.add_argument("--reason", required=True, help="what you know and from whom, 10 characters or more; it stays in the story")
    resolve.add_argument("--approved-amount", type=int, metavar="MINOR_UNITS", help="of a confirmed one, when not the whole")
    kinds = verbs.add_parser("approvals", help="what waits for a second person").add_subparsers(dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="what waits, or was decided, newest first"))
    listed.add_argument("--state", default="waiting", choices=("waiting", "approved", "refused", "expired", "all"))
    for kind, text in (("approve", "do what another person asked for"), ("refuse", "refuse it, or take back what you asked for")):
        asking(kinds.add_parser(kind, help=text)).add_argument("approval", help="app_...")


    kinds = verbs.add_parser("reconcile", help="clearing files, bank statements, runs and exceptions").add_subparsers(dest="kind", required=True)
    _reconcile_parsers(kinds)
    kinds = verbs.add_parser("jobs", help="background jobs: list, show, try again").add_subparsers(dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="newest first"))
    listed.add_argument("--state", choices=("queued", "running", "waiting", "done", "failed", "cancelled"))
    listed.add_argument("--job-kind", metavar="KIND", help="such as export")
    for kind, text in (("show", "one job, with its arguments and detail"), ("retry", "now, and with all its attempts"),
                       ("cancel", "one that runs stops within seconds")):
        asking(kinds.add_parser(kind, help=text)).add_argument("job", help="job_...")


def _reconcile_parsers(kinds: Any) -> None:
    brought = asking(kinds.add_parser("file", help="bring in a clearing file, or a bank statement when no acquirer is said"))
    brought.add_argument("path", type=Path)
    brought.add_argument("--acquirer", help="whose clearing file it is: name or acq_...")
    again = asking(kinds.add_parser("run", help="reconcile a date again, or list the runs when none is said"))
    again.add_argument("--acquirer", help="name or acq_...")
    again.add_argument("--date", metavar="YYYY-MM-DD")
    listed = asking(kinds.add_parser("exceptions", help="what does not agree"))
    listed.add_argument("--acquirer", help="name or acq_...")
    listed.add_argument("--date", metavar="YYYY-MM-DD")
    listed.add_argument("--state", choices=("open", "claimed", "resolved", "withdrawn", "all"))
    resolve = asking(kinds.add_parser("resolve", help="say where the difference of an exception goes"))
    resolve.add_argument("exception", help="exc_...")
    resolve.add_argument("resolution", choices=("write_off", "suspense", "adjust", "claim", "accept"))
    resolve.add_argument("--reason", required=True, help="10 characters or more; it stays with the exception")
    assign = asking(kinds.add_parser("assign", help="give an exception to somebody"))
    assign.add_argument("exception", help="exc_...")
    assign.add_argument("owner")
    assign.add_argument("--take-over", metavar="WHY", help="from somebody else who has it")
    comment = asking(kinds.add_parser("comment", help="say something about an exception"))
    comment.add_argument("exception", help="exc_...")
    comment.add_argument("text")


def asking(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument("--url", help="the switch; default: the demo's")
    parser.add_argument("--key", help="an operator's key; default: the demo's")
    return parser


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    if getattr(options, "acquirer", None):
        options.acquirer = acquirer_id(options.acquirer, options, settings)
    return put(_question(options), options, settings, say)


def put(question: Question, options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Asks and tells the answer. Raises StartError as `work` does."""
    body, line = _answered(question, options, settings), None
    for line in question.tell(body):
        say(line)
    if question.method == "GET" and body.get("next"):
        path = re.sub("(?<=[?&])after=[^&]*&?", "", question.path).rstrip("?&")
        more = f"the same with --after {body['next']}" if hasattr(options, "after") else f"switch ask GET '{path}' -f after={body['next']}"
        print(f"there are more: {more}", file=sys.stderr)
    elif line is None:
        nothing()
    return 0


def _answered(question: Question, options: argparse.Namespace, settings: Settings) -> dict[str, Any]:
    url, key = reached(options, settings)
    if isinstance(question.body, Path):
        try:
            question.body.open("rb").close()
        except OSError as error:
            raise unread(question.body, error) from None
    headers = {"Idempotency-Key": secrets.token_hex(16)} if question.keyed else {}
    try:
        status, body = call(url, question.method, question.path, key, question.body, **headers)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise unreached(error) from None
    if status >= 400 or not isinstance(body, dict):
        raise refusal(status, body)
    return body


def acquirer_id(said: str, options: argparse.Namespace, settings: Settings) -> str:
    """As it is said, or of the acquirer of that name. Raises StartError as `work` does."""
    after = ""
    while not said.startswith("acq_"):
        page = _answered(Question("GET", f"/v1/acquirers?limit=200{after}", None, _each(str)), options, settings)
        said = next((each["id"] for each in page["items"] if each["name"] == said), said)
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    if not said.startswith("acq_"):
        raise StartError("no acquirer has this name; `switch links` shows those there are")
    return said


def unreached(error: Exception) -> StartError:
    if isinstance(error, json.JSONDecodeError):
        return StartError("what answers at --url is no switch")
    return StartError(f"the switch cannot be reached ({getattr(error, 'strerror', None) or str(error) or type(error).__name__}); check --url")


def refusal(status: int, body: Any) -> StartError:
    """What a switch said instead of an answer, for a person."""
    words = (in_words(body) if isinstance(body, dict) else "") or "no switch answers at this URL"
    return StartError(f"refused with {status}: {words}" + (" Say whose key with --key." if status == 403 else ""))


def _question(options: argparse.Namespace) -> Question:
    match options.verb, getattr(options, "kind", None):
        case "story", _:
            return Question("GET", f"/v1/transactions/{quoted(options.transaction)}/story", None, _story)
        case "unmatched", _:
            asked = {"acquirer": options.acquirer, "from": options.since, "to": options.until}
            query = "&".join(f"{name}={quoted(value)}" for name, value in asked.items() if value)
            return Question("GET", f"/v1/unmatched-answers/summary?{query}", None, _each(_unmatched))
        case "alerts", _:
            return _alerts(options)
        case "webhooks", _:
            return Question("GET", f"/v1/webhooks?limit=200{'' if options.action else '&failing=true'}", None, _each(_webhook))
        case "reversals", _:
            return _reversals(options)
        case "reconcile", _:
            return _reconcile(options)
        case "approvals", "list":
            return Question("GET", f"/v1/approvals?limit=200&state={options.state}", None, _each(_approval))
        case "approvals", kind:
            return Question("POST", f"/v1/approvals/{quoted(options.approval)}{'/refuse' if kind == 'refuse' else ''}", {},
                            lambda body: iter([_approval(body)]))
        case "jobs", "list":
            asked = {"limit": "200", "state": options.state, "kind": options.job_kind}
            query = "&".join(f"{name}={quoted(value)}" for name, value in asked.items() if value)
            return Question("GET", f"/v1/jobs?{query}", None, _each(_job))
        case "jobs", "show":
            return Question("GET", f"/v1/jobs/{quoted(options.job)}", None, _whole_job)
        case "jobs", kind:
            return Question("POST", f"/v1/jobs/{quoted(options.job)}/{kind}", {}, lambda body: iter([_job(body)]))
    if options.action in (None, "list"):
        return Question("GET", "/v1/links", None, _lines)
    if options.acquirer is None:
        raise StartError(f"links {options.action} needs the acquirer of the line; `switch links` shows them")
    return Question("POST", f"/v1/links/{quoted(options.acquirer)}/{options.action}", {}, lambda body: iter([_line(body)]))


def _alerts(options: argparse.Namespace) -> Question:
    if options.kind == "acknowledge":
        return Question("POST", f"/v1/alerts/{quoted(options.alert)}/acknowledge", {}, lambda body: iter([_alert(body)]))
    asked = {"limit": "200", "kind": options.alert_kind, "acknowledged": "false" if options.new else None,
             "standing": "true" if options.standing else None}
    query = "&".join(f"{name}={quoted(value)}" for name, value in asked.items() if value)
    return Question("GET", f"/v1/alerts?{query}", None, _each(_alert))


def _reversals(options: argparse.Namespace) -> Question:
    match options.kind:
        case "list":
            wanted = [f"{name}={quoted(value)}" for name in ("state", "acquirer") if (value := getattr(options, name)) is not None]
            return Question("GET", "/v1/reversals?" + "&".join(["limit=200", *wanted]), None, _each(_reversal))
        case "retry":
            return Question("POST", f"/v1/reversals/{quoted(options.transaction)}/retry", {}, lambda body: iter([_reversal(body)]))
    more = {} if options.approved_amount is None else {"approved_amount": options.approved_amount}
    return Question("POST", f"/v1/reversals/{quoted(options.transaction)}/resolve",
                    {"resolution": options.resolution, "reason": options.reason, **more}, _asked)


def _reconcile(options: argparse.Namespace) -> Question:
    of = {"acquirer": getattr(options, "acquirer", None), "business_date": getattr(options, "date", None), "state": getattr(options, "state", None)}
    query = "&".join(f"{name}={quoted(value)}" for name, value in of.items() if value)
    match options.kind:
        case "file":
            document = "clearing" if options.acquirer else "statement"
            return Question("POST", f"/v1/clearing-files?document={document}&name={quoted(options.path.name)}&{query}", options.path,
                            lambda body: iter([_clearing_file(body)]))
        case "run" if options.date:
            if not options.acquirer:
                raise StartError("reconcile run --date needs --acquirer")
            return Question("POST", "/v1/reconciliations", {"acquirer": options.acquirer, "business_date": options.date},
                            lambda body: iter([f"due: {body['business_date']} of {body['acquirer']}; `switch reconcile run` shows the result"]))
        case "run":
            return Question("GET", f"/v1/reconciliations?limit=50&{query}", None, _each(_reconciled))
        case "exceptions":
            return Question("GET", f"/v1/exceptions?limit=200&{query}", None, _each(_exception))
        case "assign":
            return Question("POST", f"/v1/exceptions/{quoted(options.exception)}/assign", {"owner": options.owner, "take_over": options.take_over},
                            lambda body: iter([_exception(body)]))
        case "comment":
            return Question("POST", f"/v1/exceptions/{quoted(options.exception)}/comments", {"text": options.text},
                            lambda body: iter([f"{body['exception']}: it stands"]))
    return Question("POST", f"/v1/exceptions/{quoted(options.exception)}/resolve", {"resolution": options.resolution, "reason": options.reason},
                    lambda body: _asked(body) if body["id"].startswith("app_") else iter([_exception(body)]))


def _clearing_file(file: Any) -> str:
    return (f"{file['id']}  {file['format']} of {file['business_date']} number {file['number']}  {file['lines']} lines, total {file['total']}, "
            f"fees {file['fees']}  received {file['received_at']} by {file['received_by']}")


def _reconciled(row: Any) -> str:
    found = ", ".join(f"{count} {kind}" for kind, count in row["found"].items()) or "nothing to look at"
    return (f"{row['business_date']}  {row['state']:<5} {row['lines'] or 0} lines, {row['movements'] or 0} transactions: {found}  {row['id']}  "
            f"{row['acquirer']}")


def _money(row: Any, name: str) -> str:
    return "-" if row[name] is None else money.text(row[name], row["currency"])


def _exception(row: Any) -> str:
    owner = f"  owner {row['owner']}" if row["owner"] else ""
    return (f"{row['id']}  {row['business_date']}  {row['kind']:<14} {row['state']:<9} RRN {row['rrn'] or '-'}  expected {_money(row, 'expected')} "
            f"found {_money(row, 'found')} difference {money.text(row['difference'], row['currency'])}{owner}  {row['transaction'] or ''}")


def reached(options: argparse.Namespace, settings: Settings) -> tuple[str, str]:
    """URL and operator's key of the switch to ask: as said, else the demo's of this home."""
    url, key = options.url, options.key
    if url is None or key is None:
        try:
            handover = json.loads((settings.home / "demo.json").read_text())
        except (OSError, ValueError):
            raise StartError(f"no demo runs in {settings.home}; say --url and --key (an operator's key)") from None
        url, key = url or handover["base_url"], key or handover["operator_key"]
    return url, key


def quoted(text: str) -> str:
    return quote(text, safe="")


def _each(tell: Callable[[Any], str]) -> Callable[[Any], Iterator[str]]:
    return lambda body: (tell(item) for item in body["items"])


def _story(body: Any) -> Iterator[str]:
    yield body["in_short"]
    for step in body["steps"]:
        yield f"  {step['at']}  {step['after_ms']:>10.1f} ms  {step['what']}"


def _lines(body: Any) -> Iterator[str]:
    """A line of text for each acquirer, and below it its lines where there is more to say of them."""
    for item in body["items"]:
        yield _line(item)
        for each in item["lines"] if len(item["lines"]) > 1 or item["breaker"] != "none" or any(line["tls"] for line in item["lines"]) else ():
            secured = f"  TLS, certificates until {each['certificate_ends_at'] or 'not known'}" if each["tls"] else ""
            yield (f"  {each['line']}.{each['number']}  priority {each['priority']:<4} {each['state']:<12} {each['host']}:{each['port']}  "
                   f"pending {each['pending']}  breaker {each['breaker']}{secured}{_wrong(each)}")


def _line(line: Any) -> str:
    return (f"{line['name']:<20} {line['state']:<12} {line['host']}:{line['port']}  pending {line['pending']}/{line['window']}  "
            f"sent {line['sent']} answered {line['answered']} timeouts {line['timeouts']} late {line['late']}  "
            f"worker {line['worker']} of {line['machine']}, {line['age_ms'] / 1000:.1f} s ago{_wrong(line)}  {line['acquirer']}")


def _wrong(line: Any) -> str:
    if line["state"] in ("down", "draining"):
        return "  taken out by an operator"
    return f"  {line['last_error']}" if line["last_error"] and line["state"] != "up" else ""


def _unmatched(line: Any) -> str:
    field = {"h": "header", "0": "MTI"}.get(line["field"], line["field"]) or "-"
    return f"{line['count']:>8}  {line['reason']:<12} field {field:<6} {line['first_at']} to {line['last_at']}  {line['acquirer']}"


def _alert(row: Any) -> str:
    taken = f"acknowledged by {row['acknowledged_by']}" if row["acknowledged_by"] else "nobody's"
    times = f"{row['last_at']}" + (f", {row['count']} times since {row['since']}" if row["count"] > 1 else "")
    state = "" if row["standing"] is None else "  still so" if row["standing"] else f"  over, last seen {row['seen_at']}"
    return f"{row['id']}  {row['kind']} {row['object']}  {times}{state}  {taken}: {row['meaning']}"


def _webhook(row: Any) -> str:
    why = (f"disabled {row['disabled_at']} ({row['disabled_reason']})" if row["disabled_at"] else
           f"failing since {row['failing_since']}" if row["failing_since"] else row["state"])
    return f"{row['id']}  {why}  last {row['last_status'] or row['last_fault'] or '-'}  {row['url']}  {row['merchant']}"


def _reversal(row: Any) -> str:
    why = f" ({row['parked_reason']})" if row["parked_reason"] else ""
    return (f"{row['transaction']}  {row['state']}{why}  {money.text(row['amount'], row['currency'])}  because of {row['cause']}  "
            f"sent {row['transmissions']} times  last code {row['last_code'] or '-'}  {row['age_s']} s old  {row['acquirer']}")


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
