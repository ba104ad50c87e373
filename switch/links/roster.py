"""The roster: each worker writes down what its lines show, and reads the others'. So every worker can tell of all lines, and knows with how many
it shares what an acquirer takes.
"""

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from switch import logs
from switch.clock import clock
from switch.database import UNKNOWN, Pool
from switch.links import Link, Share

LOOK_S = 1.0
WRITE_S = 5.0  # at the latest, also when nothing has changed: so old may be what is shown of another worker's line
KNOWN_S = 5.0  # who could not read for so long no longer knows its share
SIGNED_ON = frozenset({"up", "handed_over"})

WRITE = """
INSERT INTO worker_line (epoch, acquirer_id, signed_on, shown, at)
SELECT $1, acquirer_id, signed_on, shown::jsonb, now() FROM unnest($2::uuid[], $3::boolean[], $4::text[]) AS l(acquirer_id, signed_on, shown)
ON CONFLICT (epoch, acquirer_id) DO UPDATE SET signed_on = excluded.signed_on, shown = excluded.shown, at = excluded.at
"""
# Among live workers that are signed on, in the order of their epochs: how many, and how many before this one. Only where this one is, too.
SHARES = """
SELECT l.acquirer_id, count(*)::integer, (count(*) FILTER (WHERE l.epoch < $1))::integer FROM worker w JOIN worker_line l USING (epoch)
WHERE w.ended_at IS NULL AND w.lease_until > now() AND l.signed_on GROUP BY l.acquirer_id HAVING bool_or(l.epoch = $1)
"""
# A worker that stands still is not ended yet: its lines are shown as they were, and grow old.
OTHERS = """
SELECT l.epoch AS worker, w.host AS machine, w.pid, l.shown, l.at, greatest(0, (extract(epoch FROM now() - l.at) * 1000)::bigint) AS age_ms
FROM worker w JOIN worker_line l USING (epoch) WHERE w.ended_at IS NULL AND l.epoch <> $1 ORDER BY l.epoch, l.acquirer_id
"""


class Roster:
    """`links`: this worker's lines by acquirer, changed by others."""

    def __init__(self, pool: Pool, epoch: int, links: Mapping[UUID, Link]) -> None:
        self.pool, self.epoch, self.links = pool, epoch, links
        self.loop, self.machine = asyncio.get_running_loop(), socket.gethostname()
        self.wake = asyncio.Event()
        self.written: dict[UUID, tuple[str, list[tuple[str, str, str]]]] = {}  # the state of each link, and of each of its lines
        self.shares: dict[UUID, Share] = {}
        self.wrote_at = self.read_at = float("-inf")

    def share(self, acquirer_id: UUID) -> Share | None:
        """This worker's part of what an acquirer takes; None: it is not known, or its line is not signed on as far as the roster says."""
        return self.shares.get(acquirer_id) if self.loop.time() - self.read_at <= KNOWN_S else None

    def of(self, link: Link) -> dict[str, Any]:
        """A line of this worker as it is now."""
        return {**link.snapshot(), "worker": self.epoch, "machine": self.machine, "pid": os.getpid(), "as_of": clock.now(), "age_ms": 0}

    async def others(self) -> list[dict[str, Any]]:
        """The lines of the other workers, as each last wrote them down. Raises what UNKNOWN lists."""
        return [{**_read(row["shown"]), "worker": row["worker"], "machine": row["machine"], "pid": row["pid"], "as_of": row["at"],
                 "age_ms": row["age_ms"]} for row in await self.pool.fetch(OTHERS, self.epoch)]

    async def look(self) -> None:
        """Writes the lines when one has changed or it is time, then reads the shares."""
        now = self.loop.time()
        states = {acquirer_id: (link.state, [health[:3] for health in link.health()]) for acquirer_id, link in self.links.items()}
        if states != self.written or (states and now - self.wrote_at >= WRITE_S):
            shown = [json.dumps(self.links[acquirer_id].snapshot(), default=str) for acquirer_id in states]
            await self.pool.execute(WRITE, self.epoch, list(states), [state in SIGNED_ON for state, _ in states.values()], shown)
            self.written, self.wrote_at = states, now
        self.shares = {row[0]: Share(row[1], row[2]) for row in await self.pool.fetch(SHARES, self.epoch)}
        self.read_at = now

    async def work(self) -> None:
        """Until cancelled. A line whose state has changed is written down at once."""
        while True:
            self.wake.clear()
            try:
                await self.look()
            except (*UNKNOWN, asyncpg.PostgresError) as error:
                logs.warning("roster_not_read", error=type(error).__name__)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self.wake.wait()
            except TimeoutError:
                continue


def _read(shown: str) -> dict[str, Any]:
    """The snapshot of a line as it was written down."""
    link: dict[str, Any] = json.loads(shown)
    return _timed(link, "since", "last_answer_at") | {
        "lines": [_timed(line, "since", "breaker_since", "certificate_ends_at") for line in link.get("lines", ())]}


def _timed(values: dict[str, Any], *names: str) -> dict[str, Any]:
    return values | {name: values[name] and datetime.fromisoformat(values[name]) for name in names}
