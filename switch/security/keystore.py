"""The keys in force, wrapped, in the memory of this worker: read through a view, followed like the directory. Whoever needs one finds it here."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch import logs
from switch.database import UNKNOWN, Connection
from switch.security.hsm import Handle, Purpose

POLL_S = 1.0
PAGE = 1000
FORMER_MAX = 4
KEYS = """SELECT version, owner, name, key_id, purpose, algorithm, kcv, storage_key, wrapped, state, ended_at FROM directory_crypto_key
WHERE version > $1 ORDER BY version LIMIT $2"""

Place = tuple[UUID, Purpose, str]  # owner, what for, name


class Held(NamedTuple):
    place: Place
    key: Handle
    ended_at: datetime | None = None  # replaced then


class KeyStore:
    """Look-ups are plain dict reads. `now`: UTC as the database tells it."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.now = now
        self.current: dict[Place, Held] = {}
        self.former: dict[Place, list[Held]] = {}
        self.version = 0
        self.changed = asyncio.Event()

    def find(self, owner: UUID, purpose: Purpose, name: str = "") -> Handle | None:
        held = self.current.get((owner, purpose, name))
        return held.key if held is not None else None

    def usable(self, owner: UUID, purpose: Purpose, grace_s: float) -> list[Handle]:
        """The key of now, then those that were replaced less than `grace_s` ago."""
        place: Place = (owner, purpose, "")
        held, since = self.current.get(place), self.now() - timedelta(seconds=grace_s)
        former = [each.key for each in self.former.get(place, ()) if each.ended_at is not None and each.ended_at > since]
        return [held.key, *former] if held is not None else former

    def adopt(self, held: Held) -> None:
        """In force from now on, in this worker; what is newer already stays."""
        old = self.current.get(held.place)
        if old is not None and old.key.key_id.int > held.key.key_id.int:
            self._put_aside(held._replace(ended_at=held.ended_at or self.now()))
            return
        if old is not None and old.key.key_id != held.key.key_id:
            self._put_aside(old._replace(ended_at=self.now()))
        self.current[held.place] = held

    def _put_aside(self, held: Held) -> None:
        if held.place[2]:  # of terminals and merchants nobody asks for those of before
            return
        others = [each for each in self.former.get(held.place, ()) if each.key.key_id != held.key.key_id]
        self.former[held.place] = [*others, held][-FORMER_MAX:]

    async def refresh(self, connection: Connection) -> None:
        """Applies what the table has beyond our version."""
        while True:
            rows = await connection.fetch(KEYS, self.version, PAGE)
            self._apply(rows)
            if len(rows) < PAGE:
                return

    def _apply(self, rows: Iterable[asyncpg.Record]) -> None:
        for version, owner, name, *key, state, ended_at in rows:
            held = Held((owner, key[1], name), Handle(*key), ended_at)
            self.version = version
            if state == "active":
                self.adopt(held)
                continue
            known = self.current.get(held.place)
            if known is not None and known.key.key_id == held.key.key_id:
                del self.current[held.place]
            self._put_aside(held)

    async def follow(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        """Until cancelled: woken by NOTIFY, and each second anyway; reconnects for ever."""
        connection: Connection | None = None
        try:
            while True:
                try:
                    if connection is None or connection.is_closed():
                        connection = await connect()
                        await connection.add_listener("crypto_key", lambda *_: self.changed.set())
                    await self.refresh(connection)
                except (*UNKNOWN, asyncpg.PostgresError) as error:
                    logs.warning("keys_unreachable", error=type(error).__name__)
                    if connection is not None:
                        connection.terminate()
                    connection = None
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self.changed.wait()
                self.changed.clear()
        finally:
            if connection is not None:
                connection.terminate()
