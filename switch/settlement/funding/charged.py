"""Which business date falls what a contract charges once, or holds as a deposit: one of an acquirer, since settlements are an acquirer's."""

from datetime import date
from typing import NamedTuple
from uuid import UUID

from switch.database import Connection
from switch.settlement import ledger


def acquirer_of(merchant: str) -> str:
    """SQL: by which a merchant sold last; before its first sale the one that its routes ask first, of those that know its terminals."""
    return f"""coalesce(
  (SELECT acquirer_id FROM history_transaction WHERE merchant_id = {merchant} ORDER BY transaction_id DESC LIMIT 1),
  (SELECT n.acquirer_id FROM directory_acquirer_terminal n
     LEFT JOIN directory_rule r ON r.acquirer_id = n.acquirer_id AND r.state = 'active' AND coalesce(r.merchant_id, {merchant}) = {merchant}
   WHERE n.merchant_id = {merchant} ORDER BY r.priority, r.created_at, n.acquirer_id LIMIT 1))"""


ACQUIRER = f"SELECT {acquirer_of('$1')}"


class Falls(NamedTuple):
    """`acquirer_id`: whose business date it is; None when the merchant has no acquirer yet, and only the balance can tell."""

    business_date: date
    acquirer_id: UUID | None


async def falls_on(connection: Connection, merchant_id: UUID, today: date) -> Falls:
    """In the caller's database transaction, which no cut-over of that day passes. Raises Problem not_ready."""
    acquirer_id = await connection.fetchval(ACQUIRER, merchant_id)
    day = None if acquirer_id is None else await ledger.open_day(connection, acquirer_id)
    return Falls(today, None) if day is None else Falls(day, acquirer_id)
