"""What moves a merchant's balance on a business date beside its settlement, found by day and by account: disputes and their fees, corrections of the
reconciliation. Such a day is settled also when nothing was sold on it.

And working keys that were replaced are forgotten, which nothing but these two functions may do: beyond the four newest of a place, which is what a
worker remembers (FORMER_MAX), and an hour after they were replaced, when the view of the workers shows them no more. What people loaded stays."""

from alembic import op

revision = "0038"
down_revision = "0037"
branch_labels = None
depends_on = None

CAUSES = "'chargeback', 'chargeback_won', 'dispute_fee', 'reconciliation_adjust', 'reconciliation_correction'"

BESIDE = (
    *(f"CREATE INDEX transfer_beside_{side} ON transfer (business_date, {side}_account) WHERE cause IN ({CAUSES})" for side in ("debit", "credit")),
    # amount: signed from the merchant's point of view. acquirer_id: whose day it belongs to, null when a bank's file was corrected.
    f"""
    CREATE VIEW settled_beside AS
    SELECT a.merchant_id, coalesce(d.acquirer_id, o.acquirer_id) AS acquirer_id, e.currency, e.business_date, e.cause, e.amount, e.posted_at,
      d.dispute_id, coalesce(d.reference, e.object) AS reference, coalesce(d.transaction_id, x.transaction_id) AS transaction_id
    FROM ledger_entry e JOIN account a USING (account_id) JOIN account o ON o.account_id = e.other_account_id
      LEFT JOIN dispute d ON d.merchant_id = a.merchant_id
        AND d.dispute_id = CASE WHEN e.object LIKE 'dsp!_%' ESCAPE '!' THEN substr(e.object, 5)::uuid END
      LEFT JOIN reconciliation_exception x ON x.exception_id = CASE WHEN e.object LIKE 'exc!_%' ESCAPE '!' THEN substr(e.object, 5)::uuid END
    WHERE a.kind = 'merchant' AND e.cause IN ({CAUSES})""",
    "GRANT SELECT ON settled_beside TO switch_writer, switch_reader",
)

FORMER = "state = 'replaced' AND source = 'sign_in'"
FORMER_KEYS = (
    f"CREATE INDEX crypto_key_former ON crypto_key (ended_at) WHERE {FORMER}",
    # Of one owner, in the commit that brings it new ones.
    f"""
    CREATE FUNCTION forget_former_keys(of uuid) RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
        DELETE FROM crypto_key WHERE key_id IN (
            SELECT f.key_id FROM (
                SELECT key_id, ended_at, row_number() OVER (PARTITION BY purpose, name ORDER BY ended_at DESC, key_id DESC) AS generation
                FROM crypto_key WHERE coalesce(acquirer_id, terminal_id, merchant_id) = of AND {FORMER}) f
            WHERE f.generation > 4 OR f.ended_at < now() - interval '1 hour')
    $$""",
    # Of whoever brings no new ones; at most so many at once.
    f"""
    CREATE FUNCTION forget_former_keys(at_most integer) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
        WITH gone AS (DELETE FROM crypto_key WHERE key_id IN (
            SELECT key_id FROM crypto_key WHERE {FORMER} AND ended_at < now() - interval '1 hour'
            ORDER BY ended_at LIMIT at_most FOR UPDATE SKIP LOCKED) RETURNING 1)
        SELECT count(*) FROM gone
    $$""",
    "REVOKE EXECUTE ON FUNCTION forget_former_keys(uuid), forget_former_keys(integer) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION forget_former_keys(uuid), forget_former_keys(integer) TO switch_writer",
)


def upgrade() -> None:
    for statement in (*BESIDE, *FORMER_KEYS):
        op.execute(statement)
