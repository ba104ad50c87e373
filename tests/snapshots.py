"""What must hold of the money in every snapshot of the books: each statement finds what breaks it, and finds nothing when all is well.

A transfer has two sides by its form, so that accounts sum to zero however it came to be; that what belongs together was posted together shows only
against the objects: settlements, payouts, disputes and exceptions, each held against its own transfers in the same snapshot.
"""

from collections.abc import Mapping

from switch.database import Connection
from switch.settlement import ledger

# Of an object, what its transfers moved on accounts of a kind.
_MOVED = """(SELECT coalesce(sum(e.amount), 0)::bigint FROM ledger_entry e JOIN account a USING (account_id) WHERE e.object = '{object}' || {ident} AND a.kind = '{kind}'{more})"""


def moved(object_: str, ident: str, kind: str, more: str = "") -> str:
    return _MOVED.format(object=object_, ident=ident, kind=kind, more=more)


FAULTS: Mapping[str, str] = {
    "a currency does not sum to zero": "SELECT currency, sum(amount) FROM ledger_entry GROUP BY currency HAVING sum(amount) <> 0",
    "a settlement is not the sum of its lines": """
        SELECT s.settlement_id, s.net, l.* FROM settlement s CROSS JOIN LATERAL (
          SELECT coalesce(sum(gross), 0) AS gross, coalesce(sum(fee), 0) AS fee, coalesce(sum(gross) FILTER (WHERE kind = 'sale'), 0) AS sales,
            coalesce(-sum(gross) FILTER (WHERE kind = 'refund'), 0) AS refunds FROM settlement_line l WHERE l.settlement_id = s.settlement_id) l
        WHERE (l.gross, l.sales, l.refunds) <> (s.sales - s.refunds + s.adjustments, s.sales, s.refunds)
          OR l.fee + (SELECT coalesce(sum((e->>'amount')::bigint), 0) FROM jsonb_array_elements(s.extras) e) <> s.fees""",
    "gross less fees is not net": "SELECT settlement_id FROM settlement WHERE net <> sales - refunds + adjustments - fees - tax",
    "a line without its settlement": "SELECT l.transaction_id FROM settlement_line l LEFT JOIN settlement s USING (settlement_id) WHERE s.settlement_id IS NULL",
    "a settlement is not what was posted for it": f"""
        SELECT settlement_id, state, net, reserve_held FROM settlement s
        WHERE {moved('set_', 's.settlement_id', 'merchant', " AND e.cause <> 'reserve_released'")} <> CASE state WHEN 'priced' THEN 0 ELSE net - reserve_held END
          OR {moved('set_', 's.settlement_id', 'fee')} <> CASE state WHEN 'priced' THEN 0 ELSE fees END
          OR {moved('set_', 's.settlement_id', 'acquirer')} <> CASE state WHEN 'priced' THEN 0 ELSE costs - (sales - refunds + adjustments) END
          OR {moved('set_', 's.settlement_id', 'reserve')} <> CASE WHEN state = 'priced' OR reserve_released_at IS NOT NULL THEN 0 ELSE reserve_held END""",
    "something is settled twice": """
        SELECT l.transaction_id FROM settlement_line l JOIN transaction t USING (merchant_id, transaction_id) GROUP BY l.transaction_id, t.amount, t.type
        HAVING count(*) FILTER (WHERE l.kind <> 'adjustment') > 1 OR sum(l.gross) NOT BETWEEN CASE t.type WHEN 'refund' THEN -t.amount ELSE 0 END
          AND CASE t.type WHEN 'refund' THEN 0 ELSE t.amount END""",
    "a payout is not what was posted for it": f"""
        SELECT payout_id, state, amount FROM payout p WHERE {moved('pay_', 'p.payout_id', 'merchant')} <> CASE state WHEN 'returned' THEN 0 ELSE -amount END
          OR {moved('pay_', 'p.payout_id', 'payout')} <> CASE WHEN state IN ('requested', 'sent') THEN amount ELSE 0 END
          OR {moved('pay_', 'p.payout_id', 'bank')} <> CASE state WHEN 'confirmed' THEN amount ELSE 0 END""",
    "a settlement is paid before it is posted": "SELECT settlement_id FROM settlement WHERE payout_id IS NOT NULL AND state = 'priced'",
    "a settlement names a payout that is none": "SELECT s.settlement_id FROM settlement s LEFT JOIN payout p USING (payout_id) WHERE s.payout_id IS NOT NULL AND p.payout_id IS NULL",
    "a dispute is not what was posted for it": f"""
        SELECT dispute_id, state FROM dispute d WHERE {moved('dsp_', 'd.dispute_id', 'merchant', " AND e.cause <> 'dispute_fee'")} <> -charged OR {moved('dsp_', 'd.dispute_id', 'dispute')} <> 0
          OR {moved('dsp_', 'd.dispute_id', 'acquirer', " AND e.cause <> 'dispute_cost'")} <> charged""",
    "a sale is not charged back as its disputes are": """
        SELECT t.transaction_id FROM transaction t LEFT JOIN dispute d USING (merchant_id, transaction_id) WHERE t.charged_back > 0 OR d.charged > 0
        GROUP BY t.transaction_id, t.charged_back HAVING t.charged_back <> coalesce(sum(d.charged), 0)""",
    "an exception is not what was posted for it": f"""
        SELECT exception_id, state, resolution FROM reconciliation_exception x WHERE acquirer_id IS NOT NULL AND {moved('exc_', 'x.exception_id', 'acquirer')}
          <> CASE WHEN state = 'resolved' AND resolution IN ('write_off', 'suspense', 'adjust') THEN -difference ELSE 0 END""",
    "a transfer belongs to nothing": """
        SELECT t.transfer_id, t.object FROM transfer t WHERE NOT EXISTS (SELECT FROM settlement s WHERE t.object = 'set_' || s.settlement_id)
          AND NOT EXISTS (SELECT FROM payout p WHERE t.object = 'pay_' || p.payout_id) AND NOT EXISTS (SELECT FROM dispute d WHERE t.object = 'dsp_' || d.dispute_id)
          AND NOT EXISTS (SELECT FROM reconciliation_exception x WHERE t.object = 'exc_' || x.exception_id)
          AND NOT EXISTS (SELECT FROM merchant_hold h WHERE t.object = 'hld_' || h.hold_id)""",
    "a hold is not what was posted for it": f"""
        SELECT hold_id FROM merchant_hold h WHERE {moved('hld_', 'h.hold_id', 'hold')} <> CASE WHEN released_at IS NULL THEN coalesce(amount, 0) ELSE 0 END""",
}


async def wrong(connection: Connection) -> dict[str, str]:
    """What is wrong in one snapshot, with the first rows that show it."""
    found = {}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for name, statement in FAULTS.items():
            if rows := await connection.fetch(statement):
                found[name] = str([dict(row) for row in rows[:3]])
        balances = await ledger.balances(connection)
        for currency in {account.currency for account in balances}:
            if rest := sum(amount for account, amount in balances.items() if account.currency == currency):
                found["the accounts do not sum to zero"] = f"{currency} {rest}"
    return found
