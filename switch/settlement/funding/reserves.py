"""Rolling reserves back in time: what was held of a settlement goes back to its merchant on its day."""

from datetime import date

from switch.database import Connection
from switch.ids import show
from switch.settlement import ledger
from switch.settlement.ledger import Account, Transfer

AT_ONCE = 500

# Of all acquirers: whoever comes first gives it back.
TO_RELEASE = """SELECT settlement_id, merchant_id, currency, reserve_held FROM settlement WHERE reserve_held > 0 AND reserve_released_at IS NULL
AND reserve_release_on <= $1 AND state = 'stated' ORDER BY reserve_release_on LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED"""
RELEASED = "UPDATE settlement SET reserve_released_at = now() WHERE settlement_id = ANY($1::uuid[])"


async def release(connection: Connection, today: date) -> int:
    """Gives back the next reserves whose time has come, in the caller's transaction; 0 when there are none."""
    rows = await connection.fetch(TO_RELEASE, today, AT_ONCE)
    await ledger.post(connection, [
        Transfer(Account("reserve", row["currency"], row["merchant_id"]), Account("merchant", row["currency"], row["merchant_id"]),
                 row["reserve_held"], "reserve_released", show("settlement", row["settlement_id"]), today,
                 f"settlement:{row['settlement_id']}:reserve_released")
        for row in rows])
    await connection.execute(RELEASED, [row["settlement_id"] for row in rows])
    return len(rows)
