"""What a statement writes into `transaction` is first only looked at: does any of its rows break a rule, or do more than begin or end an exchange?

Most statements of a day do neither. What they cost PostgreSQL was for the greater part the preparation of queries that gather what such rows never
have: an outcome's aggregates, a new sale's approval code and days. Those are run when a look has found such a row, and refuse by the same names.
"""

from alembic import op

revision = "0045"
down_revision = "0044"
branch_labels = None
depends_on = None

# As r0035 has them, and an approval must have an outcome: the name that a refusal carries, and what must not be false of any row.
RULES = {
    "amount_by_type": """CASE WHEN n.type IN ('balance_inquiry', 'account_verification') THEN n.amount = 0
                              ELSE n.amount BETWEEN 1 AND 999999999999 END""",
    "parts_within_amount": "n.tip_amount + n.cashback_amount <= n.amount",
    "approved_within_amount": "n.approved_amount BETWEEN 0 AND n.amount",
    "approved_has_outcome": """n.state <> 'APPROVED' OR n.outcome IS NOT NULL AND n.outcome = 'APPROVED' AND n.outcome_at IS NOT NULL
                               AND n.response_code IS NOT NULL AND n.approved_amount IS NOT NULL""",
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
BROKEN = f"NOT ({' AND '.join(f'({rule})' for rule in RULES.values())})"
WHICH = " ".join(f"WHEN NOT ({rule}) THEN '{name}'" for name, rule in RULES.items())
# Digits only; a currency of capitals; BIN, stars and last four, or stars alone: never a whole card number.
ILL_BEGUN = r"""(n.mti || n.processing_code || n.stan || n.transmitted_at || n.local_time || n.local_date || n.pos_entry_mode
              || n.pos_condition || n.rrn || n.mcc || n.card_last4 COLLATE "C" ~ '[^0-9]'
            OR n.state <> 'SENT' OR n.version <> 1 OR n.outcome IS NOT NULL
            OR octet_length(n.currency) <> 3 OR n.currency COLLATE "C" ~ '[^A-Z]'
            OR btrim(n.masked_pan, '0123456789') COLLATE "C" ~ '[^*]' OR position('*' IN n.masked_pan) NOT IN (1, 7, 8, 9)
            OR n.masked_pan <> '************' AND octet_length(n.masked_pan) - octet_length(rtrim(n.masked_pan, '0123456789')) <> 4)"""
MOVES = (
    "SENT>APPROVED", "SENT>DECLINED", "SENT>NOT_SENT", "SENT>REVERSING", "SENT>SENT",
    "APPROVED>REVERSING", "APPROVED>APPROVED", "DECLINED>REVERSING", "DECLINED>DECLINED", "NOT_SENT>REVERSING",
    "REVERSING>REVERSED", "REVERSING>PARKED", "REVERSING>REVERSING", "REVERSED>REVERSING", "REVERSED>REVERSED",
    "PARKED>REVERSING", "PARKED>REVERSED", "PARKED>CONFIRMED", "PARKED>PARKED", "CONFIRMED>CONFIRMED",
)
OPEN = "('SENT', 'REVERSING')"

STATEMENTS = (
    # The same characters as before; the old expression went through all of them for each character of a key. What is stored has been checked.
    "ALTER DOMAIN idempotency_key DROP CONSTRAINT idempotency_key_check",
    """ALTER DOMAIN idempotency_key ADD CONSTRAINT idempotency_key_check CHECK (octet_length(VALUE) BETWEEN 16 AND 64
       AND VALUE COLLATE "C" !~ '[^A-Za-z0-9_-]') NOT VALID""",
    # The lock comes before the look at the day, in a statement of its own: who closes a day holds it alone.
    f"""
    CREATE OR REPLACE FUNCTION judge_written() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        broken text;
        day record;
    BEGIN
        PERFORM FROM written n WHERE n.approval_code IS NOT NULL OR {BROKEN} OR {ILL_BEGUN};
        IF FOUND THEN
            SELECT CASE WHEN {ILL_BEGUN}
                THEN 'transaction_begins: it must begin as SENT, version 1, without an outcome; numbers are digits; currency and PAN have their form'
                {WHICH} END INTO broken FROM written n WHERE {BROKEN} OR {ILL_BEGUN} LIMIT 1;
            IF broken IS NOT NULL THEN
                RAISE EXCEPTION 'transaction: it breaks %', broken USING ERRCODE = '23514', CONSTRAINT = split_part(broken, ':', 1);
            END IF;
            INSERT INTO approval_lookup SELECT n.approval_code, n.merchant_id, n.transaction_id FROM written n WHERE n.approval_code IS NOT NULL;
        END IF;
        INSERT INTO open_exchange SELECT n.acquirer_id, n.match_key, n.transaction_id FROM written n;
        PERFORM pg_advisory_xact_lock_shared(3583010, day_lock(n.acquirer_id, n.business_date)) FROM written n;
        PERFORM FROM (SELECT DISTINCT n.acquirer_id, n.business_date FROM written n) w WHERE (SELECT d.state FROM business_day d
            WHERE d.acquirer_id = w.acquirer_id AND d.business_date = w.business_date) = 'closed';
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        FOR day IN SELECT DISTINCT n.acquirer_id, n.business_date FROM written n JOIN business_day d USING (acquirer_id, business_date)
                   WHERE d.state = 'closed' LOOP
            IF EXISTS (SELECT FROM written n WHERE n.acquirer_id = day.acquirer_id AND n.business_date = day.business_date
                       AND (n.type <> 'capture' OR n.idempotency_key IS NOT NULL)) THEN
                RAISE EXCEPTION 'transaction: business day % of the acquirer is closed', day.business_date
                    USING ERRCODE = '23514', CONSTRAINT = 'business_day_open';
            END IF;
            INSERT INTO late_change (merchant_id, transaction_id, acquirer_id, for_date)
            SELECT n.merchant_id, n.transaction_id, n.acquirer_id, n.business_date FROM written n
            WHERE n.acquirer_id = day.acquirer_id AND n.business_date = day.business_date;
        END LOOP;
        RETURN NULL;
    END $$""",
    # A full join is never a nested loop, whatever the connection prefers: old and new rows of a long statement are no square.
    f"""
    CREATE OR REPLACE FUNCTION judge_changed() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        seen record;
        late record;
    BEGIN
        PERFORM FROM was o FULL JOIN written n ON n.transaction_id = o.transaction_id
        WHERE o.state IS NULL OR n.state IS NULL OR n.version <> o.version + 1
            OR o.state <> 'SENT' OR n.state NOT IN ('APPROVED', 'DECLINED', 'NOT_SENT')
            OR o.outcome IS NOT NULL OR o.approval_code IS NOT NULL OR {BROKEN};
        IF NOT FOUND THEN
            DELETE FROM open_exchange WHERE acquirer_id = ANY(ARRAY(SELECT n.acquirer_id FROM written n))
                AND match_key = ANY(ARRAY(SELECT n.match_key FROM written n))
                AND transaction_id = ANY(ARRAY(SELECT n.transaction_id FROM written n));
            INSERT INTO approval_lookup SELECT n.approval_code, n.merchant_id, n.transaction_id FROM written n WHERE n.approval_code IS NOT NULL;
            RETURN NULL;
        END IF;
        SELECT min(CASE
                WHEN o.state IS NULL OR n.state IS NULL THEN 'transaction_life: a row keeps its id'
                WHEN n.version <> o.version + 1 THEN format('transaction_life: version %s may not become %s', o.version, n.version)
                WHEN o.state || '>' || n.state NOT IN {MOVES} OR o.outcome IS NOT NULL AND o.outcome IS DISTINCT FROM n.outcome
                    THEN format('transaction_life: %s may not become %s', o.state, n.state)
                {WHICH} END) AS broken,
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
        INTO seen FROM was o FULL JOIN written n ON n.transaction_id = o.transaction_id;
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
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
