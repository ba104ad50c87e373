"""What a contract charges once, and the deposit that it holds, belong to a business date of one acquirer: that day's settlement says so, also when
nothing was sold on it."""

from alembic import op

revision = "0040"
down_revision = "0039"
branch_labels = None
depends_on = None

CAUSES = "'chargeback', 'chargeback_won', 'dispute_fee', 'reconciliation_adjust', 'reconciliation_correction'"

CHARGES = (
    # Whose business date it is, where neither account says so.
    "ALTER TABLE transfer ADD COLUMN acquirer_id uuid REFERENCES acquirer",
    "CREATE INDEX transfer_of_day ON transfer (acquirer_id, business_date) WHERE acquirer_id IS NOT NULL",
    # As r0038 has it, with those beside it. name: what is charged, in words.
    f"""
    CREATE OR REPLACE VIEW settled_beside AS
    SELECT a.merchant_id, coalesce(d.acquirer_id, o.acquirer_id) AS acquirer_id, e.currency, e.business_date, e.cause, e.amount, e.posted_at,
      d.dispute_id, coalesce(d.reference, e.object) AS reference, coalesce(d.transaction_id, x.transaction_id) AS transaction_id, ''::text AS name
    FROM ledger_entry e JOIN account a USING (account_id) JOIN account o ON o.account_id = e.other_account_id
      LEFT JOIN dispute d ON d.merchant_id = a.merchant_id
        AND d.dispute_id = CASE WHEN e.object LIKE 'dsp!_%' ESCAPE '!' THEN substr(e.object, 5)::uuid END
      LEFT JOIN reconciliation_exception x ON x.exception_id = CASE WHEN e.object LIKE 'exc!_%' ESCAPE '!' THEN substr(e.object, 5)::uuid END
    WHERE a.kind = 'merchant' AND e.cause IN ({CAUSES})
    UNION ALL
    SELECT a.merchant_id, t.acquirer_id, t.currency, t.business_date, t.cause,
      CASE WHEN t.credit_account = a.account_id THEN t.amount ELSE -t.amount END, t.posted_at, NULL, t.object, NULL, t.note
    FROM transfer t JOIN account a ON a.account_id IN (t.debit_account, t.credit_account)
    WHERE a.kind = 'merchant' AND t.acquirer_id IS NOT NULL""",
)


def upgrade() -> None:
    for statement in CHARGES:
        op.execute(statement)
