"""What counters know beside this worker's own sales: those that other workers wrote, each second, and those of before a start.

Both are read from the books by the order of ids, which is of time. The newest OVERLAP_MS are read again each time, since a row may be written
that much after its id was made; what was read is not counted twice. A fill reads at most FILL_MAX rows, the newest.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from switch import logs, metrics
from switch.clock import clock
from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.ids import lowest
from switch.payments.away import AwayTerminals, nearest_m
from switch.payments.guard import Guard
from switch.payments.velocity import PARTS, Away, Counter, Different, Sale

FOLLOW_S = 1.0
OVERLAP_MS = 4000  # longer than an intent may wait for its commit
ENDED_S = 60  # a worker that ended longer ago wrote nothing of what is read again
PAGE, FILL_MAX = 250, 200_000

_ROWS = """SELECT transaction_id, merchant_id, store_id, terminal_id, pan_token, mcc, brand, entry_mode, type, amount, currency, received_at, state
FROM history_transaction WHERE transaction_id >= $1 AND transaction_id > $2 AND attempt_of IS NULL AND (original_id IS NULL OR type = 'refund') {}
ORDER BY transaction_id LIMIT $3"""
# What this worker's guard did not see: refunds of a sale and offline approvals, of whomever (index transaction_counted_late); and the sales of
# other workers, looked for while there may be any. $5: what was counted, $6: what was counted as declined.
_NEW = "AND (transaction_id <> ALL($5::uuid[]) OR state = 'DECLINED' AND transaction_id <> ALL($6::uuid[]))"
LATE = _ROWS.format(f"AND (original_id IS NOT NULL OR type = 'offline_sale') AND $4::bigint IS NOT NULL {_NEW}")
OTHERS = _ROWS.format(f"""AND worker_epoch <> $4 AND original_id IS NULL AND type <> 'offline_sale' {_NEW}
AND EXISTS (SELECT FROM worker w WHERE w.epoch <> $4 AND coalesce(w.ended_at, w.lease_until) > now() - interval '{ENDED_S} s')""")
HISTORY = _ROWS.format("AND transaction_id < $4")
FIRST = """SELECT transaction_id FROM history_transaction WHERE transaction_id >= $1 AND transaction_id < $2
ORDER BY transaction_id DESC OFFSET $3 LIMIT 1"""


class Counting:
    """Of this worker. Joined in app.py."""

    def __init__(self, guard: Guard, directory: Directory, pool: Pool, epoch: int, now: Callable[[], datetime] = clock.now) -> None:
        self.guard, self.directory, self.pool, self.epoch, self.now = guard, directory, pool, epoch, now
        self.away = AwayTerminals(pool)
        self.seen: dict[UUID, bool] = {}  # of the newest OVERLAP_MS: whether it was declined
        self.forgotten = 0

    async def work(self) -> None:
        while True:
            if self.directory.guarded:
                try:
                    await self.once()
                except (*UNKNOWN, asyncpg.PostgresError) as error:
                    logs.warning("risk_not_followed", error=type(error).__name__)
            await asyncio.sleep(FOLLOW_S)

    async def once(self) -> None:
        """Terminals that are away are known, new counters are filled, and what others wrote since the last time is counted."""
        now = self.now()
        await self.away.follow(nearest_m(self.guard.current(_ms(now)).rules), now)
        self.guard.away = self.away.known
        if self.guard.fills:
            fills, self.guard.fills = self.guard.fills, []
            try:
                await self._fill({counter for counters in fills for counter in counters})
            except (*UNKNOWN, asyncpg.PostgresError):
                self.guard.fills += fills
                raise
        await self._follow(now)
        forgotten = self.guard.book.counters.forgotten
        metrics.risk_forgotten.inc(max(0, forgotten - self.forgotten))
        self.forgotten = forgotten

    async def _follow(self, now: datetime) -> None:
        begin = lowest(now - timedelta(milliseconds=OVERLAP_MS))
        self.seen = {known: declined for known, declined in self.seen.items() if known >= begin}
        counted, declined = list(self.seen), [known for known, declined in self.seen.items() if declined]
        for statement in (LATE, OTHERS):
            after = UUID(int=0)
            while True:
                rows = await self.pool.fetch(statement, begin, after, PAGE, self.epoch, counted, declined)
                for row in rows:
                    self.seen[row["transaction_id"]] = self._take(row, _ms(now))
                if len(rows) < PAGE:
                    break
                after = rows[-1]["transaction_id"]
                await asyncio.sleep(0)

    def _take(self, row: Any, now_ms: int) -> bool:
        """Counts a row once, and that it was declined once."""
        known, declined = self.seen.get(row["transaction_id"]), bool(row["state"] == "DECLINED")
        sale, made_ms = sale_of(row), row["transaction_id"].int >> 80
        if known is None and not declined:
            self.guard.sold_elsewhere(sale)
        for counter in self.guard.current(now_ms).plan(sale).counters:
            if made_ms >= counter.since_ms:  # else the fill has counted it
                if known is None:
                    counter.add(sale, now_ms)
                if declined and not known:
                    counter.declined(sale)
        return declined

    async def _fill(self, new: set[Counter | Different]) -> None:
        """The history of counters that are new, each up to when it began to count; in one reading for all that came together."""
        new = {counter for counter in new if counter in self.guard.book.counters.of.values()}
        if not new:
            return
        end = lowest(_at(max(counter.since_ms for counter in new)))
        begin = lowest(_at(min(counter.since_ms - counter.window_ms - counter.window_ms // PARTS for counter in new)))
        first = await self.pool.fetchval(FIRST, begin, end, FILL_MAX)
        if first is not None:
            logs.warning("risk_history_cut", count=FILL_MAX)
            begin = first
        after, now_ms = UUID(int=0), _ms(self.now())
        while True:
            rows = await self.pool.fetch(HISTORY, begin, after, PAGE, end)
            for row in rows:
                self._fill_in(new, row, now_ms)
            if len(rows) < PAGE:
                return
            after = rows[-1]["transaction_id"]
            await asyncio.sleep(0)

    def _fill_in(self, new: set[Counter | Different], row: Any, now_ms: int) -> None:
        sale, made_ms = sale_of(row), row["transaction_id"].int >> 80
        for counter in self.guard.book.plan(sale).counters:
            if counter in new and made_ms < counter.since_ms:
                counter.add(sale, now_ms)
                if row["state"] == "DECLINED":
                    counter.declined(sale)


def sale_of(row: Any, minute: int = 0, away: Away | None = None) -> Sale:
    """A recorded sale as rules see it."""
    return Sale(row["merchant_id"], row["store_id"], row["terminal_id"], row["pan_token"], row["mcc"], row["brand"], row["entry_mode"], row["type"],
                row["amount"], row["currency"], _ms(row["received_at"]), minute, away)


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, clock.now().tzinfo)
