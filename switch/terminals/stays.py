"""Where terminals are, as distances from the places of their stores: written with heartbeats, read by risk rules (payments/away.py).

No coordinate is kept here: a row says since when a terminal is so far from its store, and when it last said so. A store without a place has
no rows. What becomes unknown, since a store moved or a device was replaced, is a row too: what was judged before is judged the same when tried.
"""

from uuid import UUID

from switch.database import Connection
from switch.terminals.whereabouts import AGAIN, Point, Stay, away_m, goes_on

# The store's place, if it has one, and what was last known of the terminal.
LAST = """SELECT s.latitude_e6, s.longitude_e6, l.away_m, l.since, l.told_at, now() AS now FROM store s
LEFT JOIN LATERAL (SELECT away_m, since, told_at FROM terminal_stay WHERE terminal_id = $2 ORDER BY since DESC LIMIT 1) l ON true
WHERE s.store_id = $1 AND s.latitude_e6 IS NOT NULL"""
BEGUN = "INSERT INTO terminal_stay (terminal_id, away_m) VALUES ($1, $2) ON CONFLICT (terminal_id, since) DO UPDATE SET away_m = EXCLUDED.away_m"
GOES_ON = "UPDATE terminal_stay SET told_at = now(), written_at = now() WHERE terminal_id = $1 AND since = $2"
UNKNOWN_OF = """INSERT INTO terminal_stay (terminal_id, away_m) SELECT t.terminal_id, NULL FROM terminal t
WHERE {} AND EXISTS (SELECT FROM terminal_stay s WHERE s.terminal_id = t.terminal_id)
ON CONFLICT (terminal_id, since) DO UPDATE SET away_m = NULL"""
TERMINAL_UNKNOWN = UNKNOWN_OF.format("t.terminal_id = $1")
STORE_UNKNOWN = UNKNOWN_OF.format("t.merchant_id = $1 AND t.store_id = $2")


async def said(connection: Connection, store_id: UUID, terminal_id: UUID, at: Point, accuracy_m: int | None) -> None:
    """A terminal says where it is, in the caller's commit."""
    row = await connection.fetchrow(LAST, store_id, terminal_id)
    if row is None:
        return
    last = None if row["since"] is None else Stay(row["away_m"], row["since"], row["told_at"])
    away = away_m(Point(row["latitude_e6"], row["longitude_e6"]), at, accuracy_m)
    if last is None or not goes_on(last, away, row["now"]):
        await connection.execute(BEGUN, terminal_id, away)
    elif row["now"] - last.told_at >= AGAIN:
        await connection.execute(GOES_ON, terminal_id, last.since)
