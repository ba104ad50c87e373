"""The parts that judge sales, joined: what rules say, what counts, what was hit, and what people do about all three."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import asyncpg

from switch.alerts import Alerts
from switch.database import UNKNOWN, Pool
from switch.directory import Directory
from switch.merchants.risk_rules import RiskRules
from switch.payments.asked import Asked
from switch.payments.authorization import Authorizations
from switch.payments.counting import Counting
from switch.payments.desk import Told
from switch.payments.gatekeeper import Gatekeeper, W
from switch.payments.guard import Guard
from switch.payments.hits import Hits
from switch.payments.reviews import Reviews
from switch.records import Acquirer
from switch.security.vault import Vault

STOP_S = 2.0


class Protection:
    """Of this worker. `place`, `release`: of holds on a merchant's money (settlement/funding)."""

    def __init__(self, directory: Directory, vault: Vault, readers: Pool, writers: Pool, owed: Pool, alarm: Alerts, walk: Authorizations, epoch: int,
                 *, place: Callable[..., Awaitable[Any]], release: Callable[..., Awaitable[Any]]) -> None:
        self.directory = directory
        self.guard = Guard(directory, vault)
        self.counting = Counting(self.guard, directory, readers, epoch)
        self.hits = Hits(owed, alarm, place, release)
        self.gatekeeper = Gatekeeper(self.guard, self.hits, walk.desk.history, readers, walk.told_again)
        self.rules, self.reviews = RiskRules(writers, readers), Reviews(writers, readers)

    async def start(self) -> None:
        """What was sold before the start counts from the first sale on."""
        if self.directory.guarded:
            await self.counting.once()

    async def stop(self) -> None:
        """Writes what is kept; bounded."""
        with suppress(*UNKNOWN, asyncpg.PostgresError):
            async with asyncio.timeout(STOP_S):
                await self.hits.write()

    async def sell(self, asked: Asked, way: W, alternatives: list[Acquirer], walk: Callable[[Asked, W, list[Acquirer]], Awaitable[Told]]) -> Told:
        return await self.gatekeeper.sell(asked, way, alternatives, walk)
