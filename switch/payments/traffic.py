"""What a merchant sold, hour by hour, from the books: how many sales, what became of them, and from how many terminals."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from switch.database import UNKNOWN, Pool
from switch.errors import Problem
from switch.ids import lowest

LONGEST = timedelta(days=7)

# A sale that was tried elsewhere is its last attempt; what was given back is counted apart, and questions are no sales.
HOURS = """SELECT date_trunc('hour', received_at, 'UTC') AS hour, currency, count(*) FILTER (WHERE type <> 'refund') AS sales,
  count(*) FILTER (WHERE type <> 'refund' AND state IN ('APPROVED', 'CONFIRMED')) AS approved,
  count(*) FILTER (WHERE type <> 'refund' AND state = 'DECLINED') AS declined,
  count(*) FILTER (WHERE type <> 'refund' AND state NOT IN ('APPROVED', 'CONFIRMED', 'DECLINED', 'SENT')) AS undone,
  count(*) FILTER (WHERE type <> 'refund' AND state = 'SENT') AS open,
  coalesce(sum(approved_amount) FILTER (WHERE type <> 'refund' AND state IN ('APPROVED', 'CONFIRMED')), 0)::bigint AS amount,
  count(*) FILTER (WHERE type = 'refund') AS refunds, count(DISTINCT terminal_id) AS terminals
FROM history_transaction t WHERE merchant_id = $1 AND transaction_id >= $2 AND transaction_id < $3 AND (original_id IS NULL OR type = 'refund')
  AND type NOT IN ('balance_inquiry', 'account_verification')
  AND NOT EXISTS (SELECT FROM history_transaction n WHERE n.attempt_of = t.transaction_id)
GROUP BY 1, 2 ORDER BY 1 DESC, 2"""


async def hours(pool: Pool, merchant_id: UUID, since: datetime, until: datetime) -> list[Any]:
    """Newest first; hours without a sale have no row. Raises Problem not_ready."""
    try:
        return list(await pool.fetch(HOURS, merchant_id, lowest(since), lowest(until)))
    except UNKNOWN:
        raise Problem("not_ready", "The books cannot be read just now.", retry_after=2) from None
