"""Terminals of a store, in the order of its list."""

from alembic import op

revision = "0033"
down_revision = "0032"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX terminal_of_store ON terminal (store_id, terminal_id)")
