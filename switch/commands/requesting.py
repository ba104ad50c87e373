"""The command `switch ask METHOD PATH`: any route of a running switch, as its OpenAPI file describes it, for what has no command of its own."""

import argparse
import http.client
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from switch.commands.files import unread, write_private
from switch.commands.inquiries import asking, reached, refusal, unreached
from switch.errors import StartError
from switch.inquiry import JSON, Answer, exchange
from switch.settings import Settings

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
IN_QUERY = ("GET", "DELETE")
FILE_MAX = 64 << 20


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    asked = asking(verbs.add_parser("ask", help="any route of GET /openapi.json, such as: switch ask GET /v1/settlements -f currency=CNY"))
    asked.add_argument("method", type=str.upper, choices=METHODS)
    asked.add_argument("path", metavar="/v1/...")
    asked.add_argument("-f", "--field", action="append", default=[], metavar="NAME=TEXT", help="of the query with GET and DELETE, else of the body")
    asked.add_argument("-j", "--json", action="append", default=[], metavar="NAME=JSON", help="the same, for numbers, true, null, lists and objects")
    asked.add_argument("--body", type=Path, metavar="FILE", help="what is sent; - is standard input; with POST, PUT and PATCH")
    asked.add_argument("--media-type", default=JSON, help="of --body; default: application/json")
    asked.add_argument("--idempotency-key", metavar="KEY", help="of a POST that is sent again; default: a new one")
    asked.add_argument("--to", type=Path, metavar="FILE", help="where the answer goes: an export, a statement, a receipt")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises StartError: the switch cannot be reached, or refuses; Problem: the answer cannot be written."""
    fields = {**dict(_pair(each) for each in options.field), **{name: _value(name, text) for name, text in map(_pair, options.json)}}
    path, body = _sent(options, fields)
    url, key = reached(options, settings)
    headers = {"Idempotency-Key": options.idempotency_key or secrets.token_hex(16)} if options.method == "POST" else {}
    try:
        answer = exchange(url, options.method, path, key, body, options.media_type, **headers)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise unreached(error) from None
    if answer.status >= 400:
        raise refusal(answer.status, _json(answer))
    if options.to is not None:
        write_private(options.to, answer.raw)
        say(json.dumps({"file": str(options.to), "bytes": len(answer.raw), "media_type": answer.media_type}))
    elif answer.media_type == JSON:
        say(json.dumps(_json(answer), indent=2, ensure_ascii=False))
    elif answer.media_type.startswith("text/"):
        say(answer.raw.decode(errors="replace"))
    elif answer.raw:
        raise StartError(f"the answer is a file ({answer.media_type}, {len(answer.raw)} bytes); say --to FILE")
    return 0


def _sent(options: argparse.Namespace, fields: dict[str, Any]) -> tuple[str, bytes | None]:
    """The path with its query, and the body."""
    if not options.path.startswith("/"):
        raise StartError(f"the path begins with /, such as /{quote(options.path)}")
    if options.method in IN_QUERY:
        if options.body is not None:
            raise StartError(f"{options.method} has no body; say --field")
        query = urlencode({name: text if isinstance(text, str) else json.dumps(text) for name, text in fields.items()})
        return options.path + ("&" if "?" in options.path else "?") * bool(query) + query, None
    if options.body is None:
        return options.path, json.dumps(fields).encode()
    if fields:
        raise StartError("say --body, or --field and --json, not both")
    try:
        with sys.stdin.buffer if str(options.body) == "-" else options.body.open("rb") as file:
            content: bytes = file.read(FILE_MAX + 1)
    except OSError as error:
        raise unread(options.body, error) from None
    if len(content) > FILE_MAX:
        raise StartError(f"{options.body} is larger than {FILE_MAX >> 20} MB")
    return options.path, content


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name or not separator:
        raise StartError(f"{text!r} is no NAME=VALUE")
    return name, value


def _value(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise StartError(f"{name} is no JSON; text is said with --field") from None


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.raw or b"null")
    except ValueError:
        return None
