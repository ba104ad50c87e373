"""Terminals that are away from their stores, in this worker's memory: asked of by sales while a rule wants to know, and by nobody else.

Written with heartbeats (terminals/stays.py). Only those that are further away than the nearest rule in force asks for are kept. What was
written is read each second; the newest OVERLAP of it again, since a row is seen when its commit is.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from switch import logs
from switch.database import Pool
from switch.payments.velocity import Away
from switch.watchlist import RiskRule

AWAY_MAX = 200_000
OVERLAP = timedelta(seconds=10)
KNOWN = timedelta(days=7)  # no rule may ask for what is older
TRIED = timedelta(days=90)  # so long ago may sales be tried; what is KNOWN before them is kept (r0041)

# The last row of each terminal, if it is far enough.
ALL = """SELECT * FROM (SELECT DISTINCT ON (terminal_id) terminal_id, away_m, since, told_at FROM terminal_stay WHERE told_at >= $1
ORDER BY terminal_id, since DESC) s WHERE away_m > $2 ORDER BY told_at DESC LIMIT $3"""
# Of those of which something was written. What stayed as near as it was is passed over.
NEW = """SELECT DISTINCT ON (s.terminal_id) s.terminal_id, s.away_m, s.since, s.told_at FROM terminal_stay s
JOIN (SELECT DISTINCT terminal_id FROM terminal_stay WHERE written_at >= $1 AND (since >= $1 OR away_m > $2)) w USING (terminal_id)
ORDER BY s.terminal_id, s.since DESC"""
# Where terminals were at instants, each by its place in what is asked.
THEN = """SELECT a.place, s.away_m, s.since, least(s.told_at, a.at) AS told_at FROM unnest($1::uuid[], $2::timestamptz[]) WITH ORDINALITY
  AS a (terminal_id, at, place)
CROSS JOIN LATERAL (SELECT * FROM terminal_stay t WHERE t.terminal_id = a.terminal_id AND t.since <= a.at ORDER BY t.since DESC LIMIT 1) s
WHERE s.away_m IS NOT NULL"""


def nearest_m(rules: Iterable[RiskRule]) -> int | None:
    """The least distance that a rule in force asks for; None: none does."""
    return min((rule.distance_km * 1000 for rule in rules if rule.state == "active" and rule.distance_km is not None), default=None)


class AwayTerminals:
    """Of this worker. `known` is read by each sale while it is not empty."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.known: dict[UUID, Away] = {}
        self.nearest: int | None = None  # what `known` holds

    async def follow(self, nearest: int | None, now: datetime) -> None:
        """`nearest`: of the rules in force now. Raises what the database does."""
        if nearest is None:
            self.known, self.nearest = {}, None
        elif nearest != self.nearest:
            rows = await self.pool.fetch(ALL, now - KNOWN, nearest, AWAY_MAX)
            if len(rows) == AWAY_MAX:
                logs.warning("risk_away_cut", count=AWAY_MAX)
            self.known, self.nearest = {row["terminal_id"]: away_of(row) for row in rows}, nearest
        else:
            for row in await self.pool.fetch(NEW, now - OVERLAP, nearest):
                if row["away_m"] is None or row["away_m"] <= nearest:
                    self.known.pop(row["terminal_id"], None)
                elif row["terminal_id"] in self.known or len(self.known) < AWAY_MAX:
                    self.known[row["terminal_id"]] = away_of(row)


def away_of(row: Any) -> Away:
    return Away(row["away_m"], *(int(row[name].timestamp() * 1000) for name in ("since", "told_at")))


async def were_away(pool: Pool, rows: Sequence[Any]) -> dict[int, Away]:
    """Where the terminals of recorded sales were when each was made, by the place of the sale in `rows`."""
    found = await pool.fetch(THEN, [row["terminal_id"] for row in rows], [row["received_at"] for row in rows])
    return {row["place"] - 1: away_of(row) for row in found}
