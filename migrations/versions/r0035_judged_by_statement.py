"""What a row of `transaction` must hold is judged once per statement, over all its rows.

PostgreSQL reads each CHECK and each WHEN of a table anew from its stored text for every statement: 54,000 characters for one intent and one
outcome, which was two fifths of what they cost. A function's queries are read once per connection. The rules are the same ones, by the same names.

What waits for an answer is read by the keys that are open, whatever the planner believes about how many there are: by the size of a table that is
mostly dead rows, each sweep of recovery read all transactions.
"""

from alembic import op

revision = "0035"
down_revision = "0034"
branch_labels = None
depends_on = None

# Of every row, whenever it is written: the name that a refusal carries, and what must not be false.
RULES = {
    "amount_by_type": """CASE WHEN n.type IN ('balance_inquiry', 'account_verification') THEN n.amount = 0
                              ELSE n.amount BETWEEN 1 AND 999999999999 END""",
    "parts_within_amount": "n.tip_amount + n.cashback_amount <= n.amount",
    "approved_within_amount": "n.approved_amount BETWEEN 0 AND n.amount",
    "approved_has_outcome": """n.state <> 'APPROVED' OR n.outcome = 'APPROVED' AND n.outcome_at IS NOT NULL AND n.response_code IS NOT NULL
                               AND n.approved_amount IS NOT NULL""",
    "declined_has_no_money": "n.state NOT IN ('SENT', 'DECLINED', 'NOT_SENT') OR n.authorised = 0",
    "authorised_within_capturable": "n.authorised <= n.capturable",
    "captured_within_capturable": """n.captured + n.capture_reserved + n.released <= n.capturable
                                     AND n.capture_reserved >= 0 AND n.released >= 0 AND n.increment_reserved >= 0""",
    "undone_within_captured": "n.refunded + n.refund_reserved + n.charged_back <= n.captured AND n.refund_reserved >= 0",
    "void_stands_alone": """n.void_reserved = 0 AND n.voided = 0
        OR n.void_reserved >= 0 AND n.voided >= 0 AND n.capture_reserved + n.increment_reserved + n.refund_reserved + n.refunded + n.charged_back = 0
           AND (n.voided = 0 OR n.captured = 0 AND n.void_reserved = 0)""",
    "follow_up_has_original": "n.type NOT IN ('capture', 'increment', 'void', 'tip') OR n.original_id IS NOT NULL",
    "follow_up_has_key": "n.original_id IS NULL OR n.idempotency_key IS NOT NULL OR n.type = 'capture'",
}
HELD = " ".join(f"WHEN NOT ({rule}) THEN '{name}'" for name, rule in RULES.items())
MOVES = (
    "SENT>APPROVED", "SENT>DECLINED", "SENT>NOT_SENT", "SENT>REVERSING", "SENT>SENT",
    "APPROVED>REVERSING", "APPROVED>APPROVED", "DECLINED>REVERSING", "DECLINED>DECLINED", "NOT_SENT>REVERSING",
    "REVERSING>REVERSED", "REVERSING>PARKED", "REVERSING>REVERSING", "REVERSED>REVERSING", "REVERSED>REVERSED",
    "PARKED>REVERSING", "PARKED>REVERSED", "PARKED>CONFIRMED", "PARKED>PARKED", "CONFIRMED>CONFIRMED",
)
OPEN = "('SENT', 'REVERSING')"
# OFFSET 0 keeps the look-up by id a look-up: a subquery with it is never joined any other way.
ONE = """SELECT t.* FROM open_exchange o CROSS JOIN LATERAL (SELECT * FROM transaction x WHERE x.transaction_id = o.transaction_id OFFSET 0) t
WHERE t.acquirer_id = o.acquirer_id AND t.match_key = o.match_key"""

STATEMENTS = (
    "ALTER TABLE open_exchange ADD COLUMN state transaction_state NOT NULL DEFAULT 'SENT'",  # waiting reversals are passed over by it
    "UPDATE open_exchange o SET state = t.state FROM transaction t WHERE t.transaction_id = o.transaction_id AND t.state <> o.state",
    f"CREATE OR REPLACE VIEW open_transaction AS {ONE}",
    f"CREATE VIEW sent_transaction AS {ONE} AND o.state = 'SENT' AND t.state = 'SENT'",
    "GRANT SELECT ON sent_transaction TO switch_reader, switch_writer",
    # Each range of pages asked for its summary aloud, thousands a minute in the server's log; vacuum makes them.
    "ALTER INDEX transaction_business_date SET (autosummarize = off)",
    f"ALTER TABLE transaction {', '.join(f'DROP CONSTRAINT {name}' for name in RULES)}",
    "DROP TRIGGER transaction_life ON transaction",
    "DROP TRIGGER transaction_found ON transaction",
    "DROP FUNCTION keep_found()",
    "DROP TRIGGER transaction_moves_late ON transaction",
    "DROP FUNCTION notice_late_change()",
    # r0031's, with the rules. Digits only; a currency of capitals; BIN, stars and last four, or stars alone: never a whole card number.
    f"""
    CREATE OR REPLACE FUNCTION judge_written() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        broken text;
        day record;
    BEGIN
        SELECT j.broken INTO broken FROM (SELECT CASE WHEN
            translate(n.mti || n.processing_code || n.stan || n.transmitted_at || n.local_time || n.local_date || n.pos_entry_mode
                      || n.pos_condition || n.rrn || n.mcc || n.card_last4, '0123456789', '') <> ''
            OR n.state <> 'SENT' OR n.version <> 1 OR n.outcome IS NOT NULL
            OR octet_length(n.currency) <> 3 OR translate(n.currency, 'ABCDEFGHIJKLMNOPQRSTUVWXYZ', '') <> ''
            OR translate(btrim(n.masked_pan, '0123456789'), '*', '') <> '' OR position('*' IN n.masked_pan) NOT IN (1, 7, 8, 9)
            OR n.masked_pan <> '************' AND octet_length(n.masked_pan) - octet_length(rtrim(n.masked_pan, '0123456789')) <> 4
            THEN 'transaction_begins: it must begin as SENT, version 1, without an outcome; numbers are digits; currency and PAN have their form'
            {HELD} END AS broken FROM written n) j WHERE j.broken IS NOT NULL LIMIT 1;
        IF broken IS NOT NULL THEN
            RAISE EXCEPTION 'transaction: it breaks %', broken USING ERRCODE = '23514', CONSTRAINT = split_part(broken, ':', 1);
        END IF;
        INSERT INTO open_exchange SELECT n.acquirer_id, n.match_key, n.transaction_id FROM written n;
        INSERT INTO approval_lookup SELECT n.approval_code, n.merchant_id, n.transaction_id FROM written n WHERE n.approval_code IS NOT NULL;
        FOR day IN SELECT DISTINCT n.acquirer_id, n.business_date FROM written n LOOP
            PERFORM pg_advisory_xact_lock_shared(3583010, day_lock(day.acquirer_id, day.business_date));
            IF EXISTS (SELECT FROM business_day d WHERE d.acquirer_id = day.acquirer_id AND d.business_date = day.business_date
                       AND d.state = 'closed') THEN
                IF EXISTS (SELECT FROM written n WHERE n.acquirer_id = day.acquirer_id AND n.business_date = day.business_date
                           AND (n.type <> 'capture' OR n.idempotency_key IS NOT NULL)) THEN
                    RAISE EXCEPTION 'transaction: business day % of the acquirer is closed', day.business_date
                        USING ERRCODE = '23514', CONSTRAINT = 'business_day_open';
                END IF;
                INSERT INTO late_change (merchant_id, transaction_id, acquirer_id, for_date)
                SELECT n.merchant_id, n.transaction_id, n.acquirer_id, n.business_date FROM written n
                WHERE n.acquirer_id = day.acquirer_id AND n.business_date = day.business_date;
            END IF;
        END LOOP;
        RETURN NULL;
    END $$""",
    # One pass over the changed rows: what broke, whose key of the wire is free, taken or owed, whose approval code came, what moved late.
    # A join by hash, whatever the connection prefers: old and new rows of a long statement are no square. What follows reads arrays, not rows.
    f"""
    CREATE FUNCTION judge_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public SET enable_hashjoin = on SET enable_nestloop = off AS $$
    DECLARE
        seen record;
        late record;
    BEGIN
        SELECT min(CASE
                WHEN n.version <> o.version + 1 THEN format('transaction_life: version %s may not become %s', o.version, n.version)
                WHEN o.state || '>' || n.state NOT IN {MOVES} OR o.outcome IS NOT NULL AND o.outcome IS DISTINCT FROM n.outcome
                    THEN format('transaction_life: %s may not become %s', o.state, n.state)
                {HELD} END) AS broken,
            array_agg(o.acquirer_id) FILTER (WHERE o.state IN {OPEN} AND n.state <> o.state) AS acquirers,
            array_agg(o.match_key) FILTER (WHERE o.state IN {OPEN} AND n.state <> o.state) AS keys,
            array_agg(o.transaction_id) FILTER (WHERE o.state IN {OPEN} AND n.state NOT IN {OPEN}) AS free,
            array_agg(o.transaction_id) FILTER (WHERE o.state = 'SENT' AND n.state = 'REVERSING') AS owed,
            array_agg(o.transaction_id) FILTER (WHERE o.state NOT IN {OPEN} AND n.state IN {OPEN}) AS taken,
            array_agg(n.approval_code::text) FILTER (WHERE o.approval_code IS DISTINCT FROM n.approval_code) AS codes,
            array_agg(o.merchant_id) FILTER (WHERE o.approval_code IS DISTINCT FROM n.approval_code) AS code_merchants,
            array_agg(o.transaction_id) FILTER (WHERE o.approval_code IS DISTINCT FROM n.approval_code) AS code_ids,
            array_agg(o.transaction_id) FILTER (WHERE o.approval_code IS NOT NULL AND o.approval_code IS DISTINCT FROM n.approval_code) AS recoded,
            array_agg(o.approval_code::text) FILTER (WHERE o.approval_code IS DISTINCT FROM n.approval_code) AS old_codes,
            array_agg(o.transaction_id) FILTER (WHERE o.state <> 'SENT' AND n.state <> o.state) AS late
        INTO seen FROM was o JOIN written n ON n.transaction_id = o.transaction_id;
        IF seen.broken IS NOT NULL THEN
            RAISE EXCEPTION 'transaction: it breaks %', seen.broken USING ERRCODE = '23514', CONSTRAINT = split_part(seen.broken, ':', 1);
        END IF;
        IF seen.free IS NOT NULL THEN
            DELETE FROM open_exchange WHERE acquirer_id = ANY(seen.acquirers) AND match_key = ANY(seen.keys) AND transaction_id = ANY(seen.free);
        END IF;
        IF seen.owed IS NOT NULL THEN
            UPDATE open_exchange SET state = 'REVERSING'
            WHERE acquirer_id = ANY(seen.acquirers) AND match_key = ANY(seen.keys) AND transaction_id = ANY(seen.owed);
        END IF;
        IF seen.taken IS NOT NULL THEN
            INSERT INTO open_exchange SELECT n.acquirer_id, n.match_key, n.transaction_id, n.state FROM written n
            WHERE n.transaction_id = ANY(seen.taken);
        END IF;
        IF seen.recoded IS NOT NULL THEN
            DELETE FROM approval_lookup WHERE approval_code = ANY(seen.old_codes) AND merchant_id = ANY(seen.code_merchants)
                AND transaction_id = ANY(seen.recoded);
        END IF;
        IF seen.codes IS NOT NULL THEN
            INSERT INTO approval_lookup SELECT c.code, c.merchant_id, c.transaction_id
            FROM unnest(seen.codes, seen.code_merchants, seen.code_ids) AS c (code, merchant_id, transaction_id) WHERE c.code IS NOT NULL;
        END IF;
        IF seen.late IS NOT NULL THEN
            FOR late IN SELECT n.* FROM written n WHERE n.transaction_id = ANY(seen.late) ORDER BY n.transaction_id LOOP
                PERFORM pg_advisory_xact_lock_shared(3583010, day_lock(late.acquirer_id, late.business_date));
                INSERT INTO late_change (merchant_id, transaction_id, acquirer_id, for_date)
                SELECT late.merchant_id, late.transaction_id, late.acquirer_id, late.business_date FROM business_day d
                WHERE d.acquirer_id = late.acquirer_id AND d.business_date = late.business_date AND d.state = 'closed'
                ON CONFLICT (merchant_id, transaction_id) DO UPDATE SET settled_on = NULL, noticed_at = now(), change = DEFAULT;
            END LOOP;
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER transaction_changed AFTER UPDATE ON transaction REFERENCING OLD TABLE AS was NEW TABLE AS written
       FOR EACH STATEMENT EXECUTE FUNCTION judge_changed()""",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
