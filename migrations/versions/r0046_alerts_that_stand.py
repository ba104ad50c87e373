"""When a look last found standing what an alert tells of: an operator who comes at night sees what is over by itself. NULL: it happened once."""

from alembic import op

revision = "0046"
down_revision = "0045"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE alert ADD COLUMN seen_at timestamptz")
