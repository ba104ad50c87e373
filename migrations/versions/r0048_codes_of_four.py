"""Answer codes of four digits, as hosts of ISO 8583:2003 have them in DE39."""

from alembic import op

revision = "0048"
down_revision = "0047"
branch_labels = None
depends_on = None

CODES_OF_FOUR = (
    "ALTER DOMAIN text3 RENAME TO text4",
    "ALTER DOMAIN text4 DROP CONSTRAINT text3_check",
    "ALTER DOMAIN text4 ADD CONSTRAINT text4_check CHECK (length(VALUE) <= 4) NOT VALID",  # wider than before: nothing to look through
)


def upgrade() -> None:
    for statement in CODES_OF_FOUR:
        op.execute(statement)
