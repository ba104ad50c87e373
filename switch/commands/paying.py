"""The command `switch payouts run | list | file | answer`: works on the database itself, whether a switch runs or not."""

import argparse
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from uuid import UUID

from switch import database
from switch.api.payouts import shown_answer, shown_file, shown_outcome
from switch.app import open_vault
from switch.database import Pool
from switch.errors import Problem
from switch.failpoints import failpoint
from switch.ids import read, show
from switch.money import decimal
from switch.security.vault import Vault
from switch.settings import load
from switch.settlement import payouts
from switch.settlement.bank_answers import BankAnswers
from switch.settlement.banking import masked
from switch.settlement.payout_files import PayoutFiles
from switch.settlement.payouts import Payouts

CHUNK_BYTES = 1 << 16
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


async def work(options: argparse.Namespace, url: str, say: Callable[[str], None]) -> int:
    """0 when it is done. Raises Problem."""
    pool = await database.pool(url, "switch_writer", 2)
    try:
        if options.kind == "run":
            await _run(options, pool, say)
        elif options.kind == "list":
            await _list(options, pool, say)
        elif options.kind == "file":
            await _file(options, pool, say)
        else:
            row, new = await BankAnswers(pool, _vault()).take(options.path.name[:120], _chunks(options.path), options.person)
            say(json.dumps({**shown_answer(row), "new": new}))
    finally:
        await pool.close()
    return 0


def _vault() -> Vault:
    return open_vault(load())


def _merchant(options: argparse.Namespace) -> UUID | None:
    found = None if options.merchant is None else read("merchant", options.merchant)
    if options.merchant is not None and found is None:
        raise Problem("not_found", f"{options.merchant[:60]} is not the id of a merchant")
    return found


async def _run(options: argparse.Namespace, pool: Pool, say: Callable[[str], None]) -> None:
    after = None
    while True:
        done = await payouts.run(pool, options.person, merchant_id=_merchant(options), currency=options.currency, after=after)
        for each in done.outcomes:
            say(json.dumps(shown_outcome(each)))
        if not done.more:
            return
        after = (done.outcomes[-1].merchant_id, done.outcomes[-1].currency)


async def _list(options: argparse.Namespace, pool: Pool, say: Callable[[str], None]) -> None:
    for row in await Payouts(pool).page(_merchant(options), options.state, options.currency, None, None, SHOWN):
        say(f"{show('payout', row['payout_id'])}  {row['state']:<9}  {decimal(row['amount'], row['currency']):>16} {row['currency']}  "
            f"{row['holder']} {masked(row['last4'])}  {row['reason']}".rstrip())


async def _file(options: argparse.Namespace, pool: Pool, say: Callable[[str], None]) -> None:
    files = PayoutFiles(pool, _vault())
    row, new = await files.make(options.currency, options.format, None, options.person)
    _, data = await files.content(row["file_id"])
    _write(options.path, data)
    failpoint("payout.written")
    say(json.dumps({**shown_file(await files.sent(row["file_id"], options.person)), "new": new, "path": str(options.path)}))


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, for its owner alone: it holds account numbers."""
    fresh = path.with_name(f".{path.name}.new")
    try:
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError as error:
        raise Problem("not_found", f"The file cannot be written: {error.strerror}.") from None


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        raise Problem("not_found", f"The file cannot be read: {error.strerror}.") from None
