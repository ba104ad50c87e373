"""What sales hit, on its way into the books, and what follows from it there.

A hit of a sale that goes on is an event of the commit of its outcome (migrations r0023). A hit of a refused sale, and one whose sale has no
outcome in time, is written from here within a fraction of a second; it waits here while the database is away, at most LEFT_MAX of them: what
would be more is an alert and a count, never silence. Holds on a merchant's money are placed and released here, once, by the hit's own id.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg

from switch import logs, metrics
from switch.alerts import Alerts
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import show
from switch.payments.asked import Asked
from switch.payments.drafts import new_id
from switch.payments.risk import Judged

LEFT_MAX, BATCH = 10_000, 200
REFUSAL_S = 1.0  # a refusal waits so long for its record
LOOK_S = 1.0

RECORD = "SELECT record_risk_hits($1::jsonb, NULL)"
# What holds ask for: to be placed when their sale stands, to be released when people dismissed them.
HOLDS = """SELECT h.hit_id, h.merchant_id, h.currency, h.why, h.held, h.state AS decided, t.state, t.approved_amount
FROM risk_hit h JOIN transaction t ON t.transaction_id = h.transaction_id
WHERE h.held = 'wanted' AND (h.state = 'dismissed' OR t.state NOT IN ('SENT', 'REVERSING', 'PARKED'))
ORDER BY h.hit_id LIMIT 100"""
DISMISSED = "SELECT hit_id, merchant_id, decided_by FROM risk_hit WHERE held = 'placed' AND state = 'dismissed' ORDER BY hit_id LIMIT 100"
HELD = "UPDATE risk_hit SET held = $2 WHERE hit_id = $1"

Place = Callable[[UUID, str, int, str, str, UUID], Awaitable[Any]]
Release = Callable[[UUID, UUID, str], Awaitable[Any]]


def rows(judged: Judged, asked: Asked, transaction_id: UUID | None = None) -> list[dict[str, Any]]:
    """The hits of a sale as record_risk_hits takes them."""
    sale, order = judged.sale, asked.order
    same = {"merchant_id": str(sale.merchant_id), "store_id": str(sale.store_id), "terminal_id": str(sale.terminal_id),
            "idempotency_key": asked.key[2], "pan_token": sale.card.hex(), "masked_pan": order.pan.masked, "amount": sale.amount,
            "currency": sale.currency, "hit_at": asked.door.received_at.isoformat(),
            "transaction_id": None if transaction_id is None else str(transaction_id)}
    return [{**same, "hit_id": str(new_id()), "source": hit.source, "source_id": str(hit.source_id), "kind": hit.kind, "action": hit.action,
             "blocks": hit.blocks, "why": hit.why, "figures": dict(hit.figures)} for hit in judged.hits]


def event(made: list[dict[str, Any]]) -> tuple[str, str]:
    """The hits as the event that rides in the commit of an outcome."""
    return "risk", json.dumps({"hits": made})


class Hits:
    """Of this worker. Joined in app.py: `place(merchant, currency, amount, reason, by, hold)` and `release(merchant, hold, by)` are the
    settlement's."""

    def __init__(self, pool: Pool, alarm: Alerts, place: Place, release: Release) -> None:
        self.pool, self.alarm, self.place, self.release = pool, alarm, place, release
        self.left: list[tuple[dict[str, Any], asyncio.Event]] = []
        self.wake = asyncio.Event()
        self.lost = 0

    def keep(self, made: list[dict[str, Any]]) -> asyncio.Event:
        """Rows that are written soon; the event is set when they are."""
        written = asyncio.Event()
        for row in made:
            if len(self.left) >= LEFT_MAX:
                self.lost += 1
                metrics.risk_hits_lost.inc()
            else:
                self.left.append((row, written))
        self.wake.set()
        return written

    async def refused(self, made: list[dict[str, Any]]) -> None:
        """Keeps the hits of a refused sale, and waits until they are written, but not long."""
        written = self.keep(made)
        try:
            async with asyncio.timeout(REFUSAL_S):
                await written.wait()
        except TimeoutError:
            logs.warning("risk_hit_waits", count=len(self.left))

    async def work(self) -> None:
        while True:
            self.wake.clear()
            try:
                await self.write()
                await self.holds()
                if self.lost:
                    self.lost = 0
                    await self.alarm.raise_("risk_hits_lost", "worker")
            except (*UNKNOWN, asyncpg.PostgresError, Problem) as error:
                logs.warning("risk_hits_not_written", error=type(error).__name__, count=len(self.left))
                await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self.wake.wait()
            except TimeoutError:
                continue

    async def write(self) -> None:
        """All that is kept, in batches. Written twice is written once."""
        while self.left:
            batch = self.left[:BATCH]
            await self.pool.execute(RECORD, json.dumps([row for row, _ in batch]))
            del self.left[:len(batch)]
            for _, written in batch:
                written.set()

    async def holds(self) -> None:
        """Any worker may do it: a hold has the id of its hit, and is there once."""
        for row in await self.pool.fetch(HOLDS):
            if row["decided"] != "dismissed" and row["state"] in ("APPROVED", "CONFIRMED") and row["approved_amount"]:
                reason = f"{show('risk_hit', row['hit_id'])}: {row['why']}"[:500]
                try:
                    await self.place(row["merchant_id"], row["currency"], row["approved_amount"], reason, "risk rule", row["hit_id"])
                except Problem as problem:
                    if problem.code != "already_exists":
                        raise
                await self.pool.execute(HELD, row["hit_id"], "placed")
            else:
                await self.pool.execute(HELD, row["hit_id"], "not_needed")
        for row in await self.pool.fetch(DISMISSED):
            await self.release(row["merchant_id"], row["hit_id"], row["decided_by"])
            await self.pool.execute(HELD, row["hit_id"], "released")
