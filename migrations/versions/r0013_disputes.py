"""Disputes: their life and amounts, held by the database too; deadlines and fees as data; evidence, notices that came as files.

Amounts are minor units. What of a dispute is charged back now (`charged`) follows from its state, and a trigger moves it on its transaction.
"""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

# state -> states that may follow; the life table of switch/settlement/disputes.py, held by a test against this text.
STEPS = (
    "retrieval>answered", "retrieval>unanswered", "retrieval>chargeback", "retrieval>withdrawn", "answered>chargeback", "answered>withdrawn",
    "unanswered>chargeback", "unanswered>withdrawn", "chargeback>represented", "chargeback>accepted", "chargeback>won", "chargeback>lost",
    "chargeback>withdrawn", "represented>won", "represented>lost", "represented>pre_arbitration", "represented>withdrawn",
    "pre_arbitration>arbitration", "pre_arbitration>accepted", "pre_arbitration>won", "pre_arbitration>lost", "pre_arbitration>withdrawn",
    "arbitration>won", "arbitration>lost", "arbitration>withdrawn", "lost>won",
)
CHARGED = ("chargeback", "represented", "pre_arbitration", "arbitration", "lost", "accepted")
STATES = ("retrieval", "answered", "unanswered", *CHARGED, "won", "withdrawn")

TABLES = (
    # What was answered to a key, byte for byte. caller: the shown id of a merchant or terminal, or `person:` and a name.
    """
    CREATE TABLE keyed_answer (
        caller text NOT NULL CHECK (length(caller) BETWEEN 1 AND 140),
        idempotency_key idempotency_key NOT NULL,
        route text NOT NULL,
        fingerprint keyed_hash NOT NULL,
        status smallint NOT NULL CHECK (status BETWEEN 200 AND 299),
        body text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (caller, idempotency_key)
    )""",
    f"""
    CREATE TABLE dispute (
        merchant_id uuid NOT NULL,
        dispute_id uuid NOT NULL,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        transaction_id uuid NOT NULL,
        reference text NOT NULL CHECK (reference ~ '^[A-Za-z0-9][A-Za-z0-9_./-]{{0,39}}$'),
        state text NOT NULL CHECK (state IN ({", ".join(f"'{state}'" for state in STATES)})),
        version integer NOT NULL DEFAULT 1,
        amount bigint NOT NULL CHECK (amount > 0),
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{{3}}$'),
        charged bigint NOT NULL
            GENERATED ALWAYS AS (CASE WHEN state IN ({", ".join(f"'{state}'" for state in CHARGED)}) THEN amount ELSE 0 END) STORED,
        brand text NOT NULL,
        reason_code text NOT NULL CHECK (reason_code ~ '^[A-Za-z0-9.]{{1,12}}$'),
        noticed_on date NOT NULL,
        opened_by text NOT NULL CHECK (length(opened_by) BETWEEN 1 AND 140),
        opened_at timestamptz NOT NULL DEFAULT now(),
        answer_by timestamptz,
        warn_at timestamptz,
        warned_at timestamptz,
        closed_at timestamptz,
        PRIMARY KEY (merchant_id, dispute_id),
        CONSTRAINT dispute_once UNIQUE (acquirer_id, reference),
        FOREIGN KEY (merchant_id, transaction_id) REFERENCES transaction,
        CONSTRAINT dispute_deadline CHECK ((state IN ('retrieval', 'chargeback', 'pre_arbitration')) = (answer_by IS NOT NULL)
                                           AND (answer_by IS NULL) = (warn_at IS NULL)),
        CONSTRAINT dispute_closed CHECK ((state IN ('won', 'lost', 'accepted', 'withdrawn')) = (closed_at IS NOT NULL))
    )""",
    "CREATE UNIQUE INDEX dispute_by_id ON dispute (dispute_id)",
    "CREATE INDEX dispute_of_transaction ON dispute (transaction_id)",
    "CREATE INDEX dispute_answer_by ON dispute (answer_by) WHERE answer_by IS NOT NULL",
    "CREATE INDEX dispute_warn_at ON dispute (warn_at) WHERE warn_at IS NOT NULL AND warned_at IS NULL",
    "CREATE INDEX dispute_open ON dispute (merchant_id) WHERE closed_at IS NULL",
    """
    CREATE TABLE dispute_event (
        event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        merchant_id uuid NOT NULL,
        dispute_id uuid NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        event text NOT NULL CHECK (event ~ '^[a-z_]{1,20}$'),
        state text NOT NULL,
        by text NOT NULL CHECK (length(by) BETWEEN 1 AND 140),
        note text NOT NULL DEFAULT '' CHECK (length(note) <= 2000),
        files uuid[] NOT NULL DEFAULT '{}',
        FOREIGN KEY (merchant_id, dispute_id) REFERENCES dispute
    )""",
    "CREATE INDEX dispute_event_of ON dispute_event (dispute_id, event_id)",
    # sealed: nonce, then AES-256-GCM over the bytes, bound to the file's id.
    """
    CREATE TABLE dispute_file (
        merchant_id uuid NOT NULL,
        file_id uuid NOT NULL,
        dispute_id uuid NOT NULL,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        media_type text NOT NULL CHECK (media_type IN ('application/pdf', 'image/png', 'image/jpeg')),
        size integer NOT NULL CHECK (size BETWEEN 1 AND 4194304),
        sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
        key_id text NOT NULL,
        sealed bytea NOT NULL CHECK (octet_length(sealed) = size + 28),
        uploaded_by text NOT NULL,
        uploaded_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, file_id),
        CONSTRAINT dispute_file_once UNIQUE (dispute_id, sha256),
        FOREIGN KEY (merchant_id, dispute_id) REFERENCES dispute
    )""",
    "ALTER TABLE dispute_file ALTER COLUMN sealed SET STORAGE EXTERNAL",
    """
    CREATE TABLE dispute_notice_file (
        file_id uuid PRIMARY KEY,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        number text NOT NULL CHECK (number ~ '^[0-9]{1,12}$'),
        sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
        size integer NOT NULL,
        lines integer NOT NULL CHECK (lines >= 0),
        total bigint NOT NULL CHECK (total >= 0),
        changed integer NOT NULL CHECK (changed >= 0),
        received_by text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT dispute_notice_file_once UNIQUE (acquirer_id, sha256),
        CONSTRAINT dispute_notice_file_number UNIQUE (acquirer_id, number)
    )""",
    # Days to answer in, counted from the day of the notice in the acquirer's zone, and how many days before their end somebody is called.
    # Without an acquirer: for all that have no row of their own; '*' is any brand. The most particular row holds.
    """
    CREATE TABLE dispute_deadline (
        acquirer_id uuid REFERENCES acquirer,
        brand text NOT NULL DEFAULT '*' CHECK (brand ~ '^([a-z]{1,20}|[*])$'),
        kind text NOT NULL CHECK (kind IN ('retrieval', 'chargeback', 'pre_arbitration')),
        answer_days smallint NOT NULL CHECK (answer_days BETWEEN 1 AND 180),
        warn_days smallint NOT NULL CHECK (warn_days BETWEEN 0 AND 60),
        UNIQUE NULLS NOT DISTINCT (acquirer_id, brand, kind),
        CHECK (warn_days < answer_days)
    )""",
    """INSERT INTO dispute_deadline (kind, answer_days, warn_days) VALUES ('retrieval', 10, 3), ('chargeback', 20, 5), ('pre_arbitration', 10, 3)""",
    # fee: what the merchant pays; cost: what the acquirer charges us. Both when a dispute comes into this state.
    """
    CREATE TABLE dispute_fee (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        kind text NOT NULL CHECK (kind IN ('retrieval', 'chargeback', 'pre_arbitration')),
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        fee bigint NOT NULL CHECK (fee BETWEEN 0 AND 999999999999),
        cost bigint NOT NULL CHECK (cost BETWEEN 0 AND 999999999999),
        PRIMARY KEY (acquirer_id, kind, currency)
    )""",
)

LIFE = (
    """
    CREATE FUNCTION refuse_dispute_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'dispute: % may not become %, or what it is about changed', OLD.state, NEW.state USING ERRCODE = '23514';
    END $$""",
    f"""
    CREATE TRIGGER dispute_life BEFORE UPDATE ON dispute FOR EACH ROW
    WHEN ((NEW.state <> OLD.state AND (OLD.state || '>' || NEW.state) NOT IN ({", ".join(f"'{step}'" for step in STEPS)}))
          OR NEW.version <> OLD.version + 1
          OR (NEW.amount <> OLD.amount AND (NEW.state <> 'chargeback' OR OLD.state = 'chargeback'))
          OR (OLD.merchant_id, OLD.dispute_id, OLD.acquirer_id, OLD.transaction_id, OLD.reference, OLD.currency, OLD.opened_at)
             IS DISTINCT FROM (NEW.merchant_id, NEW.dispute_id, NEW.acquirer_id, NEW.transaction_id, NEW.reference, NEW.currency, NEW.opened_at))
    EXECUTE FUNCTION refuse_dispute_change()""",
    # The constraint undone_within_captured says how much. Whoever moves a dispute has locked its transaction first.
    """
    CREATE FUNCTION charge_back() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        moved bigint := NEW.charged - CASE TG_OP WHEN 'UPDATE' THEN OLD.charged ELSE 0 END;
        t transaction%ROWTYPE;
    BEGIN
        SELECT * INTO t FROM transaction WHERE transaction_id = NEW.transaction_id FOR NO KEY UPDATE;
        IF t.original_id IS NOT NULL OR t.currency <> NEW.currency OR t.acquirer_id <> NEW.acquirer_id OR t.merchant_id <> NEW.merchant_id
           OR t.type NOT IN ('purchase', 'preauthorization', 'cash_advance', 'offline_sale') THEN
            RAISE EXCEPTION 'dispute: it is not about this sale' USING ERRCODE = '23514', CONSTRAINT = 'dispute_of_its_sale';
        END IF;
        IF moved > 0 AND t.state NOT IN ('APPROVED', 'CONFIRMED') THEN
            RAISE EXCEPTION 'dispute: the sale does not stand' USING ERRCODE = '23514', CONSTRAINT = 'undone_within_captured';
        END IF;
        IF moved <> 0 THEN
            UPDATE transaction SET version = version + 1, charged_back = charged_back + moved WHERE transaction_id = NEW.transaction_id;
        END IF;
        RETURN NULL;
    END $$""",
    "CREATE TRIGGER dispute_charges AFTER INSERT OR UPDATE ON dispute FOR EACH ROW EXECUTE FUNCTION charge_back()",
)

NAMES = ("keyed_answer", "dispute", "dispute_event", "dispute_file", "dispute_notice_file", "dispute_deadline", "dispute_fee")
ROLES = (
    f"GRANT SELECT ON {', '.join(NAMES)} TO switch_writer, switch_reader",
    f"GRANT INSERT ON {', '.join(NAMES)} TO switch_writer",
    "GRANT UPDATE (state, version, amount, reason_code, noticed_on, answer_by, warn_at, warned_at, closed_at) ON dispute TO switch_writer",
    "GRANT UPDATE (answer_days, warn_days) ON dispute_deadline TO switch_writer",
    "GRANT UPDATE (fee, cost) ON dispute_fee TO switch_writer",
    # Nothing but the trigger of disputes moves it.
    "REVOKE UPDATE (charged_back) ON transaction FROM switch_writer",
)


def upgrade() -> None:
    for statement in (*TABLES, *LIFE, *ROLES):
        op.execute(statement)
