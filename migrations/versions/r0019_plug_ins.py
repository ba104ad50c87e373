"""Acquirers that decide in their own time, and that are no ISO 8583: an exchange of their own, the question that is owed, accounts with a secret."""

from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

STATEMENTS = (
    # A request whose outcome is asked for until the host has decided.
    "ALTER DOMAIN exchange DROP CONSTRAINT exchange_check",
    "ALTER DOMAIN exchange ADD CONSTRAINT exchange_check CHECK (VALUE IN ('request', 'advice', 'query'))",
    "ALTER TABLE duty DROP CONSTRAINT duty_kind_check",
    "ALTER TABLE duty ADD CONSTRAINT duty_kind_check CHECK (kind IN ('reversal', 'advice', 'query')) NOT VALID",
    "ALTER TABLE duty VALIDATE CONSTRAINT duty_kind_check",
    """
    ALTER TABLE acquirer
        ADD COLUMN options jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN secret_at timestamptz,
        ADD CONSTRAINT acquirer_options CHECK (jsonb_typeof(options) = 'object'
            AND NOT jsonb_path_exists(options, 'strict $.keyvalue() ? (@.value.type() != "string")'))""",
    "CREATE OR REPLACE VIEW directory_acquirer AS SELECT * FROM acquirer",
    # What signs what we say to an acquirer, under seal; the reader's role never sees it.
    """
    CREATE TABLE acquirer_secret (
        acquirer_id uuid PRIMARY KEY REFERENCES acquirer,
        secret_key text NOT NULL,
        secret_sealed bytea NOT NULL CHECK (octet_length(secret_sealed) BETWEEN 29 AND 1024)
    )""",
    "GRANT SELECT, INSERT ON acquirer_secret TO switch_writer",
    "GRANT UPDATE (secret_key, secret_sealed) ON acquirer_secret TO switch_writer",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
