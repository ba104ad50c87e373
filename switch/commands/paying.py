"""The command `switch payouts run | list | file | answer`: works on the database itself, whether a switch runs or not."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from switch import database
from switch.api.payouts import shown_answer, shown_file, shown_outcome
from switch.commands.files import chunks_of, nothing, write_private
from switch.custody import open_vault
from switch.database import Pool
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import read, show
from switch.merchants.rules import check
from switch.money import decimal
from switch.settings import Settings
from switch.settlement.payouts import runs
from switch.settlement.payouts.answers import BankAnswers
from switch.settlement.payouts.banking import masked
from switch.settlement.payouts.files import PayoutFiles
from switch.settlement.payouts.runs import Payouts

SHOWN = 50


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("payouts", help="pay merchants what is due, and take what the bank answers").add_subparsers(dest="kind", required=True)
    run = kinds.add_parser("run", help="ask for what is due now; again pays nothing twice")
    listed = kinds.add_parser("list", help="payouts, newest first")
    listed.add_argument("--state", choices=("requested", "sent", "confirmed", "returned"))
    for parser in (run, listed):
        parser.add_argument("--merchant", metavar="mer_...")
        parser.add_argument("--currency")
    file = kinds.add_parser("file", help="write the file for the bank and say that it was sent; after a crash, the same file again")
    file.add_argument("path", type=Path)
    file.add_argument("--currency", required=True)
    file.add_argument("--format", choices=("pain001", "csv"), default="pain001")
    answer = kinds.add_parser("answer", help="take a camt.053 statement or a CSV answer, plain or gzip")
    answer.add_argument("path", type=Path)
    for parser in (run, file, answer):
        parser.add_argument("--person", required=True, help="who does it")


async def work(options: argparse.Namespace, url: str, settings: Settings, say: Callable[[str], None]) -> int:
    """0 when it is done. Raises Problem."""
    check(person=getattr(options, "person", None))
    pool = await database.pool(url, "switch_writer", 2)
    try:
        if options.kind == "run":
            await _run(options, pool, say)
        elif options.kind == "list":
            await _list(options, pool, say)
        elif options.kind == "file":
            await _file(options, pool, settings, say)
        else:
            row, new = await BankAnswers(pool, open_vault(settings)).take(options.path.name[:120], chunks_of(options.path), options.person)
            say(json.dumps({**shown_answer(row), "new": new}))
    finally:
        await pool.close()
    return 0


def _merchant(options: argparse.Namespace) -> UUID | None:
    found = None if options.merchant is None else read("merchant", options.merchant)
    if options.merchant is not None and found is None:
        raise Problem("not_found", f"{options.merchant[:60]} is not the id of a merchant")
    return found


async def _run(options: argparse.Namespace, pool: Pool, say: Callable[[str], None]) -> None:
    after = None
    while True:
        done = await runs.run(pool, options.person, merchant_id=_merchant(options), currency=options.currency, after=after)
        for each in done.outcomes:
            say(json.dumps(shown_outcome(each)))
        if not done.more:
            return
        after = (done.outcomes[-1].merchant_id, done.outcomes[-1].currency)


async def _list(options: argparse.Namespace, pool: Pool, say: Callable[[str], None]) -> None:
    rows = await Payouts(pool).page(_merchant(options), options.state, options.currency, None, None, SHOWN)
    if not rows:
        nothing()
    for row in rows:
        say(f"{show('payout', row['payout_id'])}  {row['state']:<9}  {decimal(row['amount'], row['currency']):>16} {row['currency']}  "
            f"{row['holder']} {masked(row['last4'])}  {row['reason']}".rstrip())


async def _file(options: argparse.Namespace, pool: Pool, settings: Settings, say: Callable[[str], None]) -> None:
    files = PayoutFiles(pool, open_vault(settings))
    row, new = await files.make(options.currency, options.format, None, options.person)
    _, data = await files.content(row["file_id"])
    write_private(options.path, data)
    failpoint("payout.written")
    say(json.dumps({**shown_file(await files.sent(row["file_id"], options.person)), "new": new, "path": str(options.path)}))
