"""The commands `switch import merchants FILE` and `switch export merchants FILE`: merchants and terminals by the thousand, at a running switch."""

import argparse
import http.client
import json
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from switch.commands.files import unread, write_private
from switch.commands.inquiries import asking, reached
from switch.errors import Problem, StartError
from switch.inquiry import exchange
from switch.settings import Settings

POLL_S, FAULTS_SHOWN = 0.5, 20
ENDED = ("checked", "refused", "done")


def parsers(verbs: Any) -> None:
    """Adds the commands to the command line."""
    kinds = verbs.add_parser("import", help="merchants, stores and terminals from CSV").add_subparsers(dest="kind", required=True)
    given = asking(kinds.add_parser("merchants", help="merchants with their stores and terminals; docs/imports.md has the columns"))
    given.add_argument("path", type=Path, metavar="FILE", help="CSV, plain or gzip")
    given.add_argument("--dry-run", action="store_true", help="check, write nothing")
    given.add_argument("--skip-bad", action="store_true", help="write what is sound although something is wrong")
    kinds = verbs.add_parser("export", help="what was imported and stands now, as the same CSV").add_subparsers(dest="kind", required=True)
    asking(kinds.add_parser("merchants", help="merchants with their stores and terminals")).add_argument("path", type=Path, metavar="FILE")


def work(options: argparse.Namespace, settings: Settings, say: Callable[[str], None]) -> int:
    """0 when all of the file is in, or sound in a dry run; 1 when something in it is wrong. Raises StartError, Problem."""
    base, key = reached(options, settings)
    if options.verb == "export":
        write_private(options.path, _asked(base, key, "GET", "/v1/directory/export"))
        say(json.dumps({"file": str(options.path)}))
        return 0
    try:
        data = options.path.read_bytes()
    except OSError as error:
        raise unread(options.path, error) from None
    query = urllib.parse.urlencode({"name": options.path.name[:120], "dry_run": options.dry_run, "skip_bad": options.skip_bad})
    found = json.loads(_asked(base, key, "POST", f"/v1/imports?{query}", data))
    path, told = f"/v1/imports/{found['id']}", None
    while found["state"] not in ENDED:
        time.sleep(POLL_S)
        found = json.loads(_asked(base, key, "GET", path))
        if found["written_to"] != told:
            told = found["written_to"]
            say(f"{found['state']}: {told} of {found['lines']} lines")
    for fault in json.loads(_asked(base, key, "GET", f"{path}/faults?limit={FAULTS_SHOWN}"))["items"]:
        say(f"line {fault['line']}, {fault['column']}: {fault['rule']}")
    say(json.dumps(found))
    return 1 if found["faults"] else 0


def _asked(base: str, key: str, method: str, path: str, body: bytes | None = None) -> bytes:
    """The body of a good answer. Raises Problem as the switch told it, StartError when it is not there."""
    try:
        answer = exchange(base, method, path, key, body, "text/csv")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise StartError(f"the switch at {base} does not answer ({type(error).__name__}); start it, or name it with --url") from None
    if answer.status >= 300:
        told = json.loads(answer.raw)
        raise Problem(told["code"], told.get("detail", ""))
    return answer.raw
