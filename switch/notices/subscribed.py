"""Whether anybody is to be told anything. A switch without webhooks pays for them with this one small read, every few seconds."""

import asyncio

import asyncpg

from switch import logs
from switch.database import UNKNOWN, Pool

LOOK_S = 5.0

ANY = "SELECT EXISTS (SELECT FROM webhook_endpoint WHERE state = 'enabled')"


class Subscribed:
    """`some` is set while an endpoint is enabled; the sweep and the sender rest while it is not. Who enables one sets it at once."""

    def __init__(self, pool: Pool) -> None:
        self.pool, self.some = pool, asyncio.Event()

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("webhooks_not_read", error=type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        if await self.pool.fetchval(ANY):
            self.some.set()
        else:
            self.some.clear()
