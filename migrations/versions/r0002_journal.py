"""What the hot path writes gets cheaper, and holes in the schema are closed."""

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""
