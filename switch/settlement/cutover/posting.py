"""Settlements into the ledger and out to their merchants: a transfer per pair of accounts, then the statement."""

from collections.abc import Sequence
from datetime import date
from uuid import UUID

import asyncpg

from switch.database import Connection
from switch.ids import show
from switch.settlement import ledger
from switch.settlement.ledger import Account, Transfer, moved

WAITING = """SELECT settlement_id, merchant_id, acquirer_id, business_date, currency, sales, refunds, adjustments, adjustments_count, fees, tax,
costs, net, reserve_held, due_on FROM settlement WHERE acquirer_id = $1 AND business_date = $2 AND state = $3 ORDER BY settlement_id LIMIT $4
FOR NO KEY UPDATE"""
POSTED = "UPDATE settlement SET state = 'posted', posted_at = now() WHERE settlement_id = ANY($1::uuid[])"
STATED = "UPDATE settlement SET state = 'stated', stated_at = now() WHERE settlement_id = ANY($1::uuid[])"


def transfers(row: asyncpg.Record) -> list[Transfer]:
    """What a settlement moves. Their sum over the merchant's account is its net without the reserve."""
    merchant, acquirer = Account("merchant", row["currency"], row["merchant_id"]), Account("acquirer", row["currency"], None, row["acquirer_id"])
    steps = (
        ("sales", acquirer, merchant, row["sales"]), ("refunds", merchant, acquirer, row["refunds"]),
        ("adjustments", acquirer, merchant, row["adjustments"]), ("fees", merchant, Account("fee", row["currency"]), row["fees"]),
        ("tax", merchant, Account("tax", row["currency"]), row["tax"]), ("costs", Account("cost", row["currency"]), acquirer, row["costs"]),
        ("reserve_held", merchant, Account("reserve", row["currency"], row["merchant_id"]), row["reserve_held"]),
    )
    return [transfer for cause, debit, credit, amount in steps
            for transfer in moved(debit, credit, amount, cause, show("settlement", row["settlement_id"]), row["business_date"],
                                  f"settlement:{row['settlement_id']}:{cause}")]


async def post_some(connection: Connection, acquirer_id: UUID, business_date: date, at_most: int) -> int:
    """Posts the next `at_most` settlements that are priced, in the caller's transaction; 0 when none is left."""
    rows = await connection.fetch(WAITING, acquirer_id, business_date, "priced", at_most)
    await ledger.post(connection, [transfer for row in rows for transfer in transfers(row)])
    await connection.execute(POSTED, _ids(rows))
    return len(rows)


async def state_some(connection: Connection, acquirer_id: UUID, business_date: date, at_most: int) -> list[asyncpg.Record]:
    """States the next `at_most` settlements that are posted, in the caller's transaction; from then on they are shown and paid."""
    rows = await connection.fetch(WAITING, acquirer_id, business_date, "posted", at_most)
    await connection.execute(STATED, _ids(rows))
    return rows


def _ids(rows: Sequence[asyncpg.Record]) -> list[UUID]:
    return [row["settlement_id"] for row in rows]
