"""Reversals to their end: terms per acquirer, leases, parked duties; approvals by a second person."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TERMS = (
    # What an answer code to a reversal means here, on top of the dialect's sets.
    """
    ALTER TABLE acquirer
        ADD COLUMN reversal_codes jsonb NOT NULL DEFAULT '{}',
        ADD COLUMN reversal_max_age_s integer NOT NULL DEFAULT 259200,
        ADD COLUMN reversals_per_second integer NOT NULL DEFAULT 1000,
        ADD COLUMN reversals_at_once integer NOT NULL DEFAULT 200,
        ADD COLUMN reversal_first boolean NOT NULL DEFAULT false,
        ADD CONSTRAINT acquirer_reversal_codes CHECK (jsonb_typeof(reversal_codes) = 'object' AND NOT jsonb_path_exists(reversal_codes,
            'strict $.keyvalue() ? (@.value.type() != "string" || !(@.key like_regex "^[0-9A-Z]{2}$" && (@.value == "acknowledged"
                               || @.value == "not_found" || @.value == "retry" || @.value == "park")))')),
        ADD CONSTRAINT acquirer_reversal_max_age CHECK (reversal_max_age_s BETWEEN 1 AND 2592000),
        ADD CONSTRAINT acquirer_reversals_per_second CHECK (reversals_per_second BETWEEN 1 AND 10000),
        ADD CONSTRAINT acquirer_reversals_at_once CHECK (reversals_at_once BETWEEN 1 AND 2000)""",
    "CREATE OR REPLACE VIEW directory_acquirer AS SELECT * FROM acquirer",
)

DUTIES = (
    # owed_at: its age counts from here, anew when it is opened again. leased_until: it is one worker's until then. terminal_id: for
    # acquirers that want a terminal's reversal before its next sale.
    """
    ALTER TABLE duty
        ADD COLUMN owed_at timestamptz NOT NULL DEFAULT now(),
        ADD COLUMN leased_until timestamptz,
        ADD COLUMN faults integer NOT NULL DEFAULT 0 CHECK (faults >= 0),
        ADD COLUMN parked_reason text CHECK (parked_reason IN ('max_age', 'code', 'unbuildable')),
        ADD COLUMN terminal_id uuid""",
    """UPDATE duty d SET owed_at = d.created_at, terminal_id = t.terminal_id FROM transaction t
       WHERE d.state = 'open' AND t.merchant_id = d.merchant_id AND t.transaction_id = d.transaction_id""",
    "CREATE INDEX duty_of_terminal ON duty (terminal_id) WHERE state = 'open' AND kind = 'reversal'",
    "CREATE INDEX duty_parked ON duty (transaction_id) WHERE state = 'parked'",
    "CREATE OR REPLACE VIEW history_duty AS SELECT * FROM duty",
    "GRANT UPDATE (owed_at, leased_until, faults, parked_reason) ON duty TO switch_writer",
    # Looked at when the commit is made, whoever wrote it and in which order: what is owed and what the transaction says are one.
    """
    CREATE FUNCTION duty_agrees() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        stands text;
        owed text;
    BEGIN
        SELECT t.state, d.state INTO stands, owed FROM transaction t
            LEFT JOIN duty d ON d.merchant_id = t.merchant_id AND d.transaction_id = t.transaction_id AND d.kind = 'reversal'
            WHERE t.merchant_id = NEW.merchant_id AND t.transaction_id = NEW.transaction_id;
        IF stands = 'REVERSING' AND owed IS DISTINCT FROM 'open' THEN
            RAISE EXCEPTION 'transaction: REVERSING without an open reversal' USING ERRCODE = '23514';
        ELSIF stands = 'PARKED' AND owed IS DISTINCT FROM 'parked' THEN
            RAISE EXCEPTION 'transaction: PARKED without a parked reversal' USING ERRCODE = '23514';
        ELSIF owed = 'open' AND stands <> 'REVERSING' OR owed = 'parked' AND stands <> 'PARKED' THEN
            RAISE EXCEPTION 'duty: a reversal that is % of a transaction that is %', owed, stands USING ERRCODE = '23514';
        END IF;
        RETURN NULL;
    END $$""",
    "DROP TRIGGER transaction_reversing_owes ON transaction",
    "DROP FUNCTION require_reversal()",
    """
    CREATE CONSTRAINT TRIGGER transaction_reversing_owes AFTER UPDATE ON transaction DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.state <> OLD.state AND (NEW.state IN ('REVERSING', 'PARKED') OR OLD.state = 'PARKED'))
    EXECUTE FUNCTION duty_agrees()""",
    """
    CREATE CONSTRAINT TRIGGER duty_closed_with_its_transaction AFTER UPDATE ON duty DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.kind = 'reversal' AND NEW.state <> OLD.state) EXECUTE FUNCTION duty_agrees()""",
)

# Four eyes: what one person asks for and another decides. A decision is written once; who asked and for what never changes.
APPROVALS = (
    """
    CREATE TABLE approval (
        approval_id uuid PRIMARY KEY,
        kind text NOT NULL CHECK (kind ~ '^[a-z_]{1,40}$'),
        object text NOT NULL CHECK (length(object) BETWEEN 1 AND 64),
        payload jsonb NOT NULL CHECK (jsonb_typeof(payload) = 'object'),
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        requested_by text NOT NULL,
        requested_key text NOT NULL,
        requested_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL CHECK (expires_at > requested_at),
        state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'approved', 'refused', 'expired')),
        decided_by text,
        decided_key text,
        decided_at timestamptz,
        CONSTRAINT decided_once CHECK ((state = 'waiting') = (decided_at IS NULL)),
        CONSTRAINT decided_by_somebody CHECK ((state IN ('approved', 'refused')) = (decided_by IS NOT NULL AND decided_key IS NOT NULL)),
        CONSTRAINT four_eyes CHECK (state <> 'approved' OR lower(decided_by) <> lower(requested_by) AND decided_key <> requested_key
                                    AND decided_at <= expires_at)
    )""",
    "CREATE UNIQUE INDEX approval_waiting ON approval (kind, object) WHERE state = 'waiting'",
    """
    CREATE FUNCTION refuse_decided() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'approval: what was asked for and what was decided does not change' USING ERRCODE = '23514';
    END $$""",
    """
    CREATE TRIGGER approval_stays BEFORE UPDATE ON approval FOR EACH ROW
    WHEN (OLD.state <> 'waiting' OR (OLD.approval_id, OLD.kind, OLD.object, OLD.payload, OLD.reason, OLD.requested_by, OLD.requested_key,
          OLD.requested_at, OLD.expires_at) IS DISTINCT FROM (NEW.approval_id, NEW.kind, NEW.object, NEW.payload, NEW.reason, NEW.requested_by,
          NEW.requested_key, NEW.requested_at, NEW.expires_at))
    EXECUTE FUNCTION refuse_decided()""",
    "GRANT SELECT ON approval TO switch_writer, switch_reader",
    "GRANT INSERT ON approval TO switch_writer",
    "GRANT UPDATE (state, decided_by, decided_key, decided_at) ON approval TO switch_writer",
)


def upgrade() -> None:
    for statement in (*TERMS, *DUTIES, *APPROVALS):
        op.execute(statement)
