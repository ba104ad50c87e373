"""The command `switch terminal ...`: devices, their codes, parameters and software; asks a running switch with an operator's key."""

import argparse
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from switch.commands import files
from switch.commands.inquiries import Question, asking, put, quoted
from switch.errors import StartError
from switch.settings import Settings
from switch.terminals.lifecycle import BY_PEOPLE, LIFE


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("terminal", help="devices in shops: their life, codes, parameters, software").add_subparsers(dest="kind", required=True)
    listed = asking(kinds.add_parser("list", help="devices, newest first"))
    listed.add_argument("--state", choices=LIFE.states)
    listed.add_argument("--merchant", help="mer_...")
    listed.add_argument("--serial", help="its serial number")
    listed.add_argument("--silent", action="store_true", help="only those that are not heard of")
    asking(kinds.add_parser("show", help="one as it is now, with every move of it")).add_argument("device", help="dev_...")
    asking(kinds.add_parser("health", help="what it last said of itself")).add_argument("device", help="dev_...")
    added = asking(kinds.add_parser("register", help="take one into the inventory"))
    added.add_argument("serial")
    added.add_argument("--model", required=True)
    move = asking(kinds.add_parser("move", help="the next step of its life"))
    move.add_argument("device", help="dev_...")
    move.add_argument("event", choices=sorted(BY_PEOPLE))
    move.add_argument("--store", help="sto_..., to order")
    move.add_argument("--terminal", help="trm_... of the till, to install")
    move.add_argument("--sells", action="store_true", help="its till may sell while it is maintained")
    swap = asking(kinds.add_parser("swap", help="another device takes over its till"))
    swap.add_argument("device", help="dev_...")
    swap.add_argument("replacement", help="dev_...")
    for parser in (added, move, swap):
        parser.add_argument("--reason", required=True, help="it stays in the device's story")
    asking(kinds.add_parser("code", help="a code that activates it once")).add_argument("device", help="dev_...")
    _software_parsers(kinds)


def _software_parsers(kinds: Any) -> None:
    shown = asking(kinds.add_parser("parameters", help="show the versions of a level, or write the next one"))
    shown.add_argument("owner", help="default, mer_..., sto_... or trm_...")
    shown.add_argument("--set", dest="values", type=Path, metavar="FILE", help="all of the level as a JSON object")
    shown.add_argument("--reason")
    release = asking(kinds.add_parser("release", help="add a version of a model's software"))
    release.add_argument("model")
    release.add_argument("version")
    release.add_argument("--at", dest="place", required=True, metavar="URL", help="https://... where devices get it")
    release.add_argument("--file", required=True, type=Path, help="the same file here: its size and SHA-256 are what devices compare")
    release.add_argument("--notes", default="")
    begin = asking(kinds.add_parser("rollout", help="begin a roll-out"))
    begin.add_argument("model")
    begin.add_argument("version")
    begin.add_argument("--back-to", required=True, metavar="VERSION", help="when it is rolled back")
    begin.add_argument("--percent", type=int, required=True)
    begin.add_argument("--store", dest="stores", action="append", metavar="sto_...", help="only there; may be said again")
    begin.add_argument("--reason", required=True)
    change = asking(kinds.add_parser("rollout-change", help="advance, pause, resume or roll back"))
    change.add_argument("rollout", help="rol_...")
    change.add_argument("event", choices=("advance", "pause", "resume", "roll_back"))
    change.add_argument("--percent", type=int, help="to advance")
    change.add_argument("--reason", required=True)
    asking(kinds.add_parser("rollouts", help="roll-outs, or one with how far it has come")).add_argument("rollout", nargs="?", help="rol_...")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses."""
    if options.kind == "show":
        put(Question("GET", f"/v1/devices/{quoted(options.device)}", None, lambda body: iter([_device(body)])), options, settings, say)
    question = _device_question(options) or _software_question(options)
    return put(question, options, settings, say)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _device_question(options: argparse.Namespace) -> Question | None:
    match options.kind:
        case "list":
            asked = {"state": options.state, "merchant": options.merchant, "serial_number": options.serial,
                     "silent": "true" if options.silent else None}
            query = "&".join(["limit=200", *(f"{name}={quoted(value)}" for name, value in asked.items() if value)])
            return Question("GET", f"/v1/devices?{query}", None, lambda body: (_device(item) for item in body["items"]))
        case "show":
            return Question("GET", f"/v1/devices/{quoted(options.device)}/events?limit=200", None, _story)
        case "health":
            return Question("GET", f"/v1/devices/{quoted(options.device)}/health?hours=0", None, _health)
        case "register":
            body = {"serial_number": options.serial, "model": options.model, "reason": options.reason}
            return Question("POST", "/v1/devices", body, lambda said: iter([_device(said)]))
        case "move":
            sells = {"sells": True} if options.sells else {}
            body = {**_given(options, "event", "store", "terminal", "reason"), **sells}
            return Question("POST", f"/v1/devices/{quoted(options.device)}/moves", body, lambda said: iter([_device(said)]))
        case "swap":
            return Question("POST", f"/v1/devices/{quoted(options.device)}/swap", _given(options, "replacement", "reason"),
                            lambda said: iter([_device(said), f"it needs a code: switch terminal code {said['id']}"]))
        case "code":
            return Question("POST", f"/v1/devices/{quoted(options.device)}/activation-codes", {}, _code)
    return None


def _software_question(options: argparse.Namespace) -> Question:
    match options.kind:
        case "parameters" if options.values is not None:
            if not options.reason:
                raise StartError("terminal parameters --set needs --reason")
            return Question("PUT", f"/v1/parameters/{quoted(options.owner)}", {"values": _object(options.values), "reason": options.reason},
                            lambda said: iter([_parameters(said)]))
        case "parameters":
            return Question("GET", f"/v1/parameters/{quoted(options.owner)}", None, lambda body: (_parameters(item) for item in body["items"]))
        case "release":
            return Question("POST", "/v1/releases", {**_given(options, "model", "version", "notes"), "url": options.place, **_measured(options.file)},
                            lambda said: iter([f"{said['id']}  {said['model']} {said['version']}  {said['size']} bytes  sha256 {said['sha256']}"]))
        case "rollout":
            return Question("POST", "/v1/rollouts", _given(options, "model", "version", "back_to", "percent", "stores", "reason"),
                            lambda said: iter([_rollout(said)]))
        case "rollout-change":
            return Question("POST", f"/v1/rollouts/{quoted(options.rollout)}/changes", _given(options, "event", "percent", "reason"),
                            lambda said: iter([_rollout(said)]))
    if options.rollout is None:
        return Question("GET", "/v1/rollouts?limit=200", None, lambda body: (_rollout(item) for item in body["items"]))
    return Question("GET", f"/v1/rollouts/{quoted(options.rollout)}", None, lambda said: iter([_rollout(said)]))


def _measured(path: Path) -> dict[str, Any]:
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
                size += len(part)
    except OSError as error:
        raise files.unread(path, error) from None
    return {"sha256": digest.hexdigest(), "size": size}


def _object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise files.unread(path, error) from None
    if not isinstance(values, dict):
        raise StartError("the file with the parameters must hold one JSON object")
    return values


def _device(row: Any) -> str:
    opened = f"  OPENED {row['tampered_at']}" if row["tampered_at"] else ""
    silent = f"  silent since {row['silent_since']}" if row["silent_since"] else ""
    return (f"{row['id']}  {row['serial_number']:<16} {row['model']:<10} {row['state']:<12} {'sells' if row['sells'] else '-':<6} "
            f"{row['software_version'] or '-':<8} {row['terminal'] or row['store'] or '-'}{opened}{silent}")


def _story(body: Any) -> Iterator[str]:
    for event in reversed(body["items"]):
        place = event["terminal"] or event["store"] or ""
        yield f"  {event['at']}  {event['event']:<10} {event['state']:<12} by {event['by']}: {event['reason']}  {place}"


def _health(body: Any) -> Iterator[str]:
    for name, value in body.items():
        if value is not None and name != "hours":
            yield f"{name.replace('_', ' ')}: {value}"


def _code(body: Any) -> Iterator[str]:
    yield f"{body['code']}  until {body['expires_at']}"


def _parameters(row: Any) -> str:
    values = json.dumps(row["values"], ensure_ascii=False)
    return f"{row['owner']}  version {row['version']}  {row['created_at']} by {row['by']}: {row['reason']}  {values}"


def _rollout(row: Any) -> str:
    far = f"  {row['installed']} of {row['chosen']} chosen have it, {row['devices']} devices" if "chosen" in row else ""
    return f"{row['id']}  {row['model']} {row['version']} (back to {row['back_to']})  {row['state']} {row['percent']} %{far}"
