"""Heartbeats: the last values of each device, a coarse history, what the device is told in return; and the end of a device that was opened."""

from dataclasses import astuple, dataclass
from typing import NamedTuple
from uuid import UUID

import asyncpg

from switch import alerts
from switch.database import UNKNOWN, Connection, Pool
from switch.errors import Problem
from switch.ids import show
from switch.terminals import stays
from switch.terminals.devices import COLUMNS, TAMPERED, By, Keys, away, moved, told, work
from switch.terminals.parameter_sets import resolved
from switch.terminals.parameters import SILENT_AFTER_S
from switch.terminals.releases import Software, software_for
from switch.terminals.whereabouts import Point

AT_ONCE = 64  # heartbeats in hand or waiting for a connection; more are told to come back
RETRY_S = 30
HOURS_MAX = 24 * 31

BOUND = f"SELECT {COLUMNS} FROM device WHERE terminal_id = $1"
LOCK = f"SELECT {COLUMNS} FROM device WHERE terminal_id = $1 FOR NO KEY UPDATE"
_VALUES = ("software_version", "battery_percent", "charging", "paper", "signal_dbm", "network", "latitude_e6", "longitude_e6", "accuracy_m", "tamper",
           "parameters_version", "batch_open", "queued_offline")
LAST = f"""INSERT INTO device_health (device_id, {", ".join(_VALUES)}, silent_after_s)
VALUES ($1, {", ".join(f"${at}" for at in range(2, len(_VALUES) + 2))}, ${len(_VALUES) + 2})
ON CONFLICT (device_id) DO UPDATE SET last_at = now(), silent_since = NULL, silent_after_s = EXCLUDED.silent_after_s,
  {", ".join(f"{name} = EXCLUDED.{name}" for name in _VALUES)}"""
HOUR = """INSERT INTO device_health_hour AS h (device_id, hour, software_version, battery_min, signal_min, paper, latitude_e6, longitude_e6, tamper)
VALUES ($1, date_trunc('hour', now()), $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (device_id, hour) DO UPDATE SET heartbeats = h.heartbeats + 1,
  software_version = EXCLUDED.software_version, battery_min = least(h.battery_min, EXCLUDED.battery_min),
  signal_min = least(h.signal_min, EXCLUDED.signal_min), paper = EXCLUDED.paper, latitude_e6 = EXCLUDED.latitude_e6,
  longitude_e6 = EXCLUDED.longitude_e6, tamper = h.tamper OR EXCLUDED.tamper"""
# A merchant sees what was said since the device came to it, and nothing of the shop before.
SINCE = """SELECT CASE WHEN $2::uuid IS NULL THEN '-infinity'::timestamptz WHEN d.terminal_id IS NOT NULL THEN (SELECT max(e.at)
  FROM device_event e WHERE e.device_id = d.device_id AND e.event IN ('install', 'swap_in')) END
FROM device d WHERE d.device_id = $1 AND ($2::uuid IS NULL OR d.merchant_id = $2)"""
HEALTH = "SELECT * FROM device_health WHERE device_id = $1 AND last_at >= $2"
HOURS = """SELECT hour, heartbeats, software_version, battery_min, signal_min, paper, latitude_e6, longitude_e6, tamper FROM device_health_hour
WHERE device_id = $1 AND hour >= date_trunc('hour', $2::timestamptz) ORDER BY hour DESC LIMIT $3"""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a device says of itself; None is what it does not know. Places in millionths of a degree. The order is that of _VALUES."""

    software_version: str
    battery_percent: int | None = None
    charging: bool | None = None
    paper: str | None = None
    signal_dbm: int | None = None
    network: str | None = None
    latitude_e6: int | None = None
    longitude_e6: int | None = None
    accuracy_m: int | None = None
    tamper: bool = False
    parameters_version: str | None = None
    batch_open: bool | None = None
    queued_offline: int | None = None


class Told(NamedTuple):
    """What the device shall do now."""

    device: asyncpg.Record
    erase_keys: bool
    parameters_version: str
    heartbeat_interval_s: int
    software: Software


class Health:
    """Raises Problem: device_mismatch, overloaded, not_found, not_ready."""

    def __init__(self, pool: Pool, readers: Pool, keys: Keys) -> None:
        """`pool`: of heartbeats alone, so that a crowd of devices takes no payment's connection."""
        self.pool, self.readers, self.keys = pool, readers, keys
        self.in_hand = 0

    async def beat(self, terminal_id: UUID, serial_number: str, said: Heartbeat) -> Told:
        """Written and answered in one commit. A tamper flag ends the device in that commit; what it says while it is crowded is lost, that is not."""
        if self.in_hand >= AT_ONCE and not said.tamper:
            raise Problem("overloaded", "Too many heartbeats at once.", retry_after=RETRY_S)
        self.in_hand += 1
        try:
            async with work(self.pool) as connection:
                told, opened = await self._taken(connection, terminal_id, serial_number, said)
        finally:
            self.in_hand -= 1
        if opened:
            alerts.announce(TAMPERED, show("device", told.device["device_id"]))
        return told

    async def _taken(self, connection: Connection, terminal_id: UUID, serial_number: str, said: Heartbeat) -> tuple[Told, bool]:
        row = await connection.fetchrow(LOCK if said.tamper else BOUND, terminal_id)
        if row is None or row["serial_number"] != serial_number:
            raise Problem("device_mismatch")
        parameters = await resolved(connection, row["merchant_id"], row["store_id"], terminal_id)
        silent_after_s = parameters.values.get("silent_after_s", SILENT_AFTER_S)
        await connection.execute(LAST, row["device_id"], *astuple(said), silent_after_s)
        await connection.execute(HOUR, row["device_id"], said.software_version, said.battery_percent, said.signal_dbm, said.paper, said.latitude_e6,
                                 said.longitude_e6, said.tamper)
        if said.latitude_e6 is not None and said.longitude_e6 is not None:
            await stays.said(connection, row["store_id"], terminal_id, Point(said.latitude_e6, said.longitude_e6), said.accuracy_m)
        opened = said.tamper and row["tampered_at"] is None
        if opened:
            row = await moved(connection, self.keys, row, "tamper", By(f"device {serial_number}"), "its tamper switch")
        software = Software("none") if row["tampered_at"] is not None else \
            await software_for(connection, row, said.software_version, said.batch_open)
        if software.install != "none" and software.version is not None:
            await told(connection, row, "terminal.update", software.version, {"version": software.version})
        return Told(row, row["tampered_at"] is not None, parameters.version, parameters.values.get("heartbeat_interval_s", 300), software), opened

    async def of(self, device_id: UUID, merchant_id: UUID | None, hours: int) -> tuple[asyncpg.Record, list[asyncpg.Record]]:
        """The last values and the hours before, the latest first. Raises Problem not_found: it never said anything, or is not the merchant's."""
        try:
            since = await self.readers.fetchval(SINCE, device_id, merchant_id)
            last = None if since is None else await self.readers.fetchrow(HEALTH, device_id, since)
            if last is None:
                raise Problem("not_found", "No such device has said anything of itself; it does with its first heartbeat.")
            return last, await self.readers.fetch(HOURS, device_id, since, min(hours, HOURS_MAX))
        except UNKNOWN:
            raise away() from None
