"""The command `switch acceptance ...`: plans of models, tests of devices, check lists, training; asks a running switch with an operator's key."""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from switch.commands import files
from switch.commands.inquiries import Question, asking, put, quoted
from switch.errors import StartError
from switch.settings import Settings
from switch.terminals.acceptance_life import LIFE
from switch.terminals.acceptance_steps import RULES

FILE_MAX = 64 << 10


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("acceptance", help="before a device goes live: tests, checks, training").add_subparsers(dest="kind", required=True)
    plan = asking(kinds.add_parser("plan", help="what a model asks for: its versions, or the next one"))
    plan.add_argument("model")
    plan.add_argument("--set", dest="content", type=Path, metavar="FILE", help="JSON with steps, checks and roles")
    plan.add_argument("--reason")
    opened = asking(kinds.add_parser("open", help="a test of a device that is installed"))
    opened.add_argument("device", help="dev_...")
    opened.add_argument("--reason", required=True)
    move = asking(kinds.add_parser("move", help="the next step of a test; while it runs its till sells"))
    move.add_argument("test", help="act_...")
    move.add_argument("event", choices=sorted(LIFE.events))
    move.add_argument("--reason", required=True)
    asking(kinds.add_parser("show", help="a test: what was shown, what is missing")).add_argument("test", help="act_...")
    show = asking(kinds.add_parser("name", help="name the transaction that shows a step; the books decide"))
    show.add_argument("test", help="act_...")
    show.add_argument("step", choices=sorted(RULES))
    show.add_argument("transaction", help="txn_...")
    asking(kinds.add_parser("lacks", help="what a device lacks before it goes live")).add_argument("device", help="dev_...")
    check = asking(kinds.add_parser("check", help="say that a check of the list was done"))
    check.add_argument("device", help="dev_...")
    check.add_argument("code")
    check.add_argument("--not-done", action="store_true", help="it was not")
    check.add_argument("--reason", required=True)
    trained = asking(kinds.add_parser("trained", help="record who was trained, or list them"))
    for name, words in (("store", "sto_..."), ("model", "of the terminal"), ("role", "such as cashier"), ("trainee", "who"), ("trainer", "by whom"),
                        ("held-on", "YYYY-MM-DD")):
        trained.add_argument(f"--{name}", help=words)


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    return put(_question(options), options, settings, say)


def _question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "plan" if options.content is not None:
            if not options.reason:
                raise StartError("acceptance plan --set needs --reason")
            return Question("PUT", f"/v1/acceptance-plans/{quoted(options.model)}", _object(options.content) | {"reason": options.reason},
                            lambda said: iter([_plan(said)]))
        case "plan":
            return Question("GET", f"/v1/acceptance-plans/{quoted(options.model)}", None, lambda body: (_plan(item) for item in body["items"]))
        case "open":
            return Question("POST", f"/v1/devices/{quoted(options.device)}/acceptance-tests", {"reason": options.reason}, _test)
        case "move":
            return Question("POST", f"/v1/acceptance-tests/{quoted(options.test)}/moves", {"event": options.event, "reason": options.reason}, _test)
        case "show":
            return Question("GET", f"/v1/acceptance-tests/{quoted(options.test)}", None, _test)
        case "name":
            return Question("POST", f"/v1/acceptance-tests/{quoted(options.test)}/showings",
                            {"step": options.step, "transaction": options.transaction}, lambda said: iter([_showing(said)]))
        case "lacks":
            return Question("GET", f"/v1/devices/{quoted(options.device)}/readiness", None, _lacks)
        case "check":
            body = {"check": options.code, "done": not options.not_done, "reason": options.reason}
            return Question("POST", f"/v1/devices/{quoted(options.device)}/checks", body, _lacks)
    given = {name: value for name in ("store", "model", "role", "trainee", "trainer", "held_on") if (value := getattr(options, name)) is not None}
    if "trainee" not in given:
        return Question("GET", "/v1/trainings?limit=200", None, lambda body: (_training(item) for item in body["items"]))
    return Question("POST", "/v1/trainings", given, lambda said: iter([_training(said)]))


def _object(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > FILE_MAX:
            raise StartError("the file with the plan is larger than 64 kB")
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise files.unread(path, error) from None
    if not isinstance(values, dict):
        raise StartError("the file with the plan must hold one JSON object")
    return values


def _steps(steps: list[Any]) -> str:
    return ", ".join(each["step"] + (f" ({each['dialect']})" if each["dialect"] else "") for each in steps) or "-"


def _plan(row: Any) -> str:
    checks = ", ".join(each["code"] for each in row["checks"]) or "-"
    return (f"{row['model']}  version {row['version']}  {row['created_at']} by {row['by']}: {row['reason']}\n"
            f"  steps: {_steps(row['steps'])}  checks: {checks}  trained: {', '.join(row['roles']) or '-'}")


def _test(body: Any) -> Iterator[str]:
    yield f"{body['id']}  {body['device']}  {body['terminal']}  {body['state']} since {body['since']}"
    for event in body["events"]:
        yield f"  {event['at']}  {event['event']:<8} by {event['by']}: {event['reason']}"
    yield from (f"  {_showing(each)}" for each in body["showings"])
    yield f"  missing: {_steps(body['missing'])}"
    if body["standing"]:
        yield f"  to undo: {', '.join(body['standing'])}"


def _showing(row: Any) -> str:
    return f"{row['step']:<16} {row['transaction']}  {'shown' if row['shown'] else 'NOT SHOWN: ' + ' '.join(row['findings'])}"


def _lacks(body: Any) -> Iterator[str]:
    yield f"{body['device']}  {body['model']}  {body['state']}  {'ready' if body['ready'] else 'not ready'} (plan {body['plan_version']})"
    if not body["ready"]:
        yield f"  steps: {_steps(body['steps'])}  checks: {', '.join(each['code'] for each in body['checks']) or '-'}"
        yield f"  to be trained: {', '.join(body['roles']) or '-'}"


def _training(row: Any) -> str:
    return f"{row['id']}  {row['held_on']}  {row['trainee']} as {row['role']} for {row['model']} at {row['store']} by {row['trainer']}"
