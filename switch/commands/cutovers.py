"""The command `switch cutover run | status ACQUIRER [DATE]`: works on the database itself, whether a switch runs or not."""

import argparse
import json
from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID

from switch import database
from switch.clock import clock
from switch.errors import Problem
from switch.ids import read, show
from switch.settings import Settings
from switch.settlement.cutover import steps

SHOWN_DAYS = 20
NAMED = "SELECT acquirer_id FROM acquirer WHERE name = $1"


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("cutover", help="close a business day of an acquirer: settle, price and post what was sold").add_subparsers(
        dest="kind", required=True)
    for kind, text in (("run", "to its end, or on from where it stopped"), ("status", "how far it is, step by step")):
        parser = kinds.add_parser(kind, help=text)
        parser.add_argument("acquirer", help="name or acq_...")
        parser.add_argument("date", nargs="?", type=_date,
                            help="business date, YYYY-MM-DD; default: the oldest that is not finished (run), all (status)")
        if kind == "run":
            _run_options(parser)


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("it must be a date such as 2026-11-23") from None


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--gentle", action="store_true", help="slower, so that payments beside it keep their answer times")


async def work(options: argparse.Namespace, url: str, settings: Settings, say: Callable[[str], None]) -> int:
    """0 when it is done, 1 when it must wait. Raises Problem."""
    async def connect() -> database.Connection:
        return await database.connect(url, "switch_writer")

    connection = await connect()
    try:
        acquirer_id = read("acquirer", options.acquirer) or await connection.fetchval(NAMED, options.acquirer)
        if acquirer_id is None:
            raise Problem("not_found", f"{options.acquirer[:60]} is neither the name nor the id of an acquirer")
        if options.kind == "status":
            days = await steps.stands(connection, acquirer_id, options.date, limit=SHOWN_DAYS)
            for row in days:
                _tell(row, say)
            if not days:
                say("no cut-over has begun" if options.date is None else f"no cut-over of {options.date} has begun")
            return 0
    finally:
        await connection.close()
    return _told(await steps.run(connect, acquirer_id, options.date, gentle=options.gentle, now=clock.now()), acquirer_id, say)


def _tell(row: dict[str, Any], say: Callable[[str], None]) -> None:
    say(f"{row['business_date']}  next {row['next_date']}  {'done ' + row['ended_at'].isoformat()[:19] if row['ended_at'] else 'not finished'}")
    for step in row["steps"]:
        say(f"  {step['step']:<8} {step['state']:<8} {(step['ended_at'] or step['started_at'])[:19]}  {json.dumps(step['detail'])}")


def _told(done: steps.Cutover, acquirer_id: UUID, say: Callable[[str], None]) -> int:
    say(json.dumps({"acquirer": show("acquirer", acquirer_id), "business_date": done.business_date.isoformat(), "next": done.next_date.isoformat(),
                    "step": done.step, "done": done.done, "waits_for": done.waits_for or None}))
    return 0 if done.done else 1
