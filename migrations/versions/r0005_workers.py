"""Several workers: leased slots of an acquirer's lines, and a sign-on that every worker hears of."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    # 0: every worker has its own line.
    "ALTER TABLE acquirer ADD COLUMN max_links integer NOT NULL DEFAULT 0 CHECK (max_links BETWEEN 0 AND 1000)",
    "ALTER TABLE acquirer ADD COLUMN sign_on_at timestamptz",
    "CREATE OR REPLACE VIEW directory_acquirer AS SELECT * FROM acquirer",
    # Who holds a line, and where its worker takes requests of others. Free when its time is over or its worker has ended.
    """
    CREATE TABLE link_slot (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        slot integer NOT NULL CHECK (slot BETWEEN 1 AND 1000),
        epoch bigint NOT NULL REFERENCES worker,
        lease_until timestamptz NOT NULL,
        address text NOT NULL CHECK (length(address) BETWEEN 1 AND 5000),
        PRIMARY KEY (acquirer_id, slot)
    )""",
    # Which workers are not yet ended is asked each second by every worker.
    "CREATE INDEX worker_running ON worker (epoch) WHERE ended_at IS NULL",
    "GRANT SELECT ON link_slot TO switch_reader, switch_writer",
    "GRANT INSERT ON link_slot TO switch_writer",
    "GRANT UPDATE ON link_slot TO switch_writer",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
