"""STAN and RRN: numbers from leased blocks, so that the hot path takes one without waiting. Holes are fine, reuse while open is not."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from uuid import UUID

import asyncpg

from switch import logs
from switch.database import UNKNOWN, Connection

STAN_BLOCK, STANS_READY = 500, 2500  # what is ready carries a burst while the next blocks are leased
RRN_BLOCK, RRNS_READY = 2000, 4000
STAN_MAX = 999_999
KEPT = timedelta(days=1)  # a request that read the old day still gets a number of it
RETRY_S = 0.2

LEASE = """
INSERT INTO number_block (acquirer_id, name, next) VALUES ($1, $2, 1 + $3::bigint)
ON CONFLICT (acquirer_id, name) DO UPDATE SET next = number_block.next + $3::bigint RETURNING next - $3::bigint
"""
OPEN_STANS = """
SELECT stan FROM open_transaction WHERE acquirer_id = $1 AND stan = ANY($2::text[])
UNION SELECT stan FROM duty WHERE acquirer_id = $1 AND state = 'open' AND stan = ANY($2::text[])
"""


def stans(first: int, count: int) -> list[str]:
    """The STANs of a block of a counter that runs for ever: 999999 is followed by 000001."""
    return [f"{(number - 1) % STAN_MAX + 1:06d}" for number in range(first, first + count)]


def rrns(business_date: date, first: int, count: int) -> list[str]:
    """`YDDD` of the business date and 8 digits of the day's counter."""
    day = f"{business_date:%Y%j}"[3:]
    return [f"{day}{number:08d}" for number in range(first, min(first + count, 100_000_000))]


class Numbers:
    """The blocks of this worker. `stan` and `rrn` return None when none is left: the request is then shed, never numbered twice."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self.connect = connect
        self.left: dict[tuple[UUID, date | None], deque[str]] = {}
        self.wanted: dict[tuple[UUID, date | None], None] = {}
        self.wake = asyncio.Event()

    def stan(self, acquirer_id: UUID) -> str | None:
        return self._next((acquirer_id, None), STANS_READY)

    def rrn(self, acquirer_id: UUID, business_date: date) -> str | None:
        return self._next((acquirer_id, business_date), RRNS_READY)

    async def stan_soon(self, acquirer_id: UUID) -> str:
        """A STAN for what must be said in any case, a reversal: waits for a block."""
        while (number := self.stan(acquirer_id)) is None:
            await asyncio.sleep(RETRY_S)
        return number

    async def rrn_soon(self, acquirer_id: UUID, business_date: date) -> str:
        while (number := self.rrn(acquirer_id, business_date)) is None:
            await asyncio.sleep(RETRY_S)
        return number

    def _next(self, kind: tuple[UUID, date | None], low: int) -> str | None:
        left = self.left.get(kind)
        if left is None or len(left) < low:
            self.wanted[kind] = None
            self.wake.set()
            if not left:
                return None
        return left.popleft()

    async def lease(self, connection: Connection, acquirer_id: UUID, business_date: date | None) -> int:
        """Adds a block of STANs (no date) or of a date's RRNs; returns how many numbers it brought."""
        if business_date is None:
            first = await connection.fetchval(LEASE, acquirer_id, "stan", STAN_BLOCK)
            block = stans(first, STAN_BLOCK)
            if first > STAN_MAX - STAN_BLOCK:  # wrapped: numbers of what is still open are skipped
                taken = {row[0] for row in await connection.fetch(OPEN_STANS, acquirer_id, block)}
                block = [number for number in block if number not in taken]
        else:
            first = await connection.fetchval(LEASE, acquirer_id, f"rrn:{business_date}", RRN_BLOCK)
            block = rrns(business_date, first, RRN_BLOCK)
        self.left.setdefault((acquirer_id, business_date), deque()).extend(block)
        for old in [kind for kind in self.left if kind[0] == acquirer_id and kind[1] and business_date and kind[1] < business_date - KEPT]:
            del self.left[old]
        return len(block)

    async def work(self) -> None:
        """Leases what runs low, until cancelled. A lost connection may lose a block: a hole."""
        connection: Connection | None = None
        try:
            while True:
                if not self.wanted:
                    self.wake.clear()
                    await self.wake.wait()
                kind = next(iter(self.wanted))
                try:
                    if connection is None or connection.is_closed():
                        connection = await self.connect()
                    while len(self.left.get(kind, ())) < (STANS_READY if kind[1] is None else RRNS_READY):
                        if not await self.lease(connection, *kind):
                            break
                    self.wanted.pop(kind, None)
                except (*UNKNOWN, asyncpg.PostgresError) as error:
                    logs.warning("numbers_not_leased", acquirer_id=kind[0], error=type(error).__name__)
                    self.wanted[kind] = self.wanted.pop(kind)  # the others are not kept waiting
                    if connection is not None:
                        connection.terminate()
                    connection = None
                    await asyncio.sleep(RETRY_S)
        finally:
            if connection is not None:
                connection.terminate()
