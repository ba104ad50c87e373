"""Overload, timers and answers that nobody heard."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE acquirer ADD COLUMN min_in_flight integer NOT NULL DEFAULT 16 CHECK (min_in_flight BETWEEN 1 AND 100000)",
    "CREATE OR REPLACE VIEW directory_acquirer AS SELECT * FROM acquirer",
    # What happens to an approval that its terminal never heard of.
    "ALTER TABLE merchant ADD COLUMN undelivered text NOT NULL DEFAULT 'alert' CHECK (undelivered IN ('alert', 'reverse'))",
    "CREATE OR REPLACE VIEW directory_merchant AS SELECT * FROM merchant",
    # An approval whose answer could not be given (lost_at), or that was asked for again (heard_at); a row only for these. settled_at: looked at.
    """
    CREATE TABLE undelivered (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        lost_at timestamptz,
        heard_at timestamptz,
        settled_at timestamptz,
        PRIMARY KEY (merchant_id, transaction_id),
        FOREIGN KEY (merchant_id, transaction_id) REFERENCES transaction,
        CHECK (lost_at IS NOT NULL OR heard_at IS NOT NULL)
    )""",
    "CREATE INDEX undelivered_due ON undelivered (lost_at) WHERE lost_at IS NOT NULL AND heard_at IS NULL AND settled_at IS NULL",
    "CREATE VIEW history_undelivered AS SELECT * FROM undelivered",
    "GRANT SELECT ON undelivered, history_undelivered TO switch_writer, switch_reader",
    "GRANT INSERT ON undelivered TO switch_writer",
    "GRANT UPDATE (lost_at, heard_at, settled_at) ON undelivered TO switch_writer",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
