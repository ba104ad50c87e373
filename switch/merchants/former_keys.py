"""Working keys that were replaced and are believed no more: removed each hour, also of who never signs in again."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from switch.settlement.jobs.table import Due, Run

AT_ONCE = 1000
FORGET = "SELECT forget_former_keys($1::integer)"


class FormerKeys:
    async def due(self, now: datetime) -> list[Due]:
        return [Due(f"{now:%Y-%m-%dT%H}")]

    async def do(self, run: Run) -> Mapping[str, Any]:
        removed, gone = 0, AT_ONCE
        while gone == AT_ONCE:
            async with run.pool.acquire() as connection, connection.transaction():
                await run.hold(connection)
                gone = await connection.fetchval(FORGET, AT_ONCE)
            removed += gone
        return {"removed": removed}
