"""What follows when settlements are stated, in the commit that states them: their merchants are told, and the day is reconciled (again),
with those that it adjusts: an outcome that came late explains, or contradicts, what their files say."""

from collections.abc import Sequence

import asyncpg

from switch.clock import clock
from switch.database import Connection
from switch.ids import show
from switch.notices.events import Event, tell_all
from switch.settlement.cutover.settlements import BESIDE, figures
from switch.settlement.reconciliation.runs import request

TOLD = f"""SELECT s.*, beside.* FROM settlement s {BESIDE} WHERE s.settlement_id = ANY($1::uuid[]) ORDER BY s.settlement_id"""
ADJUSTED = "SELECT DISTINCT acquirer_id, for_date FROM settlement_line WHERE settlement_id = ANY($1::uuid[]) AND kind = 'adjustment' AND gross <> 0"


async def announce(connection: Connection, rows: Sequence[asyncpg.Record]) -> None:
    """Of settlements that are stated in the caller's transaction. May be repeated: an event is one, and a run that waits is enough."""
    now = clock.now()
    await tell_all(connection, [
        Event(row["merchant_id"], "settlement.stated", show("settlement", row["settlement_id"]), now, {
            "settlement": show("settlement", row["settlement_id"]), "acquirer": show("acquirer", row["acquirer_id"]), **figures(row)})
        for row in await connection.fetch(TOLD, [row["settlement_id"] for row in rows])])
    days = {(row["acquirer_id"], row["business_date"]) for row in rows}
    if adjusting := [row["settlement_id"] for row in rows if row["adjustments_count"]]:
        days |= {(row["acquirer_id"], row["for_date"]) for row in await connection.fetch(ADJUSTED, adjusting)}
    for acquirer_id, day in sorted(days):
        await request(connection, acquirer_id, [day], "cutover")
