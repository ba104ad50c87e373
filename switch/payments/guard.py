"""Judging the sales of this worker: rules, lists and limits of the directory against what is counted here. No await on the way of a sale.

Merchants' totals are what this worker counted and what others wrote a second ago (counting.py); a sale that would go over them is refused only
when the books say so too, so that what was undone since is not held against a merchant.
"""

from collections.abc import Mapping
from datetime import date, datetime, time
from typing import NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from switch.database import Pool
from switch.directory import Directory
from switch.ids import lowest
from switch.payments.asked import Asked
from switch.payments.risk import Book, Hit, Judged, over_limit
from switch.payments.velocity import Away, Counter, Different, Sale
from switch.security.vault import Vault
from switch.watchlist import Limit

TOTALS_MAX = 200_000
BLOCKED_MAX, BLOCKED_MS = 10_000, 10_000  # of what was blocked here and may not yet have come back through the directory
NOT_SALES = frozenset({"refund", "balance_inquiry", "account_verification"})  # of no limit
TOLD_MS = 1000  # for so long what the books said of a total is believed without asking them again

# In the merchant's month and its day; what was not sold after all, or voided, is not in it. $5: under way here, counted by whom it is.
SOLD = """SELECT coalesce(sum(coalesce(approved_amount, amount)) FILTER (WHERE transaction_id >= $4), 0)::bigint,
  coalesce(sum(coalesce(approved_amount, amount)), 0)::bigint
FROM history_transaction WHERE merchant_id = $1 AND transaction_id >= $3 AND currency = $2 AND original_id IS NULL AND type <> ALL($6::text[])
AND state IN ('SENT', 'APPROVED', 'PARKED', 'CONFIRMED') AND voided = 0 AND transaction_id <> ALL($5::uuid[])
AND (attempt_of IS NULL OR attempt_of <> ALL($5::uuid[]))"""


def elsewhere(limits: dict[str, Limit], currency: str) -> Hit:
    return Hit("limit", min(limits.values()).limit_id, "limit_currency", "decline", None,
               f"the merchant's limits are in {', '.join(sorted(limits))}, and none is in {currency}", {"currency": currency})


class Total:
    """Of a merchant and currency, in the day and month of its zone."""

    __slots__ = ("day", "known", "month", "of_day", "told_at_ms")

    def __init__(self, of_day: date) -> None:
        self.of_day, self.day, self.month, self.known, self.told_at_ms = of_day, 0, 0, False, 0

    def on(self, today: date) -> "Total":
        """The same, when a day or month has begun."""
        if today > self.of_day:
            self.month = self.month if (today.year, today.month) == (self.of_day.year, self.of_day.month) else 0
            self.of_day, self.day = today, 0
        return self


class UnderWay(NamedTuple):
    """A sale that this worker has let through and that has not ended."""

    merchant_id: UUID
    currency: str
    amount: int


class Guard:
    """Of this worker; `directory.guarded` says whether there is anything to do. Joined in app.py."""

    def __init__(self, directory: Directory, vault: Vault) -> None:
        self.directory, self.vault = directory, vault
        self.made_of = -1
        self.book = Book((), directory.watchlist.entries)
        self.fills: list[list[Counter | Different]] = []  # counters that know no sale from before they were made
        self.totals: dict[tuple[UUID, str], Total] = {}
        self.under_way: dict[UUID, UnderWay] = {}
        self.blocked: dict[tuple[str, str], tuple[Hit, int]] = {}
        self.minute, self.minutes = -1, dict[ZoneInfo, int]()
        self.away: Mapping[UUID, Away] = {}  # terminals that some rule asks for (counting.py)

    def current(self, now_ms: int) -> Book:
        """The rules in force, with their counters."""
        changed = self.directory.watchlist.changed
        if self.made_of != changed:
            watchlist = self.directory.watchlist
            self.made_of, self.book = changed, Book(watchlist.rules.values(), watchlist.entries, self.book.counters, now_ms)
            if self.book.counters.new:
                self.fills.append(self.book.counters.new)
        return self.book

    def judge(self, asked: Asked) -> Judged:
        """What speaks against a sale. One that is not refused is counted from now on, before anything is written; but for one whose limit
        the books must be asked for (`ask`), which is for `confirm`."""
        order, seller, at = asked.order, asked.seller, asked.door.received_at
        merchant = seller.merchant
        at_ms = int(at.timestamp() * 1000)
        terminal_id = seller.terminal.terminal_id
        sale = Sale(merchant.merchant_id, seller.store.store_id, terminal_id, self.vault.token(order.pan), merchant.mcc, asked.brand,
                    order.entry_mode, order.type, order.amount, order.currency, at_ms, self._minute(merchant.zone, at, at_ms // 60_000),
                    self.away.get(terminal_id) if self.away else None)
        judged = self.current(at_ms).judge(sale)
        counted = not (judged.hits and judged.refused)
        if self.blocked and counted and (hit := self._just_blocked(sale)) is not None:
            judged = judged._replace(hits=(hit,))
        limits = self.directory.watchlist.limits
        if limits and merchant.merchant_id in limits and order.type not in NOT_SALES and not judged.refused:
            judged = self._limited(judged, limits[merchant.merchant_id], at.astimezone(merchant.zone).date(), asked.identity)
        if judged.hits and judged.refused:
            self._refuse(judged, counted)
        return judged

    def _minute(self, zone: ZoneInfo, at: datetime, minute: int) -> int:
        """Of the day in a zone, asked of the zone once in a minute (`minute`: since 1970)."""
        if self.minute != minute:
            self.minute, self.minutes = minute, {}
        found = self.minutes.get(zone)
        if found is None:
            local = at.astimezone(zone)
            found = self.minutes[zone] = local.hour * 60 + local.minute
        return found

    def _refuse(self, judged: Judged, counted: bool) -> None:
        for counter in judged.counters if counted else ():
            counter.take_back(judged.sale)
        self._block(judged)

    def _limited(self, judged: Judged, limits: dict[str, Limit], today: date, identity: UUID) -> Judged:
        sale = judged.sale
        limit = limits.get(sale.currency)
        if limit is None:
            return judged._replace(hits=(*judged.hits, elsewhere(limits, sale.currency)))
        total = self.total(sale.merchant_id, sale.currency, today)
        hit = over_limit(limit, sale.amount, total.day, total.month)
        if hit is not None and (hit.kind == "limit_per_sale" or (total.known and sale.at_ms - total.told_at_ms < TOLD_MS)):
            return judged._replace(hits=(*judged.hits, hit))
        if hit is not None or not total.known:
            return judged._replace(ask=limit)
        self.admit(judged, identity, today)
        return judged

    async def confirm(self, judged: Judged, asked: Asked, pool: Pool) -> Judged:
        """The same, with what the books say of the limit. Raises what UNKNOWN lists."""
        limit, sale = judged.ask, judged.sale
        assert limit is not None
        merchant = asked.seller.merchant
        today = asked.door.received_at.astimezone(merchant.zone).date()
        day, month = (lowest(datetime.combine(first, time(), merchant.zone)) for first in (today, today.replace(day=1)))
        before = {identity: each for identity, each in self.under_way.items() if each[:2] == (sale.merchant_id, sale.currency)}
        row = await pool.fetchrow(SOLD, sale.merchant_id, sale.currency, month, day, list(before), list(NOT_SALES))
        assert row is not None
        between = sum(each.amount for identity, each in self.under_way.items()
                      if identity not in before and each[:2] == (sale.merchant_id, sale.currency))
        ours = between + sum(each.amount for each in before.values())
        total = self.total(sale.merchant_id, sale.currency, today)
        total.day, total.month, total.known, total.told_at_ms = row[0] + ours, row[1] + ours, True, sale.at_ms
        hit = over_limit(limit, sale.amount, total.day, total.month)
        judged = judged._replace(ask=None, hits=judged.hits if hit is None else (*judged.hits, hit))
        if hit is None:
            self.admit(judged, asked.identity, today)
        else:
            self._refuse(judged, True)
        return judged

    def admit(self, judged: Judged, identity: UUID, today: date) -> None:
        """Adds a sale to its merchant's totals."""
        sale = judged.sale
        total = self.total(sale.merchant_id, sale.currency, today)
        total.day += sale.amount
        total.month += sale.amount
        self.under_way[identity] = UnderWay(sale.merchant_id, sale.currency, sale.amount)

    def total(self, merchant_id: UUID, currency: str, today: date) -> Total:
        found = self.totals.get((merchant_id, currency))
        if found is None:
            if len(self.totals) >= TOTALS_MAX:  # the books know them; they are read again
                self.totals.clear()
            found = self.totals[merchant_id, currency] = Total(today)
        return found.on(today)

    def ended(self, identity: UUID, judged: Judged, *, written: bool, sold: bool, declined: bool) -> None:
        """What became of a sale that was let through. `written`: it is in the books, under this request; `sold`: and may be a sale."""
        under_way = self.under_way.pop(identity, None) if self.under_way else None
        if under_way is not None and not sold:
            total = self.totals.get((under_way.merchant_id, under_way.currency))
            if total is not None:
                total.day, total.month = max(0, total.day - under_way.amount), max(0, total.month - under_way.amount)
        if written and not declined:
            return
        for counter in judged.counters:
            if not written:
                counter.take_back(judged.sale)
            elif declined:
                counter.declined(judged.sale)

    def sold_elsewhere(self, sale: Sale) -> None:
        """A sale that another worker wrote. Totals that are not known yet are read whole when they are needed."""
        if (sale.merchant_id, sale.currency) in self.totals and sale.type not in NOT_SALES and sale.merchant_id in self.directory.merchants:
            zone = self.directory.merchants[sale.merchant_id].zone
            on = datetime.fromtimestamp(sale.at_ms / 1000, zone).date()
            total = self.totals[sale.merchant_id, sale.currency].on(on)
            if on == total.of_day:
                total.day += sale.amount
                total.month += sale.amount

    def _block(self, judged: Judged) -> None:
        for hit in judged.hits:
            if hit.blocks is not None:
                if len(self.blocked) >= BLOCKED_MAX:
                    del self.blocked[next(iter(self.blocked))]
                value = judged.sale.card.hex() if hit.blocks == "card" else str(judged.sale.terminal_id)
                self.blocked[hit.blocks, value] = hit, judged.sale.at_ms + BLOCKED_MS

    def _just_blocked(self, sale: Sale) -> Hit | None:
        for subject, value in (("card", sale.card.hex()), ("terminal", str(sale.terminal_id))):
            found = self.blocked.get((subject, value))
            if found is not None:
                if sale.at_ms < found[1]:
                    hit = found[0]
                    return hit._replace(action="decline", blocks=None, why=f"the {subject} was blocked: {hit.why}"[:500])
                del self.blocked[subject, value]
        return None
