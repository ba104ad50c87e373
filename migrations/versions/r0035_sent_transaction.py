"""What waits for an answer is read by the keys that are open, whatever the planner believes about how many there are.

A table of what is open is mostly dead rows: by its size it looked long, and each sweep of recovery read all transactions. OFFSET 0 keeps the
look-up by id a look-up (PostgreSQL manual, 14.3 names such fences). Waiting reversals are passed over without reading their transactions.
"""

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

ONE = """SELECT t.* FROM open_exchange o CROSS JOIN LATERAL (SELECT * FROM transaction x WHERE x.transaction_id = o.transaction_id OFFSET 0) t
WHERE t.acquirer_id = o.acquirer_id AND t.match_key = o.match_key"""

STATEMENTS = (
    "ALTER TABLE open_exchange ADD COLUMN state transaction_state NOT NULL DEFAULT 'SENT'",
    "UPDATE open_exchange o SET state = t.state FROM transaction t WHERE t.transaction_id = o.transaction_id AND t.state <> o.state",
    """
    CREATE OR REPLACE FUNCTION keep_found() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    BEGIN
        IF OLD.state IN ('SENT', 'REVERSING') AND NEW.state NOT IN ('SENT', 'REVERSING') THEN
            DELETE FROM open_exchange WHERE acquirer_id = NEW.acquirer_id AND match_key = NEW.match_key;
        ELSIF NEW.state IN ('SENT', 'REVERSING') AND OLD.state NOT IN ('SENT', 'REVERSING') THEN
            INSERT INTO open_exchange VALUES (NEW.acquirer_id, NEW.match_key, NEW.transaction_id, NEW.state);
        ELSIF OLD.state <> NEW.state THEN
            UPDATE open_exchange SET state = NEW.state WHERE acquirer_id = NEW.acquirer_id AND match_key = NEW.match_key;
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
    "DROP TRIGGER transaction_found ON transaction",
    """CREATE TRIGGER transaction_found AFTER UPDATE ON transaction FOR EACH ROW
       WHEN (OLD.state <> NEW.state OR OLD.approval_code IS DISTINCT FROM NEW.approval_code) EXECUTE FUNCTION keep_found()""",
    f"CREATE OR REPLACE VIEW open_transaction AS {ONE}",
    f"CREATE VIEW sent_transaction AS {ONE} AND o.state = 'SENT' AND t.state = 'SENT'",
    "GRANT SELECT ON sent_transaction TO switch_reader, switch_writer",
    # Each range of pages asked for its summary aloud, thousands a minute in the server's log; vacuum makes them.
    "ALTER INDEX transaction_business_date SET (autosummarize = off)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
