"""What has no effect at a host, such as a balance inquiry, is not reversed there: its duty is closed without having left."""

from alembic import op

revision = "0050"
down_revision = "0049"
branch_labels = None
depends_on = None

NO_EFFECT = (
    "ALTER TABLE duty DROP CONSTRAINT duty_closed_by_check",
    # wider than before: nothing to look through
    "ALTER TABLE duty ADD CONSTRAINT duty_closed_by_check CHECK (closed_by IN ('ack', 'not_found', 'declined', 'no_effect', 'person')) NOT VALID",
)


def upgrade() -> None:
    for statement in NO_EFFECT:
        op.execute(statement)
