"""Tiers over several acquirers: what was priced before a sale was known that comes earlier in the month's order."""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

STATEMENTS = (
    # The lines of `acquirer_id` from `from_date` on were priced before the settlement `cause`, of another acquirer, was there, whose sales come
    # before or between them. settled_on: the business date of `acquirer_id` that looked at them again.
    """
    CREATE TABLE tier_correction (
        merchant_id uuid NOT NULL,
        cause uuid NOT NULL,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        from_date date NOT NULL,
        noticed_at timestamptz NOT NULL DEFAULT now(),
        settled_on date CONSTRAINT tier_correction_later CHECK (settled_on > from_date),
        PRIMARY KEY (merchant_id, cause, acquirer_id),
        FOREIGN KEY (merchant_id, cause) REFERENCES settlement DEFERRABLE INITIALLY DEFERRED
    )""",
    "CREATE INDEX tier_correction_waiting ON tier_correction (acquirer_id, merchant_id) WHERE settled_on IS NULL",
    """
    CREATE FUNCTION refuse_tier_correction_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' AND OLD.settled_on IS NULL
           AND (OLD.merchant_id, OLD.cause, OLD.acquirer_id, OLD.currency, OLD.from_date, OLD.noticed_at)
             = (NEW.merchant_id, NEW.cause, NEW.acquirer_id, NEW.currency, NEW.from_date, NEW.noticed_at) THEN
            RETURN NEW;
        END IF;
        RAISE EXCEPTION 'tier_correction: it is settled once, and nothing else of it changes' USING ERRCODE = '23514';
    END $$""",
    """CREATE TRIGGER tier_correction_stays BEFORE UPDATE OR DELETE ON tier_correction
       FOR EACH ROW EXECUTE FUNCTION refuse_tier_correction_change()""",
    "GRANT SELECT ON tier_correction TO switch_writer, switch_reader",
    "GRANT INSERT, UPDATE (settled_on) ON tier_correction TO switch_writer",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
