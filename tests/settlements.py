"""Settlements for the tests of what is read from them: hand-written rows that agree with each other."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg

from tests import rows

DAY = date(2026, 11, 25)
AT = datetime(2026, 11, 25, 8, 0, tzinfo=UTC)

LINES = """INSERT INTO settlement_line (merchant_id, settlement_id, business_date, transaction_id, acquirer_id, kind, type, for_date, gross, fee, currency, rule,
    store_id, terminal_id, brand, card_type, entry_mode, mcc, card_last4, rrn, stan, approval_code, reference, captured_at)
SELECT $1, $2, $3, gen_random_uuid(), $4, CASE WHEN n % 10 = 0 THEN 'refund' ELSE 'sale' END, CASE WHEN n % 10 = 0 THEN 'refund' ELSE 'purchase' END, $3,
    CASE WHEN n % 10 = 0 THEN -500 ELSE 1050 END, CASE WHEN n % 10 = 0 THEN 0 ELSE 6 END, $5, 'standard: 0.60 %', $6, $7, 'visa', 'credit', 'chip', '5812', '1111',
    lpad(n::text, 12, '0'), lpad((n % 1000000)::text, 6, '0'), 'A00001', $8, $9::timestamptz + n * interval '1 millisecond'
FROM generate_series(1, $10::integer) n"""


async def settle(url: str, merchant: UUID, acquirer: UUID, store: UUID, terminal: UUID, count: int, *, currency: str = "CNY", day: date = DAY,
                 reference: str | None = None, tax: int = 0, charges: tuple[tuple[str, int], ...] = (), reserve: int = 0, state: str = "stated") -> UUID:
    """A settlement of so many lines, nine sales of 10.50 with a fee of 0.06 to one refund of 5.00; its id."""
    refunds = count // 10
    sales = count - refunds
    fees = sales * 6 + sum(amount for _, amount in charges)
    settlement_id = rows.new_id()
    values: dict[str, Any] = {
        "merchant_id": merchant, "settlement_id": settlement_id, "acquirer_id": acquirer, "business_date": day, "currency": currency, "state": state,
        "sales_count": sales, "sales": sales * 1050, "refunds_count": refunds, "refunds": refunds * 500, "fees": fees, "tax": tax,
        "net": sales * 1050 - refunds * 500 - fees - tax, "reserve_held": reserve, "reserve_release_on": day + timedelta(days=180) if reserve else None,
        "due_on": day + timedelta(days=1), "extras": "[" + ", ".join(f'{{"name": "{name}", "amount": {amount}}}' for name, amount in charges) + "]",
    }
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO business_day (acquirer_id, business_date, state) VALUES ($1, $2, 'closed') ON CONFLICT DO NOTHING", acquirer, day)
            await connection.execute("INSERT INTO cutover (acquirer_id, business_date, next_date) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", acquirer, day,
                                     day + timedelta(days=1))
            await rows.insert(connection, "settlement", **values)
            await connection.execute(LINES, merchant, settlement_id, day, acquirer, currency, store, terminal, reference, AT, count)
    finally:
        await connection.close()
    return settlement_id
