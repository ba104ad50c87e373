"""Devices that should speak and do not: somebody is called once, and again when one falls silent anew."""

import asyncio

import asyncpg

from switch import alerts, logs
from switch.database import UNKNOWN, Pool
from switch.ids import show
from switch.terminals.devices import new_id, told

LOOK_S = 60.0
AT_ONCE = 200
SILENT = "terminal_silent"

# From going live on it is counted anew. Several workers look: each device is one's.
FALLEN = """WITH fallen AS (SELECT h.device_id FROM device_health h JOIN device d USING (device_id)
  WHERE d.state = 'live' AND h.silent_since IS NULL AND greatest(h.last_at, d.state_since) < now() - make_interval(secs => h.silent_after_s)
  LIMIT $1 FOR UPDATE OF h SKIP LOCKED)
UPDATE device_health h SET silent_since = now() FROM fallen f JOIN device d USING (device_id) WHERE h.device_id = f.device_id
RETURNING h.device_id, h.silent_since, d.serial_number, d.merchant_id, d.terminal_id"""


class Silence:
    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    async def work(self) -> None:
        """Until cancelled."""
        while True:
            try:
                while await self.look() == AT_ONCE:
                    pass
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("devices_not_looked_at", error=type(error).__name__)
            await asyncio.sleep(LOOK_S)

    async def look(self) -> int:
        """About how many somebody was called. Raises what UNKNOWN lists."""
        async with self.pool.acquire() as connection, connection.transaction():
            rows = await connection.fetch(FALLEN, AT_ONCE)
            fallen = [show("device", row["device_id"]) for row in rows]
            for each, row in zip(fallen, rows, strict=True):
                await connection.execute(alerts.RAISE, new_id(), SILENT, each)
                await told(connection, row, "terminal.silent", f"{row['silent_since']:%Y-%m-%dT%H:%M:%S}")
        for each in fallen:
            alerts.announce(SILENT, each)
        return len(fallen)
