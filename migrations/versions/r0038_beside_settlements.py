"""What moves a merchant's balance on a business date beside its settlement, found by day and by account: disputes and their fees, corrections of the
reconciliation. Such a day is settled also when nothing was sold on it."""

from alembic import op

revision = "0038"
down_revision = "0035"
branch_labels = None
depends_on = None

CAUSES = "'chargeback', 'chargeback_won', 'dispute_fee', 'reconciliation_adjust', 'reconciliation_correction'"

STATEMENTS = (
    *(f"CREATE INDEX transfer_beside_{side} ON transfer (business_date, {side}_account) WHERE cause IN ({CAUSES})" for side in ("debit", "credit")),
    # amount: signed from the merchant's point of view. acquirer_id: whose day it belongs to, null when a bank's file was corrected.
    f"""
    CREATE VIEW settled_beside AS
    SELECT a.merchant_id, coalesce(d.acquirer_id, o.acquirer_id) AS acquirer_id, e.currency, e.business_date, e.cause, e.amount, e.posted_at,
      d.dispute_id, coalesce(d.reference, e.object) AS reference, coalesce(d.transaction_id, x.transaction_id) AS transaction_id
    FROM ledger_entry e JOIN account a USING (account_id) JOIN account o ON o.account_id = e.other_account_id
      LEFT JOIN dispute d ON d.merchant_id = a.merchant_id AND d.dispute_id = CASE WHEN e.object LIKE 'dsp!_%' ESCAPE '!' THEN substr(e.object, 5)::uuid END
      LEFT JOIN reconciliation_exception x ON x.exception_id = CASE WHEN e.object LIKE 'exc!_%' ESCAPE '!' THEN substr(e.object, 5)::uuid END
    WHERE a.kind = 'merchant' AND e.cause IN ({CAUSES})""",
    "GRANT SELECT ON settled_beside TO switch_writer, switch_reader",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
