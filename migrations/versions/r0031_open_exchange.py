"""What is open has a table of its own, so that an outcome changes no index of its transaction.

An update that touches no indexed column is written beside the old row and into no index (heap-only, PostgreSQL manual, 66.7): two fifths of what
an outcome cost the database. The code of an approval, which comes with the outcome, is found through a table of its own too.
"""

from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None

OPEN_STATES = "('SENT', 'REVERSING')"

STATEMENTS = (
    "DROP INDEX transaction_open_match_key",
    "DROP INDEX transaction_approval_code",
    "ALTER TABLE transaction SET (fillfactor = 45)",  # room for what the outcome writes
    # Who holds which key of the wire: a row while the state is one of OPEN_STATES, kept by the triggers below alone.
    """
    CREATE TABLE open_exchange (
        acquirer_id uuid NOT NULL,
        match_key text NOT NULL,
        transaction_id uuid NOT NULL,
        CONSTRAINT transaction_open_match_key PRIMARY KEY (acquirer_id, match_key)
    ) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000)""",
    f"INSERT INTO open_exchange SELECT acquirer_id, match_key, transaction_id FROM transaction WHERE state IN {OPEN_STATES}",
    """
    CREATE TABLE approval_lookup (
        approval_code text6 NOT NULL,
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        PRIMARY KEY (approval_code, merchant_id, transaction_id)
    )""",
    "INSERT INTO approval_lookup SELECT approval_code, merchant_id, transaction_id FROM transaction WHERE approval_code IS NOT NULL",
    """
    CREATE VIEW open_transaction AS
    SELECT t.* FROM open_exchange o JOIN transaction t USING (transaction_id) WHERE t.acquirer_id = o.acquirer_id AND t.match_key = o.match_key""",
    "GRANT SELECT ON open_exchange, approval_lookup, open_transaction TO switch_reader, switch_writer",
    # Once per statement: a condition of a trigger is parsed anew by each one, and this was the longest. Digits only; a currency of capitals;
    # then BIN, stars and last four, or stars alone: never a whole card number. Then the key of the wire, then the day (r0008_settlement).
    """
    CREATE FUNCTION judge_written() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        day record;
    BEGIN
        IF EXISTS (SELECT FROM written w WHERE
            translate(w.mti || w.processing_code || w.stan || w.transmitted_at || w.local_time || w.local_date || w.pos_entry_mode
                      || w.pos_condition || w.rrn || w.mcc || w.card_last4, '0123456789', '') <> ''
            OR w.state <> 'SENT' OR w.version <> 1 OR w.outcome IS NOT NULL
            OR octet_length(w.currency) <> 3 OR translate(w.currency, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', '') <> ''
            OR translate(btrim(w.masked_pan, '0123456789'), '*', '') <> '' OR position('*' IN w.masked_pan) NOT IN (1, 7, 8, 9)
            OR w.masked_pan <> '************' AND octet_length(w.masked_pan) - octet_length(rtrim(w.masked_pan, '0123456789')) <> 4) THEN
            RAISE EXCEPTION 'transaction: it must begin as SENT, version 1, without an outcome; numbers are digits; currency and PAN have their form'
                USING ERRCODE = '23514';
        END IF;
        INSERT INTO open_exchange SELECT w.acquirer_id, w.match_key, w.transaction_id FROM written w;
        INSERT INTO approval_lookup SELECT w.approval_code, w.merchant_id, w.transaction_id FROM written w WHERE w.approval_code IS NOT NULL;
        FOR day IN SELECT DISTINCT w.acquirer_id, w.business_date FROM written w LOOP
            PERFORM pg_advisory_xact_lock_shared(3583010, day_lock(day.acquirer_id, day.business_date));
            IF EXISTS (SELECT FROM business_day d WHERE d.acquirer_id = day.acquirer_id AND d.business_date = day.business_date
                       AND d.state = 'closed') THEN
                IF EXISTS (SELECT FROM written w WHERE w.acquirer_id = day.acquirer_id AND w.business_date = day.business_date
                           AND (w.type <> 'capture' OR w.idempotency_key IS NOT NULL)) THEN
                    RAISE EXCEPTION 'transaction: business day % of the acquirer is closed', day.business_date
                        USING ERRCODE = '23514', CONSTRAINT = 'business_day_open';
                END IF;
                INSERT INTO late_change (merchant_id, transaction_id, acquirer_id, for_date)
                SELECT w.merchant_id, w.transaction_id, w.acquirer_id, w.business_date FROM written w
                WHERE w.acquirer_id = day.acquirer_id AND w.business_date = day.business_date;
            END IF;
        END LOOP;
        RETURN NULL;
    END $$""",
    "DROP TRIGGER transaction_text ON transaction",
    "DROP FUNCTION refuse_text()",
    "DROP TRIGGER transaction_day_open ON transaction",
    "DROP FUNCTION refuse_closed_day()",
    """CREATE TRIGGER transaction_written AFTER INSERT ON transaction REFERENCING NEW TABLE AS written
       FOR EACH STATEMENT EXECUTE FUNCTION judge_written()""",
    f"""
    CREATE FUNCTION keep_found() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    BEGIN
        IF OLD.state IN {OPEN_STATES} AND NEW.state NOT IN {OPEN_STATES} THEN
            DELETE FROM open_exchange WHERE acquirer_id = NEW.acquirer_id AND match_key = NEW.match_key;
        ELSIF NEW.state IN {OPEN_STATES} AND OLD.state NOT IN {OPEN_STATES} THEN
            INSERT INTO open_exchange VALUES (NEW.acquirer_id, NEW.match_key, NEW.transaction_id);
        END IF;
        IF OLD.approval_code IS DISTINCT FROM NEW.approval_code THEN
            IF OLD.approval_code IS NOT NULL THEN
                DELETE FROM approval_lookup
                WHERE approval_code = OLD.approval_code AND merchant_id = OLD.merchant_id AND transaction_id = OLD.transaction_id;
            END IF;
            IF NEW.approval_code IS NOT NULL THEN
                INSERT INTO approval_lookup VALUES (NEW.approval_code, NEW.merchant_id, NEW.transaction_id);
            END IF;
        END IF;
        RETURN NULL;
    END $$""",
    f"""CREATE TRIGGER transaction_found AFTER UPDATE ON transaction FOR EACH ROW
       WHEN ((OLD.state IN {OPEN_STATES}) <> (NEW.state IN {OPEN_STATES}) OR OLD.approval_code IS DISTINCT FROM NEW.approval_code)
       EXECUTE FUNCTION keep_found()""",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
