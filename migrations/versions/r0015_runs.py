"""Runs of the reconciliation that have begun; the volume that a settlement adds to its month."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

# What is asked for from the beginning of a run on is another run, which sees what this one may have read past.
RUNS = (
    "ALTER TABLE reconciliation_run DROP CONSTRAINT reconciliation_run_state_check",
    "ALTER TABLE reconciliation_run ADD CONSTRAINT reconciliation_run_state_check CHECK (state IN ('due', 'running', 'done'))",
    "ALTER TABLE reconciliation_run DROP CONSTRAINT reconciliation_run_check1",
    "ALTER TABLE reconciliation_run ADD CONSTRAINT reconciliation_run_done CHECK (state <> 'done' OR (complete IS NOT NULL AND digest IS NOT NULL))",
    "CREATE INDEX reconciliation_run_left ON reconciliation_run (business_date, run_id) WHERE state IN ('due', 'running')",
)

SETTLEMENTS = (
    # Minor units, signed: sales of the day, those that were approved late, less what was undone after it was settled. NULL: written by a release
    # that counted `sales` alone.
    "ALTER TABLE settlement ADD COLUMN volume bigint",
    # What a merchant reads of thousands of days: the month, what is due later, what a payout pays, the newest transfers of an account.
    "CREATE INDEX settlement_of_merchant ON settlement (merchant_id, business_date)",
    "CREATE INDEX settlement_unpaid ON settlement (merchant_id, currency, due_on) WHERE payout_id IS NULL",
    "CREATE INDEX settlement_of_payout ON settlement (payout_id) WHERE payout_id IS NOT NULL",
    "CREATE INDEX transfer_debits_newest ON transfer (debit_account, transfer_id)",
    "CREATE INDEX transfer_credits_newest ON transfer (credit_account, transfer_id)",
)


def upgrade() -> None:
    for statement in (*RUNS, *SETTLEMENTS):
        op.execute(statement)
