"""A sale between the rules: judged in memory before anything is written, refused or let through, and what became of it told to the counters.

A refused sale is a row among the hits and none among the transactions: nothing was sent, no number was used, its key stays free, and a sale
that is already in the books under the key is told as it is there, whatever the rules say by now.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar
from uuid import UUID

import asyncpg

from switch import metrics
from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import show
from switch.payments import hits
from switch.payments.asked import Asked
from switch.payments.desk import Told
from switch.payments.guard import Guard
from switch.payments.history import History
from switch.payments.hits import Hits
from switch.payments.risk import Judged
from switch.payments.transaction import APPROVED, DECLINED, SENT
from switch.records import Acquirer

Again = Callable[..., Awaitable[Told]]


class Led(Protocol):
    """To an acquirer, or to who stands in for it."""

    @property
    def acquirer(self) -> Acquirer: ...


W = TypeVar("W", bound=Led)


class Gatekeeper:
    """Joined in app.py. `told_again` is the walk's."""

    def __init__(self, guard: Guard, hits: Hits, history: History, pool: Pool, told_again: Again) -> None:
        self.guard, self.hits, self.history, self.pool, self.told_again = guard, hits, history, pool, told_again

    async def sell(self, asked: Asked, way: W, alternatives: list[Acquirer],
                   walk: Callable[[Asked, W, list[Acquirer]], Awaitable[Told]]) -> Told:
        """`walk`: of what is let through, by an acquirer or in its stead."""
        judged = self.guard.judge(asked)
        if judged.ask is not None:
            judged = await self._confirmed(judged, asked)
        made: list[dict[str, Any]] = []
        if judged.hits:
            for hit in judged.hits:
                metrics.risk_hits.labels(hit.action).inc()
            if judged.refused:
                return await self._refused(judged, asked, way)
            made = hits.rows(judged, asked)
            asked = asked._replace(risk=hits.event(made))
        told = None
        try:
            told = await walk(asked, way, alternatives)
            return told
        finally:
            self._ended(judged, asked, told, made)

    def _ended(self, judged: Judged, asked: Asked, told: Told | None, made: list[dict[str, Any]]) -> None:
        """`told` None: a refusal, and nothing was written; or a fault, after which nobody knows what was."""
        if told is None or told.replayed:
            self.guard.ended(asked.identity, judged, written=False, sold=False, declined=False)
            return
        row = told.transaction
        self.guard.ended(asked.identity, judged, written=True, sold=row.state in (SENT, APPROVED), declined=row.state == DECLINED)
        if made and row.outcome is None:  # its commit may not have been: written twice is written once
            self.hits.keep([{**each, "transaction_id": str(row.transaction_id)} for each in made])

    async def _confirmed(self, judged: Judged, asked: Asked) -> Judged:
        try:
            return await self.guard.confirm(judged, asked, self.pool)
        except (*UNKNOWN, asyncpg.PostgresError):
            self.guard.ended(asked.identity, judged, written=False, sold=False, declined=False)
            raise Problem("journal_unavailable", retry_after=2, extra={"processed": False}) from None

    async def _refused(self, judged: Judged, asked: Asked, way: Led) -> Told:
        if await self.history.key(*asked.key) is not None:  # not a new sale
            return await self.told_again(asked.key, asked.route, asked.fingerprint, asked.door.at + way.acquirer.answer_timeout_s)
        made = hits.rows(judged, asked)
        await self.hits.refused(made)
        limit = next((hit for hit in judged.hits if hit.source == "limit"), None)
        detail = "" if limit is None else f"The merchant's limit is reached: {limit.kind.removeprefix('limit_').replace('_', ' ')}."
        raise Problem("risk_declined", detail, extra={"processed": False, "hit": show("risk_hit", UUID(made[0]["hit_id"]))})
