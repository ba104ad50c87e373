"""Payouts by the calendar: what is due is asked for each hour."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from switch.errors import Problem
from switch.settlement.jobs.table import Due, NotYet, Run
from switch.settlement.payouts import runs

After = tuple[UUID, str] | None
AGAIN_S = 15.0  # the database went away


class PayDays:
    """What is due to merchants, looked at each hour: their own calendars decide, so that each hour is some merchant's morning."""

    def __init__(self, run: Callable[[After], Awaitable[runs.Run]]) -> None:
        """`run` asks for some of what is due, after these; called again, it pays nothing twice."""
        self.run = run

    async def due(self, now: datetime) -> list[Due]:
        return [Due(f"{now:%Y-%m-%dT%H}")]

    async def do(self, run: Run) -> Mapping[str, Any]:
        looked_at = asked = 0
        after: After = None
        while True:
            try:
                some = await self.run(after)
            except Problem as problem:
                raise NotYet(AGAIN_S, problem.detail) from None
            looked_at, asked = looked_at + len(some.outcomes), asked + sum(outcome.payout_id is not None for outcome in some.outcomes)
            await run.progress(looked_at)
            if not some.more:
                return {"looked_at": looked_at, "asked_for": asked}
            after = some.outcomes[-1].merchant_id, some.outcomes[-1].currency
