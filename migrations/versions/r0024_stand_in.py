"""Sales approved in an acquirer's stead while it cannot be reached: terms, what was taken of a day, and the limit kept by the database.

A sale that was stood in for is a purchase by advice: its row, its duty and its line in `stand_in` are one commit. Amounts are minor units.
"""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None

TERMS = (
    # The newest row of an acquirer, merchant and brand holds; NULL and '*' are any. What was written stays: 'off' is a row as well.
    """
    CREATE TABLE stand_in_terms (
        number bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        merchant_id uuid REFERENCES merchant,
        brand text NOT NULL CHECK (brand ~ '^([a-z]{1,20}|[*])$'),
        state text NOT NULL CHECK (state IN ('on', 'off')),
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        sale_amount bigint NOT NULL CHECK (sale_amount BETWEEN 1 AND 999999999999),
        day_amount bigint NOT NULL CHECK (day_amount BETWEEN 1 AND 999999999999),
        day_count integer NOT NULL CHECK (day_count BETWEEN 1 AND 1000000),
        entry_modes text[] NOT NULL CHECK (cardinality(entry_modes) >= 1 AND entry_modes <@ '{chip,contactless}'::text[]),
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 120),
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT stand_in_sale_within_day CHECK (sale_amount <= day_amount)
    )""",
    "CREATE INDEX stand_in_terms_of ON stand_in_terms (acquirer_id, merchant_id, brand, number DESC)",
    # The release before knows the kinds of its own tables only: what changes here is told as a change of the acquirer (r0021).
    "CREATE TRIGGER log_change AFTER INSERT ON stand_in_terms FOR EACH ROW EXECUTE FUNCTION log_acquirer_change()",
    """CREATE VIEW directory_stand_in_terms AS SELECT DISTINCT ON (acquirer_id, merchant_id, brand) * FROM stand_in_terms
       ORDER BY acquirer_id, merchant_id, brand, number DESC""",
)

TAKEN = (
    # What was approved of a merchant and brand on an acquirer's business date, and not reversed since.
    """
    CREATE TABLE stand_in_day (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        business_date date NOT NULL,
        merchant_id uuid NOT NULL REFERENCES merchant,
        brand text NOT NULL,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        amount bigint NOT NULL CHECK (amount >= 0),
        count integer NOT NULL CHECK (count >= 0),
        PRIMARY KEY (acquirer_id, business_date, merchant_id, brand, currency)
    )""",
    """
    CREATE TABLE stand_in (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        terms bigint NOT NULL REFERENCES stand_in_terms,
        at timestamptz NOT NULL DEFAULT now(),
        released_at timestamptz,
        PRIMARY KEY (merchant_id, transaction_id),
        FOREIGN KEY (merchant_id, transaction_id) REFERENCES transaction
    )""",
    # The terms are read and the day is counted here: the row of the day is locked until the commit, so no two workers see the same room.
    """
    CREATE FUNCTION take_stand_in() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        sale transaction%ROWTYPE;
        held stand_in_terms%ROWTYPE;
        taken stand_in_day%ROWTYPE;
    BEGIN
        SELECT * INTO sale FROM transaction WHERE merchant_id = NEW.merchant_id AND transaction_id = NEW.transaction_id;
        SELECT * INTO held FROM directory_stand_in_terms t WHERE t.acquirer_id = sale.acquirer_id
          AND (t.merchant_id = sale.merchant_id OR t.merchant_id IS NULL) AND t.brand IN (sale.brand, '*')
          ORDER BY t.merchant_id IS NULL, t.brand = '*' LIMIT 1;
        IF held.number IS NULL OR held.state <> 'on' OR sale.type <> 'purchase' OR sale.exchange <> 'advice' OR sale.state <> 'SENT'
           OR sale.capture_method IS DISTINCT FROM 'automatic' OR sale.original_id IS NOT NULL OR sale.currency <> held.currency
           OR NOT sale.entry_mode = ANY(held.entry_modes) OR sale.amount > held.sale_amount THEN
            RAISE EXCEPTION 'stand_in: no terms allow it' USING ERRCODE = '23514', CONSTRAINT = 'stand_in_terms_allow';
        END IF;
        INSERT INTO stand_in_day AS d (acquirer_id, business_date, merchant_id, brand, currency, amount, count)
        VALUES (sale.acquirer_id, sale.business_date, sale.merchant_id, sale.brand, sale.currency, sale.amount, 1)
        ON CONFLICT (acquirer_id, business_date, merchant_id, brand, currency)
        DO UPDATE SET amount = d.amount + EXCLUDED.amount, count = d.count + 1 RETURNING d.* INTO taken;
        IF taken.amount > held.day_amount OR taken.count > held.day_count THEN
            RAISE EXCEPTION 'stand_in: the limit of the day is reached' USING ERRCODE = '23514', CONSTRAINT = 'stand_in_within_day';
        END IF;
        NEW.terms := held.number;
        NEW.released_at := NULL;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER stand_in_taken BEFORE INSERT ON stand_in FOR EACH ROW EXECUTE FUNCTION take_stand_in()",
    # Given back once, when the reversal is closed: only then is it known that nothing is asked of the issuer.
    """
    CREATE FUNCTION release_stand_in(undone transaction) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    BEGIN
        UPDATE stand_in SET released_at = now()
        WHERE merchant_id = undone.merchant_id AND transaction_id = undone.transaction_id AND released_at IS NULL;
        IF FOUND THEN
            UPDATE stand_in_day SET amount = amount - undone.amount, count = count - 1
            WHERE acquirer_id = undone.acquirer_id AND business_date = undone.business_date AND merchant_id = undone.merchant_id
              AND brand = undone.brand AND currency = undone.currency;
        END IF;
    END $$""",
    "REVOKE ALL ON FUNCTION release_stand_in(transaction) FROM PUBLIC",
    # As in r0003, with the last step.
    """
    CREATE OR REPLACE FUNCTION follow_step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    BEGIN
        IF NEW.state = OLD.state THEN
            RETURN NEW;
        END IF;
        IF NEW.original_id IS NOT NULL THEN
            NEW := book_on_original(OLD, NEW);
        ELSIF OLD.state = 'SENT' AND NEW.state = 'APPROVED' THEN
            NEW := set_terms(NEW);
        END IF;
        IF NEW.exchange = 'advice' AND NEW.state = 'DECLINED' AND OLD.state = 'SENT' AND NEW.type <> 'refund' THEN
            INSERT INTO merchant_loss (merchant_id, transaction_id, original_id, acquirer_id, business_date, type, amount, currency, response_code)
            VALUES (NEW.merchant_id, NEW.transaction_id, NEW.original_id, NEW.acquirer_id, NEW.business_date, NEW.type, NEW.amount, NEW.currency,
                    NEW.response_code);
        END IF;
        IF NEW.state = 'REVERSED' AND NEW.exchange = 'advice' AND NEW.type = 'purchase' THEN
            PERFORM release_stand_in(NEW);
        END IF;
        RETURN NEW;
    END $$""",
)

KEPT = (
    """
    CREATE FUNCTION keep_stand_in() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'stand_in: what was written stays' USING ERRCODE = '23514', CONSTRAINT = 'stand_in_stays';
    END $$""",
    "CREATE TRIGGER stand_in_terms_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON stand_in_terms FOR EACH STATEMENT EXECUTE FUNCTION keep_stand_in()",
    """
    CREATE TRIGGER stand_in_stays BEFORE UPDATE ON stand_in FOR EACH ROW
    WHEN ((OLD.merchant_id, OLD.transaction_id, OLD.terms, OLD.at) IS DISTINCT FROM (NEW.merchant_id, NEW.transaction_id, NEW.terms, NEW.at)
          OR OLD.released_at IS NOT NULL) EXECUTE FUNCTION keep_stand_in()""",
    "CREATE TRIGGER stand_in_not_deleted BEFORE DELETE OR TRUNCATE ON stand_in FOR EACH STATEMENT EXECUTE FUNCTION keep_stand_in()",
    "GRANT SELECT ON stand_in_terms, stand_in_day, stand_in, directory_stand_in_terms TO switch_writer, switch_reader",
    "GRANT INSERT ON stand_in_terms, stand_in TO switch_writer",
)


def upgrade() -> None:
    for statement in (*TERMS, *TAKEN, *KEPT):
        op.execute(statement)
