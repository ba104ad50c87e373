"""An index that cannot serve a look-up by id: PostgreSQL 18 skips leading columns, and in small books took it for the index of ids."""

from alembic import op

revision = "0049"
down_revision = "0048"
branch_labels = None
depends_on = None

REBUILT = (
    "SET lock_timeout = '15min'",  # it waits for whoever reads at its beginning, as a long export or a cut-over does; nobody waits for it
    "DROP INDEX CONCURRENTLY IF EXISTS transaction_by_last4",  # of a start that was ended meanwhile
    # No row is without: the condition is proven by a comparison with the four digits, and by nothing else.
    """CREATE INDEX CONCURRENTLY transaction_by_last4 ON transaction (merchant_id, card_last4, transaction_id)
       WHERE card_last4 IS NOT NULL""",
    "DROP INDEX CONCURRENTLY IF EXISTS transaction_last4",
    "RESET lock_timeout",
)


def upgrade() -> None:
    with op.get_context().autocommit_block():
        for statement in REBUILT:
            op.execute(statement)
