"""What nobody can ask for any more, removed each hour by functions of the database, which alone may: working keys that were replaced, also of who
never signs in again, where terminals were longer ago than rules, and trials of them, look back, and what devices said of themselves as long ago."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from switch.settlement.jobs.table import Due, Run

AT_ONCE = 1000
KEYS = "SELECT forget_former_keys($1::integer)"
STAYS = "SELECT forget_former_stays($1::integer)"
HEALTH = "SELECT forget_former_health($1::integer)"


class Former:
    def __init__(self, forget: str) -> None:
        self.forget = forget

    async def due(self, now: datetime) -> list[Due]:
        return [Due(f"{now:%Y-%m-%dT%H}")]

    async def do(self, run: Run) -> Mapping[str, Any]:
        removed, gone = 0, AT_ONCE
        while gone == AT_ONCE:
            async with run.pool.acquire() as connection, connection.transaction():
                await run.hold(connection)
                gone = await connection.fetchval(self.forget, AT_ONCE)
            removed += gone
        return {"removed": removed}
