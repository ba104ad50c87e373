"""Cut-overs that somebody asked this worker for: begun, and not waited for; how they stand is read from their steps."""

from datetime import date
from typing import Any
from uuid import UUID

from switch import logs
from switch.background import Background
from switch.clock import clock
from switch.database import UNKNOWN, Connection
from switch.errors import Problem
from switch.ids import show
from switch.settlement.cutover import steps
from switch.settlement.cutover.steps import Connect


class Closing:
    """`connect` opens a writer's connection."""

    def __init__(self, connect: Connect) -> None:
        self.connect, self.background = connect, Background()

    async def begin(self, acquirer_id: UUID, business_date: date | None) -> date:
        """The business date that is being cut over now, or was. Raises Problem: not_found, conflict, not_ready."""
        connection = await self._connected()
        try:
            day = await steps.day_to_run(connection, acquirer_id, business_date, clock.now())
        finally:
            await connection.close()
        self.background.later(self._run(acquirer_id, day.business_date))
        return day.business_date

    async def stands(self, acquirer_id: UUID, business_date: date | None = None, before: date | None = None, limit: int = 50) -> list[dict[str, Any]]:
        """With their steps, the latest first. Raises Problem not_ready."""
        connection = await self._connected()
        try:
            return await steps.stands(connection, acquirer_id, business_date, before, limit)
        except UNKNOWN:
            raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
        finally:
            await connection.close()

    async def stop(self) -> None:
        """Whoever runs it next goes on where it was."""
        await self.background.end()

    async def _run(self, acquirer_id: UUID, business_date: date) -> None:
        try:
            done = await steps.run(self.connect, acquirer_id, business_date, gentle=True)
        except Problem as problem:  # another runner works at it: as good as ours
            logs.info("cutover_not_run", acquirer_id=acquirer_id, detail=problem.detail)
            return
        if not done.done:
            logs.warning("cutover_waits", acquirer_id=acquirer_id, detail=f"{show('acquirer', acquirer_id)} {done.business_date}: {done.waits_for}")

    async def _connected(self) -> Connection:
        try:
            return await self.connect()
        except UNKNOWN:
            raise Problem("not_ready", "The database does not answer.", retry_after=2) from None
