"""What is open between a merchant and an acquirer, or all of them: what a change of acquirer shows, and what the end of a merchant waits for."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from switch.database import Connection
from switch.ids import lowest
from switch.money import text
from switch.settlement.cutover.batch_rows import GROSS, ORIGINAL

# kind -> what it is. Each is asked of $1 the merchant and $2 the acquirer, None for all, and says currency, count and amount in minor units.
KINDS: Mapping[str, str] = MappingProxyType({
    "in_flight": "transactions without an outcome", "reversals": "reversals and advices that are not delivered, parked ones too",
    "preauthorizations": "authorised and not captured yet", "disputes": "disputes that are not closed",
    "unsettled": "sold and not settled yet", "unpaid": "settled and in no payout yet", "reserves": "kept back as rolling reserve",
    "payouts": "payouts that the bank has not confirmed",
})
BLOCKS_FINISH = frozenset({"in_flight", "reversals", "preauthorizations", "disputes", "unsettled"})

_OPEN_DAYS = "SELECT min(business_date) FROM business_day WHERE state <> 'closed' AND ($1::uuid IS NULL OR acquirer_id = $1)"
_OF = "t.merchant_id = $1 AND ($2::uuid IS NULL OR t.acquirer_id = $2)"
_STATEMENTS: Mapping[str, str] = MappingProxyType({
    "in_flight": f"""SELECT t.currency, count(*), sum(t.amount)::bigint FROM history_transaction t
        WHERE {_OF} AND t.state = 'SENT' GROUP BY t.currency""",
    # Each half has an index of its own.
    "reversals": f"""SELECT x.currency, count(*), sum(x.amount)::bigint
        FROM (SELECT * FROM duty WHERE state = 'open' UNION ALL SELECT * FROM duty WHERE state = 'parked') t
        JOIN history_transaction x USING (merchant_id, transaction_id) WHERE {_OF} GROUP BY x.currency""",
    "preauthorizations": f"""SELECT t.currency, count(*), sum(t.authorised - t.captured - t.released)::bigint FROM history_transaction t
        WHERE {_OF} AND t.release_at IS NOT NULL AND t.state IN ('APPROVED', 'CONFIRMED') AND t.voided = 0
        AND t.authorised > t.captured + t.released
        GROUP BY t.currency""",
    "disputes": f"SELECT t.currency, count(*), sum(t.amount)::bigint FROM dispute t WHERE {_OF} AND t.closed_at IS NULL GROUP BY t.currency",
    "unpaid": f"""SELECT t.currency, count(*), sum(t.net - t.reserve_held)::bigint FROM settlement t
        WHERE {_OF} AND t.payout_id IS NULL AND t.net <> t.reserve_held GROUP BY t.currency""",
    "reserves": f"""SELECT t.currency, count(*), sum(t.reserve_held)::bigint FROM settlement t
        WHERE {_OF} AND t.reserve_held > 0 AND t.reserve_released_at IS NULL GROUP BY t.currency""",
    # A payout is of all acquirers together: what may be on its way of this one's money. One without settlements pays what came back.
    "payouts": """SELECT t.currency, count(*), sum(t.amount)::bigint FROM payout t WHERE t.merchant_id = $1 AND t.state IN ('requested', 'sent')
        AND ($2::uuid IS NULL OR EXISTS (SELECT FROM settlement s WHERE s.merchant_id = $1 AND s.payout_id = t.payout_id AND s.acquirer_id = $2)
          OR NOT EXISTS (SELECT FROM settlement s WHERE s.merchant_id = $1 AND s.payout_id = t.payout_id))
        GROUP BY t.currency""",
})
# Of the days that are not closed, and what moved after its day was.
_UNSETTLED = f"""
WITH open AS (
    SELECT t.transaction_id FROM history_transaction t JOIN business_day d ON d.acquirer_id = t.acquirer_id AND d.business_date = t.business_date
    WHERE {_OF} AND t.transaction_id >= $3 AND d.state <> 'closed'
    UNION SELECT t.transaction_id FROM late_change t WHERE {_OF} AND t.settled_on IS NULL)
SELECT t.currency, count(*), sum({GROSS})::bigint FROM open
JOIN history_transaction t ON t.merchant_id = $1 AND t.transaction_id = open.transaction_id
{ORIGINAL} WHERE {GROSS} <> 0 GROUP BY t.currency"""


class Owed(NamedTuple):
    """One kind of open item in one currency."""

    kind: str
    currency: str
    items: int
    amount: int


# What a contract says of its end (term, early fee, deposit), as the room of contracts tells it; nothing while there is none.
Terms = Callable[[Connection, UUID, UUID], Awaitable[Sequence[Mapping[str, Any]]]]


async def no_terms(connection: Connection, merchant_id: UUID, acquirer_id: UUID) -> Sequence[Mapping[str, Any]]:
    return ()


async def owed(connection: Connection, merchant_id: UUID, acquirer_id: UUID | None = None) -> list[Owed]:
    """Everything that is open, in the order of KINDS; what is zero is left out."""
    first: date | None = await connection.fetchval(_OPEN_DAYS, acquirer_id)
    since = lowest(datetime.combine(first or date(1970, 1, 2), time(), UTC) - timedelta(days=2))  # a day begins before its date in some zones
    found = []
    for kind in KINDS:
        rows = (await connection.fetch(_UNSETTLED, merchant_id, acquirer_id, since) if kind == "unsettled"
                else await connection.fetch(_STATEMENTS[kind], merchant_id, acquirer_id))
        found += [Owed(kind, *row) for row in rows]
    return found


def named(items: Sequence[Owed], kinds: frozenset[str]) -> str:
    """Those of some kinds, for a refusal: which, how many, how much."""
    return "; ".join(f"{each.kind}: {each.items} of {text(each.amount, each.currency)}" for each in items if each.kind in kinds)
