"""Leased slots: at most `max_links` workers hold a line to an acquirer. The database decides who; a lease lasts as long as a worker's."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch import logs
from switch.database import UNKNOWN, Connection

LEASE_S, TRUSTED_S = 10.0, 6.0
LOOK_S = 1.0

# A slot is free when its time is over or its worker has ended. Two who take the same one: the second finds the first's row, and gets none.
TAKE = """
INSERT INTO link_slot AS held (acquirer_id, slot, epoch, lease_until, address)
SELECT $1, free, $3, now() + $4, $5 FROM generate_series(1, $2::integer) free
WHERE NOT EXISTS (SELECT FROM link_slot t JOIN worker w USING (epoch)
                  WHERE t.acquirer_id = $1 AND t.slot = free AND t.lease_until > now() AND w.ended_at IS NULL)
  AND EXISTS (SELECT FROM worker w WHERE w.epoch = $3 AND w.ended_at IS NULL)
ORDER BY free LIMIT 1
ON CONFLICT (acquirer_id, slot) DO UPDATE SET epoch = excluded.epoch, lease_until = excluded.lease_until, address = excluded.address
WHERE held.lease_until <= now() OR EXISTS (SELECT FROM worker w WHERE w.epoch = held.epoch AND w.ended_at IS NOT NULL)
RETURNING slot
"""
RENEW = """
UPDATE link_slot s SET lease_until = now() + $2 FROM worker w, acquirer a
WHERE s.epoch = $1 AND s.lease_until > now() AND w.epoch = s.epoch AND w.ended_at IS NULL AND a.acquirer_id = s.acquirer_id
  AND s.slot <= a.max_links RETURNING s.acquirer_id
"""
HOLDERS = """
SELECT s.acquirer_id, array_agg(s.address ORDER BY s.slot) FROM link_slot s JOIN worker w USING (epoch)
WHERE s.acquirer_id = ANY($1::uuid[]) AND s.epoch <> $2 AND s.lease_until > now() AND w.ended_at IS NULL GROUP BY s.acquirer_id
"""
RELEASE = "UPDATE link_slot SET lease_until = now() WHERE epoch = $1 AND ($2::uuid IS NULL OR acquirer_id = $2)"


class Place(NamedTuple):
    """What the database said of one acquirer: whether a slot is ours, else where the holders take requests."""

    held: bool
    holders: tuple[str, ...]


class Slots:
    """This worker's slots. Whoever wants one is told each second how it stands."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]], epoch: int, address: str) -> None:
        self.connect, self.epoch, self.address = connect, epoch, address
        self.wanted: dict[UUID, tuple[int, Callable[[Place], None]]] = {}
        self.held: dict[UUID, float] = {}  # since when it is sure, on CLOCK_MONOTONIC: when the last good renewal was asked for
        self.wake = asyncio.Event()

    def want(self, acquirer_id: UUID, limit: int, tell: Callable[[Place], None]) -> None:
        self.wanted[acquirer_id] = limit, tell
        self.wake.set()

    def may_write(self, acquirer_id: UUID) -> bool:
        """Whether nobody can have taken our slot yet; asked just before each write."""
        since = self.held.get(acquirer_id)
        return since is not None and time.monotonic() - since <= TRUSTED_S

    async def release(self, acquirer_id: UUID | None = None) -> None:
        """Gives a slot back, or all; the line must be closed. What cannot be given back runs out."""
        for each in [acquirer_id] if acquirer_id is not None else list(self.wanted):
            self.wanted.pop(each, None)
            self.held.pop(each, None)
        try:
            async with asyncio.timeout(LOOK_S):
                connection = await self.connect()
                try:
                    await connection.execute(RELEASE, self.epoch, acquirer_id)
                finally:
                    connection.terminate()
        except (*UNKNOWN, asyncpg.PostgresError) as error:
            logs.warning("slot_not_released", acquirer_id=acquirer_id, error=type(error).__name__)

    async def look(self, connection: Connection) -> None:
        """Renews what is ours, takes what is free, and tells all who want one."""
        asked_at, lease = time.monotonic(), timedelta(seconds=LEASE_S)
        kept = {row[0] for row in await connection.fetch(RENEW, self.epoch, lease)} & self.wanted.keys()
        self.held = dict.fromkeys(kept, asked_at)
        for acquirer_id, (limit, _) in list(self.wanted.items()):
            if acquirer_id not in kept:
                asked_at = time.monotonic()
                if await connection.fetchval(TAKE, acquirer_id, limit, self.epoch, lease, self.address):
                    self.held[acquirer_id] = asked_at
                    logs.info("slot_taken", acquirer_id=acquirer_id)
        others = [acquirer_id for acquirer_id in self.wanted if acquirer_id not in self.held]
        holders = {row[0]: tuple(row[1]) for row in await connection.fetch(HOLDERS, others, self.epoch)} if others else {}
        for acquirer_id, (_, tell) in list(self.wanted.items()):
            tell(Place(acquirer_id in self.held, holders.get(acquirer_id, ())))

    async def work(self) -> None:
        """Until cancelled. Costs nothing while no acquirer limits its lines."""
        connection: Connection | None = None
        try:
            while True:
                if not self.wanted:
                    await self.wake.wait()
                self.wake.clear()
                try:
                    async with asyncio.timeout(TRUSTED_S / 2):
                        connection = connection or await self.connect()
                        await self.look(connection)
                except (*UNKNOWN, asyncpg.PostgresError) as error:
                    logs.warning("slots_not_renewed", error=type(error).__name__)
                    if connection is not None:
                        connection.terminate()
                    connection = None
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self.wake.wait()
                except TimeoutError:
                    continue
        finally:
            if connection is not None:
                connection.terminate()
