"""What the hot path writes gets cheaper, and holes in the schema are closed."""

from alembic import op

from migrations.versions.r0001_house import IMMUTABLE

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP TRIGGER transaction_text ON transaction",
    # Without a regular expression: its automaton would be built anew for every row, a seventh of what a sale costs PostgreSQL.
    # Digits only; a currency of capitals; then BIN, stars and last four, or stars alone: never a whole card number.
    """
    CREATE TRIGGER transaction_text BEFORE INSERT ON transaction FOR EACH ROW
    WHEN (translate(NEW.mti || NEW.processing_code || NEW.stan || NEW.transmitted_at || NEW.local_time || NEW.local_date || NEW.pos_entry_mode
                    || NEW.pos_condition || NEW.rrn || NEW.mcc || NEW.card_last4, '0123456789', '') <> ''
          OR NEW.state <> 'SENT' OR NEW.version <> 1 OR NEW.outcome IS NOT NULL
          OR octet_length(NEW.currency) <> 3 OR translate(NEW.currency, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', '') <> ''
          OR translate(btrim(NEW.masked_pan, '0123456789'), '*', '') <> '' OR position('*' IN NEW.masked_pan) NOT IN (1, 7, 8, 9)
          OR NEW.masked_pan <> '************'
             AND octet_length(NEW.masked_pan) - octet_length(rtrim(NEW.masked_pan, '0123456789')) <> 4)
    EXECUTE FUNCTION refuse_text()""",
    """
    CREATE OR REPLACE FUNCTION refuse_text() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'transaction: it must begin as SENT, version 1, without an outcome; numbers are digits; currency and PAN have their form'
            USING ERRCODE = '23514';
    END $$""",
    # Nor is there one in the domain of each claim's key.
    "ALTER DOMAIN idempotency_key DROP CONSTRAINT idempotency_key_check",
    """ALTER DOMAIN idempotency_key ADD CONSTRAINT idempotency_key_check CHECK (octet_length(VALUE) BETWEEN 16 AND 64
       AND translate(VALUE, 'abcdefghijklmnopqrstuvwxyz0123456789-_ABCDEFGHIJKLMNOPQRSTUVWXYZ', '') = '')""",
    # A trigger's condition is parsed by each statement and evaluated for each row: what no statement of ours sets has a trigger of its own,
    # which a statement that does not name its columns never meets. What is left of transaction_life comes with the next revision.
    f"""
    CREATE TRIGGER transaction_immutable BEFORE UPDATE OF {", ".join(IMMUTABLE)} ON transaction FOR EACH ROW
    WHEN (({", ".join(f"OLD.{name}" for name in IMMUTABLE)}) IS DISTINCT FROM ({", ".join(f"NEW.{name}" for name in IMMUTABLE)}))
    EXECUTE FUNCTION refuse_change()""",
    # Ranges of one length do not overlap. A leading 1 keeps the lengths apart, so that one range type serves all.
    """
    ALTER TABLE bin_range ADD CONSTRAINT bin_ranges_apart
    EXCLUDE USING gist (int8range(('1' || low)::bigint, ('1' || high)::bigint, '[]') WITH &&)""",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
