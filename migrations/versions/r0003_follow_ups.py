"""Follow-ups of an authorization: what they reserve and book on their original, kept by the database itself.

A follow-up is a row with an original and a key; one without a key is the capture that a dual-message sale owes by itself, booked with
the sale. `reserved` on the follow-up is what it holds of its original: from its intent until its outcome, in doubt until its reversal
closes. Whoever moves the state of a follow-up, by whatever statement, moves the original's amounts in the same commit.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

# The amounts of an original that was undone change once more: what a follow-up in doubt still held is given back.
STEPS = (
    "SENT>APPROVED", "SENT>DECLINED", "SENT>NOT_SENT", "SENT>REVERSING", "SENT>SENT",
    "APPROVED>REVERSING", "APPROVED>APPROVED", "DECLINED>REVERSING", "DECLINED>DECLINED", "NOT_SENT>REVERSING",
    "REVERSING>REVERSED", "REVERSING>PARKED", "REVERSING>REVERSING", "REVERSED>REVERSING", "REVERSED>REVERSED",
    "PARKED>REVERSING", "PARKED>REVERSED", "PARKED>CONFIRMED", "PARKED>PARKED", "CONFIRMED>CONFIRMED",
)

COLUMNS = (
    "ALTER DOMAIN transaction_type DROP CONSTRAINT transaction_type_check",
    """ALTER DOMAIN transaction_type ADD CONSTRAINT transaction_type_check CHECK (VALUE IN ('purchase', 'preauthorization', 'cash_advance',
       'balance_inquiry', 'account_verification', 'capture', 'increment', 'void', 'tip', 'refund', 'offline_sale'))""",
    """
    ALTER TABLE transaction
        ADD COLUMN capture_reserved bigint NOT NULL DEFAULT 0,
        ADD COLUMN increment_reserved bigint NOT NULL DEFAULT 0,
        ADD COLUMN refund_reserved bigint NOT NULL DEFAULT 0,
        ADD COLUMN void_reserved bigint NOT NULL DEFAULT 0,
        ADD COLUMN voided bigint NOT NULL DEFAULT 0,
        ADD COLUMN voided_captured bigint NOT NULL DEFAULT 0,
        ADD COLUMN released bigint NOT NULL DEFAULT 0,
        ADD COLUMN tolerance bigint NOT NULL DEFAULT 0,
        ADD COLUMN expires_at timestamptz,
        ADD COLUMN release_at timestamptz,
        ADD COLUMN reserved bigint NOT NULL DEFAULT 0,
        ADD COLUMN final_capture boolean NOT NULL DEFAULT false,
        DROP CONSTRAINT captured_within_capturable,
        DROP CONSTRAINT undone_within_captured,
        DROP CONSTRAINT advice_has_original,
        ADD CONSTRAINT captured_within_capturable CHECK (captured + capture_reserved + released <= capturable
                                                         AND capture_reserved >= 0 AND released >= 0 AND increment_reserved >= 0),
        ADD CONSTRAINT undone_within_captured CHECK (refunded + refund_reserved + charged_back <= captured AND refund_reserved >= 0),
        ADD CONSTRAINT void_stands_alone CHECK (void_reserved = 0 AND voided = 0
            OR void_reserved >= 0 AND voided >= 0 AND capture_reserved + increment_reserved + refund_reserved + refunded + charged_back = 0
               AND (voided = 0 OR captured = 0 AND void_reserved = 0)),
        ADD CONSTRAINT follow_up_has_original CHECK (type NOT IN ('capture', 'increment', 'void', 'tip') OR original_id IS NOT NULL),
        ADD CONSTRAINT follow_up_has_key CHECK (original_id IS NULL OR idempotency_key IS NOT NULL OR type = 'capture')""",
    # Authorizations by hand whose end was not looked at yet.
    "CREATE INDEX transaction_release_at ON transaction (release_at) WHERE release_at IS NOT NULL",
    "DROP TRIGGER transaction_life ON transaction",
    f"""
    CREATE TRIGGER transaction_life BEFORE UPDATE ON transaction FOR EACH ROW
    WHEN ((OLD.state || '>' || NEW.state) NOT IN ({", ".join(f"'{step}'" for step in STEPS)})
          OR NEW.version <> OLD.version + 1 OR (OLD.outcome IS NOT NULL AND OLD.outcome IS DISTINCT FROM NEW.outcome))
    EXECUTE FUNCTION refuse_change()""",
)

TERMS = (
    # What an acquirer allows beyond the authorised amount, and for how long; '*' is any. The most particular row holds.
    """
    CREATE TABLE authorization_terms (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        mcc text NOT NULL DEFAULT '*' CHECK (mcc ~ '^([0-9]{4}|[*])$'),
        brand text NOT NULL DEFAULT '*' CHECK (brand ~ '^([a-z]{1,20}|[*])$'),
        completion_basis_points integer NOT NULL DEFAULT 0 CHECK (completion_basis_points BETWEEN 0 AND 10000),
        tip_basis_points integer NOT NULL DEFAULT 0 CHECK (tip_basis_points BETWEEN 0 AND 10000),
        valid_hours integer NOT NULL DEFAULT 168 CHECK (valid_hours BETWEEN 1 AND 8784),
        PRIMARY KEY (acquirer_id, mcc, brand)
    )""",
    """CREATE TRIGGER log_change AFTER INSERT OR UPDATE ON authorization_terms FOR EACH ROW
       EXECUTE FUNCTION log_directory_change('acquirer_id')""",
    # The tolerance in force and the end of what is captured by hand are fixed by the approval.
    """
    CREATE FUNCTION set_terms(approved transaction) RETURNS transaction LANGUAGE plpgsql AS $$
    BEGIN
        approved.tolerance := approved.capturable - approved.authorised;
        IF approved.capture_method = 'manual' THEN
            approved.expires_at := approved.outcome_at + make_interval(hours => coalesce((
                SELECT t.valid_hours FROM authorization_terms t
                WHERE t.acquirer_id = approved.acquirer_id AND t.mcc IN (approved.mcc, '*') AND t.brand IN (approved.brand, '*')
                ORDER BY t.mcc = '*', t.brand = '*' LIMIT 1), 168));
            approved.release_at := approved.expires_at;
        END IF;
        RETURN approved;
    END $$""",
)

BOOKS = (
    # Who may reserve is asked with the original locked; the constraints say how much.
    """
    CREATE FUNCTION reserve_on_original() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        o transaction%ROWTYPE;
        broken text;
    BEGIN
        SELECT * INTO o FROM transaction WHERE transaction_id = NEW.original_id FOR NO KEY UPDATE;
        broken := CASE
            WHEN o.transaction_id IS NULL OR o.merchant_id <> NEW.merchant_id OR o.currency <> NEW.currency OR o.acquirer_id <> NEW.acquirer_id
                 OR o.pan_token <> NEW.pan_token OR o.original_id IS NOT NULL OR NEW.state <> 'SENT' THEN 'follow_up_of_its_original'
            WHEN o.state NOT IN ('APPROVED', 'CONFIRMED') THEN 'original_stands'
            WHEN o.void_reserved + o.voided > 0 THEN 'void_once'
            WHEN NEW.type IN ('capture', 'increment') AND o.expires_at <= now() THEN 'original_not_expired'
            WHEN NEW.type = 'increment' AND o.captured + o.capture_reserved > 0 THEN 'increment_before_capture'
            WHEN NEW.type NOT IN ('capture', 'increment', 'void', 'tip', 'refund') THEN 'follow_up_of_its_original' END;
        IF broken IS NOT NULL THEN
            RAISE EXCEPTION 'transaction: a follow-up broke %', broken USING ERRCODE = '23514', CONSTRAINT = broken;
        END IF;
        NEW.reserved := NEW.amount;
        UPDATE transaction SET version = version + 1,
            capture_reserved = capture_reserved + CASE WHEN NEW.type IN ('capture', 'tip') THEN NEW.amount ELSE 0 END,
            increment_reserved = increment_reserved + CASE WHEN NEW.type = 'increment' THEN NEW.amount ELSE 0 END,
            refund_reserved = refund_reserved + CASE WHEN NEW.type = 'refund' THEN NEW.amount ELSE 0 END,
            void_reserved = void_reserved + CASE WHEN NEW.type = 'void' THEN NEW.amount ELSE 0 END
        WHERE transaction_id = NEW.original_id;
        RETURN NEW;
    END $$""",
    """
    CREATE TRIGGER transaction_follow_up_intent BEFORE INSERT ON transaction FOR EACH ROW
    WHEN (NEW.original_id IS NOT NULL AND NEW.idempotency_key IS NOT NULL) EXECUTE FUNCTION reserve_on_original()""",
    # Approved or confirmed: booked. Declined, never sent, reversed: given back. In doubt or undone: held until the reversal closes.
    # A follow-up that held nothing any more when its late approval came holds nothing again: the acquirer's truth is not refused.
    # What was booked on an original that is itself undone is gone with it.
    """
    CREATE FUNCTION book_on_original(was transaction, now_is transaction) RETURNS transaction LANGUAGE plpgsql AS $$
    DECLARE
        automatic boolean := now_is.idempotency_key IS NULL;
        was_booked boolean := was.state IN ('APPROVED', 'CONFIRMED') OR automatic AND was.state = 'SENT';
        is_booked boolean := now_is.state IN ('APPROVED', 'CONFIRMED') OR automatic AND now_is.state = 'SENT';
        held bigint;
        booked bigint := (is_booked::int - was_booked::int) * now_is.amount;
        taking boolean := now_is.type IN ('capture', 'tip');
    BEGIN
        now_is.reserved := CASE WHEN is_booked OR now_is.state IN ('DECLINED', 'NOT_SENT', 'REVERSED') THEN 0
                                WHEN was_booked THEN now_is.amount ELSE was.reserved END;
        held := now_is.reserved - was.reserved;
        IF held = 0 AND booked = 0 THEN
            RETURN now_is;
        END IF;
        UPDATE transaction o SET version = o.version + 1, release_at = o.expires_at,
            capture_reserved = o.capture_reserved + CASE WHEN taking THEN held ELSE 0 END,
            increment_reserved = o.increment_reserved + CASE WHEN now_is.type = 'increment' THEN held ELSE 0 END,
            refund_reserved = o.refund_reserved + CASE WHEN now_is.type = 'refund' THEN held ELSE 0 END,
            void_reserved = o.void_reserved + CASE WHEN now_is.type = 'void' THEN held ELSE 0 END,
            captured = CASE WHEN o.state NOT IN ('APPROVED', 'CONFIRMED') THEN o.captured
                            WHEN taking THEN o.captured + booked
                            WHEN now_is.type = 'void' AND booked > 0 THEN 0
                            WHEN now_is.type = 'void' AND booked < 0 THEN o.voided_captured ELSE o.captured END,
            voided_captured = CASE WHEN now_is.type <> 'void' OR booked = 0 THEN o.voided_captured WHEN booked > 0 THEN o.captured ELSE 0 END,
            voided = o.voided + CASE WHEN now_is.type = 'void' THEN booked ELSE 0 END,
            refunded = o.refunded + CASE WHEN now_is.type = 'refund' THEN booked ELSE 0 END,
            authorised = o.authorised + CASE WHEN now_is.type = 'increment' THEN booked ELSE 0 END,
            capturable = o.capturable + CASE WHEN now_is.type <> 'increment' THEN 0
                                             ELSE sign(booked)::bigint * greatest(now_is.capturable, now_is.amount) END,
            released = CASE WHEN now_is.type <> 'capture' OR NOT now_is.final_capture OR booked = 0 THEN o.released
                            WHEN booked > 0 THEN o.capturable - o.captured - booked - o.capture_reserved - held ELSE 0 END
        WHERE o.transaction_id = now_is.original_id;
        RETURN now_is;
    END $$""",
    # A declined advice: the goods are gone and nobody pays the merchant. One line each, for the settlement to read.
    """
    CREATE TABLE merchant_loss (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        original_id uuid,
        acquirer_id uuid NOT NULL,
        business_date date NOT NULL,
        type transaction_type NOT NULL,
        amount bigint NOT NULL CHECK (amount > 0),
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        response_code text3,
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, transaction_id),
        FOREIGN KEY (merchant_id, transaction_id) REFERENCES transaction
    )""",
    # One trigger for all of this: a plain sale evaluates its condition and calls nothing.
    """
    CREATE FUNCTION follow_step() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
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
        RETURN NEW;
    END $$""",
    """
    CREATE TRIGGER transaction_follow_step BEFORE UPDATE ON transaction FOR EACH ROW
    WHEN (NEW.original_id IS NOT NULL OR NEW.exchange = 'advice' OR NEW.capture_method = 'manual' OR NEW.capturable > NEW.authorised)
    EXECUTE FUNCTION follow_step()""",
)

REST = (
    "ALTER TABLE merchant ADD COLUMN unreferenced_refunds boolean NOT NULL DEFAULT false",
    "CREATE OR REPLACE VIEW history_transaction AS SELECT * FROM transaction",
    "CREATE OR REPLACE VIEW directory_merchant AS SELECT * FROM merchant",
    "CREATE VIEW directory_authorization_terms AS SELECT * FROM authorization_terms",
    "CREATE VIEW history_merchant_loss AS SELECT * FROM merchant_loss",
    """GRANT SELECT ON authorization_terms, merchant_loss, directory_authorization_terms, history_merchant_loss
       TO switch_reader, switch_writer""",
    "GRANT INSERT, UPDATE ON authorization_terms TO switch_writer",
    # The rest of the new columns is moved by the triggers alone.
    "GRANT UPDATE (released, release_at) ON transaction TO switch_writer",
)


def upgrade() -> None:
    for statement in (*COLUMNS, *TERMS, *BOOKS, *REST):
        op.execute(statement)
