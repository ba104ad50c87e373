"""What follows when settlements are stated, in the commit that states them: their merchants are told, and the day is reconciled (again)."""

from collections.abc import Sequence

import asyncpg

from switch.clock import clock
from switch.database import Connection
from switch.ids import show
from switch.notices.events import Event, tell_all
from switch.settlement.reconciliation.runs import request

TOLD = ("currency", "sales", "refunds", "adjustments", "fees", "tax", "net", "reserve_held")  # minor units, as in GET /v1/settlements/{id}


async def announce(connection: Connection, rows: Sequence[asyncpg.Record]) -> None:
    """Of settlements that are stated in the caller's transaction. May be repeated: an event is one, and a run that waits is enough."""
    now = clock.now()
    await tell_all(connection, [
        Event(row["merchant_id"], "settlement.stated", show("settlement", row["settlement_id"]), now, {
            "settlement": show("settlement", row["settlement_id"]), "acquirer": show("acquirer", row["acquirer_id"]),
            "business_date": row["business_date"].isoformat(), "due_on": row["due_on"].isoformat(), **{name: row[name] for name in TOLD}})
        for row in rows])
    for acquirer_id, day in sorted({(row["acquirer_id"], row["business_date"]) for row in rows}):
        await request(connection, acquirer_id, [day], "cutover")
