"""The command `switch stand-in list | set | off`, on the database itself: a running switch follows within a second."""

import argparse
import json
from collections.abc import Callable
from typing import Any

from switch import database
from switch.api.stand_in import shown
from switch.commands.files import nothing
from switch.errors import Problem
from switch.ids import read
from switch.merchants.onboarding import Onboarding
from switch.merchants.stand_in import ANY, ENTRY_MODES, end_stand_in, set_stand_in, stand_in_of
from switch.money import text
from switch.settings import Settings


def parsers(verbs: Any) -> None:
    """Adds the command to the command line."""
    kinds = verbs.add_parser("stand-in", help="sales approved in an acquirer's stead while it cannot be reached").add_subparsers(
        dest="kind", required=True)
    listed = kinds.add_parser("list", help="what is agreed, and what was sold by it, by day")
    put = kinds.add_parser("set", help="agree to it, or to other limits")
    off = kinds.add_parser("off", help="agree to it no more")
    for parser in (listed, put, off):
        parser.add_argument("acquirer", metavar="NAME", help="of the acquirer")
    for parser in (put, off):
        parser.add_argument("--merchant", help="mer_...; default: any")
        parser.add_argument("--brand", default=ANY, help="default: any")
        parser.add_argument("--reason", required=True, help="it stays in the records")
        parser.add_argument("--by", default="command line", metavar="PERSON")
    put.add_argument("--currency", required=True)
    put.add_argument("--sale-amount", type=int, required=True, metavar="MINOR_UNITS", help="of one sale, at most")
    put.add_argument("--day-amount", type=int, required=True, metavar="MINOR_UNITS", help="of a merchant and brand on a business date, at most")
    put.add_argument("--day-count", type=int, required=True, metavar="N", help="so many sales of these, at most")
    put.add_argument("--entry-modes", default=",".join(ENTRY_MODES), metavar="chip,...")


async def work(options: argparse.Namespace, url: str, settings: Settings, say: Callable[[str], None]) -> int:
    """Raises Problem: not_found, invalid, conflict, not_ready."""
    pool = await database.pool(url, "switch_writer", 1)
    try:
        acquirer_id = (await Onboarding(pool).acquirer_named(options.acquirer)).acquirer_id
        if options.kind == "list":
            terms, days = await stand_in_of(pool, acquirer_id)
            for each in terms:
                say(json.dumps(shown(each)))
            for day in days:
                say(f"{day.business_date}  {day.merchant_id}  {day.brand}: {day.count} sales, {text(day.amount, day.currency)}")
            if not terms and not days:
                nothing()
            return 0
        merchant_id = None if options.merchant is None else read("merchant", options.merchant)
        if options.merchant is not None and merchant_id is None:
            raise Problem("not_found", f"{options.merchant[:60]} is not the id of a merchant")
        if options.kind == "off":
            say(json.dumps(shown(await end_stand_in(pool, acquirer_id, merchant_id, options.brand, options.reason, options.by))))
            return 0
        said = {name: getattr(options, name) for name in ("currency", "sale_amount", "day_amount", "day_count", "reason", "by")}
        say(json.dumps(shown(await set_stand_in(pool, acquirer_id, merchant_id, options.brand, entry_modes=options.entry_modes.split(","), **said))))
    finally:
        await pool.close()
    return 0
