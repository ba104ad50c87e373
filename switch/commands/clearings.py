"""The command `switch clearing load FILE`: brings in a file and reconciles, on the database itself, in a process that takes no payments."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from switch import database
from switch.commands.files import chunks_of
from switch.errors import Problem
from switch.ids import read, show
from switch.merchants.rules import check
from switch.settings import Settings
from switch.settlement.reconciliation.intake import Intake
from switch.settlement.reconciliation.runs import finish

NAMED = "SELECT acquirer_id, coalesce(institution_code, name) AS institution FROM acquirer WHERE name = $1 OR acquirer_id = $2"


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("clearing", help="bring in a large clearing file or bank statement and reconcile").add_subparsers(
        dest="kind", required=True)
    load = kinds.add_parser("load", help="in a process of its own, whether a switch runs or not")
    load.add_argument("path", type=Path, help="plain or gzip")
    load.add_argument("--acquirer", metavar="NAME", help="name or acq_... whose clearing file it is; none for a bank statement")
    load.add_argument("--person", required=True, help="who brings it in")


async def work(options: argparse.Namespace, url: str, settings: Settings, say: Callable[[str], None]) -> int:
    """0 when the file is in and no run is due. Raises Problem: invalid, not_found, file_refused, conflict."""
    check(person=options.person)
    async def connect() -> database.Connection:
        return await database.connect(url, "switch_writer")

    connection = await connect()
    try:
        acquirer_id, institutions = None, None
        if options.acquirer is not None:
            found = await connection.fetchrow(NAMED, options.acquirer, read("acquirer", options.acquirer))
            if found is None:
                raise Problem("not_found", f"{options.acquirer[:60]} is neither the name nor the id of an acquirer")
            acquirer_id, institutions = found["acquirer_id"], [found["institution"]]
        row, new = await Intake(connect).take("clearing" if acquirer_id else "statement", acquirer_id, institutions, options.path.name[:120],
                                              chunks_of(options.path), options.person)
        made = await finish(connection)
    finally:
        await connection.close()
    say(json.dumps({"file": show("clearing_file", row["file_id"]), "new": new, "business_date": row["business_date"].isoformat(),
                    "lines": row["lines"], "runs": made}))
    return 0
