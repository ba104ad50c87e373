"""What risk counters read each second besides other workers' sales: refunds of a sale and offline approvals. No plain sale is in the index."""

from alembic import op

revision = "0034"
down_revision = "0033"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("CREATE INDEX transaction_counted_late ON transaction (transaction_id) WHERE original_id IS NOT NULL OR type = 'offline_sale'")
