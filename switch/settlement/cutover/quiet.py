"""Who owes the fees of a month in which nothing of theirs was settled: they are charged in the settlement of its last business date."""

from datetime import date
from uuid import UUID

from switch.database import Connection
from switch.settlement.funding.charged import acquirer_of

# The day after it is open before the batch of a day is taken.
LAST_OF_MONTH = """SELECT date_trunc('month', min(business_date)) > $2::date FROM directory_business_day
WHERE acquirer_id = $1 AND business_date > $2"""
# By the tariff in force that day, and of what it counts there must be one; the acquirer is the one of charges without a sale (funding/charged.py).
OWED = f"""
SELECT m.merchant_id, f.terms ->> 'currency' AS currency FROM directory_merchant m
CROSS JOIN LATERAL (SELECT t.terms FROM merchant_tariff t WHERE t.merchant_id = m.merchant_id AND t.effective_from <= $2
  ORDER BY t.effective_from DESC, t.version DESC LIMIT 1) AS f
WHERE m.status <> 'closed'
  AND EXISTS (SELECT FROM jsonb_array_elements(f.terms -> 'periodic') AS p WHERE (p ->> 'amount')::bigint > 0 AND CASE p ->> 'per'
      WHEN 'terminal' THEN EXISTS (SELECT FROM directory_terminal d WHERE d.merchant_id = m.merchant_id AND d.own_status = 'active')
      WHEN 'store' THEN EXISTS (SELECT FROM directory_store d WHERE d.merchant_id = m.merchant_id) ELSE true END)
  AND NOT EXISTS (SELECT FROM settlement s WHERE s.merchant_id = m.merchant_id AND s.currency = f.terms ->> 'currency'
      AND s.extras @> '[{{"monthly": true}}]' AND s.business_date BETWEEN date_trunc('month', $2::date)::date AND $2)
  AND {acquirer_of("m.merchant_id")} = $1
"""


async def owing(connection: Connection, acquirer_id: UUID, business_date: date, timeout_s: float) -> set[tuple[UUID, str]]:
    """Merchant and currency; none unless the day is the acquirer's last of its month. Another acquirer's cut-over may yet charge them first."""
    if not await connection.fetchval(LAST_OF_MONTH, acquirer_id, business_date):
        return set()
    return {(row[0], row[1]) for row in await connection.fetch(OWED, acquirer_id, business_date, timeout=timeout_s)}
