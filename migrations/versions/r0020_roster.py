"""What each worker's lines show, so that every worker can tell of all, and share an acquirer's pace among those that are signed on."""

from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Of workers that have ended nothing is read any more. `shown`: what GET /v1/links says of the line.
    """
    CREATE TABLE worker_line (
        epoch bigint NOT NULL REFERENCES worker,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        signed_on boolean NOT NULL,
        shown jsonb NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (epoch, acquirer_id)
    ) WITH (fillfactor = 50)""",
    "GRANT SELECT ON worker_line TO switch_reader, switch_writer",
    "GRANT INSERT ON worker_line TO switch_writer",
    "GRANT UPDATE (signed_on, shown, at) ON worker_line TO switch_writer",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
