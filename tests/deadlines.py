"""Deadlines of disputes at an instant of the test's choice: what is due then is kept, without the queue of the jobs."""

from collections import Counter
from datetime import datetime

from switch.database import Pool
from switch.ids import read
from switch.settlement.disputes.cases import Cases
from switch.settlement.disputes.deadlines import DUE, OVERDUE, Deadlines


async def look(pool: Pool, cases: Cases, now: datetime) -> tuple[int, int]:
    """How many are lost by it, and about how many somebody was called."""
    deadlines, kept = Deadlines(pool, cases), Counter[str]()
    for due in await deadlines.due(now):
        dispute_id = read("dispute", due.arguments["dispute"])
        assert dispute_id is not None
        async with pool.acquire() as connection, connection.transaction():
            kept[due.arguments["what"]] += await deadlines.keep(connection, dispute_id, due.arguments["what"], now)
    return kept[OVERDUE], kept[DUE]
