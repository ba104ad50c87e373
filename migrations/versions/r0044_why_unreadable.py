"""Why bytes of an acquirer could not be read, and where, beside what matched no request: it stood in the log alone."""

from alembic import op

revision = "0044"
down_revision = "0043"
branch_labels = None
depends_on = None

WHY_UNREADABLE = (
    "ALTER TABLE unmatched_answer ADD COLUMN detail text",
    "CREATE OR REPLACE VIEW history_unmatched AS SELECT * FROM unmatched_answer",
)


def upgrade() -> None:
    for statement in WHY_UNREADABLE:
        op.execute(statement)
