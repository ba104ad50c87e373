"""Rules tried against sales that were made: where they would go by the rules in force, and where by those with some switched on or off.

Nothing is written. Lines and answers of that time are not known, so every acquirer counts as well.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import lowest
from switch.payments.routing import Book, Sale, order
from switch.records import Merchant, Route

SALES_MAX, PAGE, EXAMPLES_MAX = 20_000, 100, 20

# Newest first; the ids are in the order of time. Only first attempts: the others followed from them.
_SALES = """SELECT transaction_id, merchant_id, store_id, terminal_id, acquirer_id, amount, currency, brand, mcc, entry_mode, masked_pan, received_at
FROM history_transaction WHERE transaction_id >= $1 AND transaction_id < $2 {} AND exchange = 'request' AND original_id IS NULL
AND attempt_of IS NULL ORDER BY transaction_id DESC LIMIT $3"""
SALES, SALES_OF = _SALES.format(""), _SALES.format("AND merchant_id = $4")


class Moved(NamedTuple):
    """A sale that would go elsewhere. None: nowhere."""

    transaction_id: UUID
    amount: int
    currency: str
    brand: str
    before: Route | None
    after: Route | None


@dataclass(slots=True)
class Rehearsal:
    """How many sales each acquirer would get first; `recorded`: how many it got. None as an acquirer: no rule led anywhere."""

    looked_at: int = 0
    whole: bool = True  # False: the period has more than were looked at
    recorded: Counter[UUID] = field(default_factory=Counter)
    before: Counter[UUID | None] = field(default_factory=Counter)
    after: Counter[UUID | None] = field(default_factory=Counter)
    fired: Counter[UUID] = field(default_factory=Counter)  # rules that put somebody first, with the change
    moved: int = 0
    examples: list[Moved] = field(default_factory=list)

    def take(self, row: Any, before: Route | None, after: Route | None) -> None:
        self.looked_at += 1
        self.recorded[row["acquirer_id"]] += 1
        was, will = (None if route is None else route.acquirer_id for route in (before, after))
        self.before[was] += 1
        self.after[will] += 1
        if after is not None:
            self.fired[after.route_id] += 1
        if was != will:
            self.moved += 1
            if len(self.examples) < EXAMPLES_MAX:
                self.examples.append(Moved(row["transaction_id"], row["amount"], row["currency"], row["brand"], before, after))


def changed(routes: Iterable[Route], on: Collection[UUID], off: Collection[UUID]) -> list[Route]:
    """The rules as they would be."""
    return [route._replace(state="active") if route.route_id in on else route._replace(state="retired") if route.route_id in off else route
            for route in routes]


def sale_of(row: Any, merchant: Merchant, identity: UUID) -> Sale:
    """A recorded sale as rules see it, with what the books keep of its card number."""
    return Sale(row["merchant_id"], row["mcc"], row["brand"], row["masked_pan"].partition("*")[0], row["amount"], row["currency"], row["entry_mode"],
                row["received_at"].astimezone(merchant.zone), identity, row["store_id"])


def _first(book: Book, sale: Sale, known: Collection[UUID]) -> Route | None:
    return next((lot.route for lot in order(book.plan(sale.merchant_id, sale.mcc, sale.brand), sale, known)), None)


async def rehearse(pool: Pool, directory: Directory, after: list[Route], since: datetime, until: datetime, merchant_id: UUID | None = None,
                   limit: int = SALES_MAX) -> Rehearsal:
    """The newest `limit` sales of a period, by the rules in force and by `after`. The loop is given back after each page.

    Raises Problem not_ready.
    """
    now, then, found = Book(directory.routes.values()), Book(after), Rehearsal()
    begin, end = lowest(since), lowest(until)
    more = () if merchant_id is None else (merchant_id,)
    while (wanted := min(PAGE, limit - found.looked_at)) > 0:
        try:
            rows = await pool.fetch(SALES_OF if more else SALES, begin, end, wanted, *more)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        for row in rows:
            terminal, merchant = directory.terminals.get(row["terminal_id"]), directory.merchants.get(row["merchant_id"])
            known = [] if terminal is None else [each for each in terminal.numbers if each in directory.acquirers]
            if merchant is not None:
                sale = sale_of(row, merchant, row["transaction_id"])
                found.take(row, _first(now, sale, known), _first(then, sale, known))
            end = row["transaction_id"]
        if len(rows) < wanted:
            return found
        await asyncio.sleep(0)
    found.whole = False
    return found
