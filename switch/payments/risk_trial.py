"""Risk rules tried against sales that were made: what they would have hit, and what became of those sales. Nothing is written.

The sales go by in the order in which they were made, each counted unless the rules would have refused it; those of the longest window before
the period are counted too and not judged. A terminal is where it was when the sale was made. Limits and lists are not tried.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.errors import Problem
from switch.ids import lowest
from switch.payments.away import nearest_m, were_away
from switch.payments.counting import FIRST, sale_of
from switch.payments.risk import ACTIONS, Book, Hit, strongest
from switch.payments.velocity import Away
from switch.watchlist import RiskRule

SALES_MAX, PAGE, EXAMPLES_MAX = 50_000, 500, 20
SALES = """SELECT transaction_id, merchant_id, store_id, terminal_id, pan_token, mcc, brand, entry_mode, type, amount, currency, received_at, state,
  charged_back, masked_pan
FROM history_transaction WHERE transaction_id >= $1 AND transaction_id > $2 AND transaction_id < $3 AND attempt_of IS NULL
AND (original_id IS NULL OR type = 'refund') ORDER BY transaction_id LIMIT $4"""


class Example(NamedTuple):
    """A sale that the rules to come would hit."""

    transaction_id: UUID
    amount: int
    currency: str
    masked_pan: str
    state: str
    hits: tuple[Hit, ...]


@dataclass(slots=True)
class Fired:
    """Of one rule: the sales that it hits, and what became of them in truth."""

    hits: int = 0
    approved: int = 0
    charged_back: int = 0
    cards: set[bytes] = field(default_factory=set)
    merchants: set[UUID] = field(default_factory=set)


@dataclass(slots=True)
class RiskTrial:
    """`before`, `after`: sales by the strongest action that the rules in force, and those to come, take; "" for none."""

    looked_at: int = 0
    whole: bool = True
    before: Counter[str] = field(default_factory=Counter)
    after: Counter[str] = field(default_factory=Counter)
    fired: dict[UUID, Fired] = field(default_factory=dict)
    examples: list[Example] = field(default_factory=list)

    def take(self, row: Any, before: tuple[Hit, ...], after: tuple[Hit, ...]) -> None:
        self.looked_at += 1
        self.before[strongest(before) or ""] += 1
        self.after[strongest(after) or ""] += 1
        for hit in after:
            fired = self.fired.setdefault(hit.source_id, Fired())
            fired.hits += 1
            fired.approved += row["state"] == "APPROVED"
            fired.charged_back += row["charged_back"] > 0
            fired.cards.add(row["pan_token"])
            fired.merchants.add(row["merchant_id"])
        if {hit.source_id for hit in after} - {hit.source_id for hit in before} and len(self.examples) < EXAMPLES_MAX:
            self.examples.append(Example(row["transaction_id"], row["amount"], row["currency"], row["masked_pan"], row["state"], after))


def changed(rules: Iterable[RiskRule], on: Collection[UUID], off: Collection[UUID]) -> list[RiskRule]:
    """The rules as they would be."""
    return [rule._replace(state="active") if rule.rule_id in on else rule._replace(state="retired") if rule.rule_id in off else rule
            for rule in rules]


def _judged(book: Book, row: Any, minute: int, away: Away | None, counted_only: bool) -> tuple[Hit, ...]:
    sale = sale_of(row, minute, away)
    counters = book.plan(sale).counters
    if counted_only:
        for counter in counters:
            counter.add(sale, sale.at_ms)
        hits: tuple[Hit, ...] = ()
    else:
        judged = book.judge(sale)
        hits = judged.hits
        if judged.refused:
            return hits
    if row["state"] == "DECLINED":
        for counter in counters:
            counter.declined(sale)
    return hits


async def rehearse(pool: Pool, directory: Directory, after: list[RiskRule], since: datetime, until: datetime, limit: int = SALES_MAX) -> RiskTrial:
    """The newest `limit` sales of a period. The loop is given back after each page. Raises Problem not_ready."""
    now, then, found = Book(directory.risk_rules.values(), {}), Book(after, {}), RiskTrial()
    longest = timedelta(milliseconds=max((spec.window_ms for book in (now, then) for spec in book.counters.of), default=0))
    begin, end = lowest(since), lowest(until)
    asks_where = nearest_m((*now.rules, *after)) is not None
    try:
        first = await pool.fetchval(FIRST, begin, end, limit - 1)
        if first is not None:
            found.whole = await pool.fetchval(FIRST, begin, first, 0) is None
            begin = first
        warm = await pool.fetchval(FIRST, lowest(since - longest), begin, SALES_MAX) or lowest(since - longest)
        past = UUID(int=0)
        while True:
            rows = await pool.fetch(SALES, warm, past, end, PAGE)
            away = await were_away(pool, rows) if asks_where else {}
            for place, row in enumerate(rows):
                merchant = directory.merchants.get(row["merchant_id"])
                if merchant is None:
                    continue
                local = row["received_at"].astimezone(merchant.zone)
                minute, before_it = local.hour * 60 + local.minute, row["transaction_id"] < begin
                hits = [_judged(book, row, minute, away.get(place), before_it) for book in (now, then)]
                if not before_it:
                    found.take(row, *hits)
            if len(rows) < PAGE:
                return found
            past = rows[-1]["transaction_id"]
            await asyncio.sleep(0)
    except UNKNOWN:
        raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None


def by_action(counts: Counter[str]) -> dict[str, int]:
    return {"none": counts[""], **{action: counts[action] for action in ACTIONS}}
