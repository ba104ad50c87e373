"""The house: directory, transactions with their keys and duties, evidence, workers, numbers, roles."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DIRECTORY = (
    """
    CREATE TABLE organisation (
        organisation_id uuid PRIMARY KEY,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        created_at timestamptz NOT NULL DEFAULT now()
    )""",
    """
    CREATE TABLE merchant (
        merchant_id uuid PRIMARY KEY,
        organisation_id uuid NOT NULL REFERENCES organisation,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'closed')),
        mcc text NOT NULL CHECK (mcc ~ '^[0-9]{4}$'),
        time_zone text NOT NULL,
        duplicate_policy text NOT NULL DEFAULT 'warn' CHECK (duplicate_policy IN ('warn', 'refuse')),
        created_at timestamptz NOT NULL DEFAULT now()
    )""",
    """
    CREATE TABLE store (
        merchant_id uuid NOT NULL REFERENCES merchant,
        store_id uuid NOT NULL,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        city text NOT NULL DEFAULT '' CHECK (length(city) <= 40),
        country text NOT NULL DEFAULT 'CN' CHECK (country ~ '^[A-Z]{2}$'),
        time_zone text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, store_id)
    )""",
    "CREATE UNIQUE INDEX store_by_id ON store (store_id)",
    """
    CREATE TABLE terminal (
        merchant_id uuid NOT NULL,
        store_id uuid NOT NULL,
        terminal_id uuid NOT NULL,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended', 'retired')),
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, terminal_id),
        FOREIGN KEY (merchant_id, store_id) REFERENCES store
    )""",
    "CREATE UNIQUE INDEX terminal_by_id ON terminal (terminal_id)",
    """
    CREATE TABLE acquirer (
        acquirer_id uuid PRIMARY KEY,
        name text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,39}$'),
        dialect text NOT NULL,
        message_mode text NOT NULL CHECK (message_mode IN ('single', 'dual')),
        status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'down', 'draining')),
        institution_code text CHECK (institution_code ~ '^[0-9]{1,11}$'),
        time_zone text NOT NULL DEFAULT 'UTC',
        answer_timeout_ms integer NOT NULL DEFAULT 30000 CHECK (answer_timeout_ms BETWEEN 100 AND 120000),
        reversal_grace_ms integer NOT NULL DEFAULT 5000 CHECK (reversal_grace_ms BETWEEN 0 AND 120000),
        max_in_flight integer NOT NULL DEFAULT 2048 CHECK (max_in_flight BETWEEN 1 AND 100000),
        created_at timestamptz NOT NULL DEFAULT now()
    )""",
    """
    CREATE TABLE acquirer_line (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        line_id uuid NOT NULL,
        host text NOT NULL CHECK (length(host) BETWEEN 1 AND 253),
        port integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
        PRIMARY KEY (acquirer_id, line_id)
    )""",
    # How the acquirer knows a terminal: DE41 and DE42.
    """
    CREATE TABLE acquirer_terminal (
        merchant_id uuid NOT NULL,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        terminal_id uuid NOT NULL,
        card_acceptor_terminal text NOT NULL CHECK (length(card_acceptor_terminal) = 8),
        card_acceptor text NOT NULL CHECK (length(card_acceptor) = 15),
        PRIMARY KEY (merchant_id, acquirer_id, terminal_id),
        FOREIGN KEY (merchant_id, terminal_id) REFERENCES terminal,
        UNIQUE (acquirer_id, card_acceptor_terminal, card_acceptor)
    )""",
    """
    CREATE TABLE route (
        route_id uuid PRIMARY KEY,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        merchant_id uuid REFERENCES merchant,
        brand text,
        priority integer NOT NULL DEFAULT 100 CHECK (priority BETWEEN 0 AND 10000),
        created_at timestamptz NOT NULL DEFAULT now()
    )""",
    """
    CREATE TABLE api_key (
        key_id text PRIMARY KEY CHECK (length(key_id) BETWEEN 8 AND 40),
        role text NOT NULL CHECK (role IN ('terminal', 'merchant', 'operator')),
        merchant_id uuid REFERENCES merchant,
        terminal_id uuid,
        person text,
        secret_digest bytea NOT NULL CHECK (octet_length(secret_digest) = 32),
        created_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz,
        revoked_at timestamptz,
        FOREIGN KEY (merchant_id, terminal_id) REFERENCES terminal,
        CHECK ((role = 'terminal') = (terminal_id IS NOT NULL)),
        CHECK ((role = 'operator') = (merchant_id IS NULL)),
        CHECK (role <> 'operator' OR person IS NOT NULL)
    )""",
    """
    CREATE TABLE bin_range (
        low text NOT NULL CHECK (low ~ '^[0-9]{6,12}$'),
        high text NOT NULL CHECK (high ~ '^[0-9]{6,12}$'),
        brand text NOT NULL,
        card_type text NOT NULL CHECK (card_type IN ('debit', 'credit', 'prepaid', 'unknown')),
        pan_lengths smallint[] NOT NULL,
        PRIMARY KEY (low, high),
        CHECK (length(low) = length(high) AND low <= high)
    )""",
    """
    CREATE TABLE business_day (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        business_date date NOT NULL,
        state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closing', 'closed')),
        opened_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (acquirer_id, business_date)
    )""",
    """
    CREATE TABLE tariff (
        merchant_id uuid NOT NULL REFERENCES merchant,
        effective_from date NOT NULL,
        basis_points integer NOT NULL CHECK (basis_points BETWEEN 0 AND 10000),
        PRIMARY KEY (merchant_id, effective_from)
    )""",
    """
    CREATE TABLE directory_change (
        version bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        kind text NOT NULL,
        key text NOT NULL,
        at timestamptz NOT NULL DEFAULT now()
    )""",
    # The lock makes versions appear in the order of their commits: a reader that has seen N has seen all before it.
    """
    CREATE FUNCTION log_directory_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(3583001);
        INSERT INTO directory_change (kind, key) VALUES (TG_TABLE_NAME, to_jsonb(NEW) ->> TG_ARGV[0]);
        PERFORM pg_notify('directory', '');
        RETURN NULL;
    END $$""",
)

LOGGED = {
    "merchant": "merchant_id", "store": "store_id", "terminal": "terminal_id", "acquirer": "acquirer_id",
    "acquirer_line": "acquirer_id", "acquirer_terminal": "terminal_id", "route": "route_id", "api_key": "key_id",
    "bin_range": "low", "business_day": "acquirer_id",
}

# state -> states that may follow; the life table of switch/payments/transaction.py, held by a test against this text.
TRANSITIONS = (
    "SENT>APPROVED", "SENT>DECLINED", "SENT>NOT_SENT", "SENT>REVERSING", "SENT>SENT",
    "APPROVED>REVERSING", "APPROVED>APPROVED", "DECLINED>REVERSING", "DECLINED>DECLINED", "NOT_SENT>REVERSING",
    "REVERSING>REVERSED", "REVERSING>PARKED", "REVERSING>REVERSING", "REVERSED>REVERSING",
    "PARKED>REVERSING", "PARKED>REVERSED", "PARKED>CONFIRMED",
)

IMMUTABLE = (
    "merchant_id", "transaction_id", "type", "exchange", "acquirer_id", "terminal_id", "business_date", "amount", "currency",
    "stan", "rrn", "transmitted_at", "match_key", "pan_token", "mti", "idempotency_key", "received_at", "original_id",
)

PAYMENTS = (
    # Domains check a value when it is written, not again at each update of another column as a CHECK on the table would.
    # That digits are digits is checked at the insert, for all columns by one expression (trigger transaction_text).
    *(f"CREATE DOMAIN digits{length} AS text CHECK (octet_length(VALUE) = {length})" for length in (2, 3, 4, 6, 10, 12)),
    "CREATE DOMAIN stan AS digits6 CHECK (VALUE <> '000000')",
    "CREATE DOMAIN keyed_hash AS bytea CHECK (octet_length(VALUE) = 32)",
    "CREATE DOMAIN idempotency_key AS text CHECK (VALUE ~ '^[A-Za-z0-9_-]{16,64}$')",
    "CREATE DOMAIN not_negative AS bigint CHECK (VALUE >= 0)",
    "CREATE DOMAIN text3 AS text CHECK (length(VALUE) <= 3)",
    "CREATE DOMAIN text6 AS text CHECK (length(VALUE) <= 6)",
    "CREATE DOMAIN text12 AS text CHECK (length(VALUE) <= 12)",
    "CREATE DOMAIN exactly8 AS text CHECK (length(VALUE) = 8)",
    "CREATE DOMAIN exactly15 AS text CHECK (length(VALUE) = 15)",
    """CREATE DOMAIN transaction_type AS text CHECK (VALUE IN ('purchase', 'preauthorization', 'cash_advance', 'balance_inquiry',
       'account_verification', 'capture'))""",
    "CREATE DOMAIN exchange AS text CHECK (VALUE IN ('request', 'advice'))",
    """CREATE DOMAIN transaction_state AS text CHECK (VALUE IN ('SENT', 'APPROVED', 'DECLINED', 'NOT_SENT', 'REVERSING', 'REVERSED',
       'PARKED', 'CONFIRMED'))""",
    "CREATE DOMAIN outcome AS text CHECK (VALUE IN ('APPROVED', 'DECLINED', 'NOT_SENT'))",
    "CREATE DOMAIN capture_method AS text CHECK (VALUE IN ('automatic', 'manual'))",
    "CREATE DOMAIN partial_approval AS text CHECK (VALUE IN ('accept', 'refuse'))",
    """
    CREATE TABLE idempotency (
        merchant_id uuid NOT NULL,
        caller uuid NOT NULL,
        idempotency_key idempotency_key NOT NULL,
        route text NOT NULL,
        fingerprint keyed_hash NOT NULL,
        transaction_id uuid,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, caller, idempotency_key),
        CHECK ((transaction_id IS NULL) = (route = 'burnt'))
    )""",
    """
    CREATE TABLE transaction (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        type transaction_type NOT NULL,
        exchange exchange NOT NULL,
        state transaction_state NOT NULL,
        version integer NOT NULL DEFAULT 1,
        original_id uuid,
        store_id uuid NOT NULL,
        terminal_id uuid NOT NULL,
        caller uuid NOT NULL,
        idempotency_key text,
        acquirer_id uuid NOT NULL,
        business_date date NOT NULL,
        worker_epoch bigint NOT NULL,

        amount bigint NOT NULL,
        currency text NOT NULL,
        tip_amount not_negative NOT NULL DEFAULT 0,
        cashback_amount not_negative NOT NULL DEFAULT 0,
        capture_method capture_method,
        partial_approval partial_approval NOT NULL DEFAULT 'refuse',
        authorised not_negative NOT NULL DEFAULT 0,
        capturable not_negative NOT NULL DEFAULT 0,
        captured not_negative NOT NULL DEFAULT 0,
        refunded not_negative NOT NULL DEFAULT 0,
        charged_back not_negative NOT NULL DEFAULT 0,

        entry_mode text NOT NULL,
        masked_pan text NOT NULL,
        card_last4 digits4 NOT NULL,
        brand text NOT NULL,
        pan_token keyed_hash NOT NULL,
        pan_token_key text NOT NULL,
        pan_sealed bytea NOT NULL,
        pan_key text NOT NULL,
        pan_sealed_on date NOT NULL,
        card_sequence_number text,
        emv text,

        mti digits4 NOT NULL,
        processing_code digits6 NOT NULL,
        stan stan NOT NULL,
        transmitted_at digits10 NOT NULL,
        local_time digits6 NOT NULL,
        local_date digits4 NOT NULL,
        pos_entry_mode digits3 NOT NULL,
        pos_condition digits2 NOT NULL,
        rrn digits12 NOT NULL,
        card_acceptor_terminal exactly8 NOT NULL,
        card_acceptor exactly15 NOT NULL,
        mcc digits4 NOT NULL,
        match_key text NOT NULL,

        received_at timestamptz NOT NULL,
        intent_at timestamptz NOT NULL DEFAULT now(),
        send_not_after timestamptz NOT NULL,
        respond_by timestamptz NOT NULL,
        sent_at timestamptz,
        answered_at timestamptz,
        outcome_at timestamptz,

        outcome outcome,
        response_code text3,
        reason text,
        advice text,
        approval_code text6,
        approved_amount bigint,
        acquirer_rrn text12,
        answer_emv text,
        balances text,
        request_message text NOT NULL,
        answer_message text,

        terminal_trace text,
        reference text,
        same_trace bigint,
        possible_duplicate_of uuid,

        PRIMARY KEY (merchant_id, transaction_id),
        CONSTRAINT amount_by_type CHECK (CASE WHEN type IN ('balance_inquiry', 'account_verification') THEN amount = 0
                                              ELSE amount BETWEEN 1 AND 999999999999 END),
        CONSTRAINT parts_within_amount CHECK (tip_amount + cashback_amount <= amount),
        CONSTRAINT approved_within_amount CHECK (approved_amount BETWEEN 0 AND amount),
        CONSTRAINT captured_within_capturable CHECK (captured <= capturable),
        CONSTRAINT undone_within_captured CHECK (refunded + charged_back <= captured),
        CONSTRAINT authorised_within_capturable CHECK (authorised <= capturable),
        CONSTRAINT approved_has_outcome CHECK (state <> 'APPROVED' OR (outcome = 'APPROVED' AND outcome_at IS NOT NULL
                                               AND response_code IS NOT NULL AND approved_amount IS NOT NULL)),
        CONSTRAINT declined_has_no_money CHECK (state NOT IN ('SENT', 'DECLINED', 'NOT_SENT') OR authorised = 0),
        CONSTRAINT advice_has_original CHECK (exchange = 'request' OR type <> 'capture' OR original_id IS NOT NULL)
    )""",
    # What the journal sends: rows as arrays of these.
    """
    CREATE TYPE intent_row AS (
        merchant_id uuid, transaction_id uuid, type text, exchange text, original_id uuid, store_id uuid, terminal_id uuid,
        caller uuid, idempotency_key text, acquirer_id uuid, business_date date, worker_epoch int8, amount int8, currency text,
        tip_amount int8, cashback_amount int8, capture_method text, partial_approval text, entry_mode text, masked_pan text,
        card_last4 text, brand text, pan_token bytea, pan_token_key text, pan_sealed bytea, pan_key text, pan_sealed_on date,
        card_sequence_number text, emv text, mti text, processing_code text, stan text, transmitted_at text, local_time text,
        local_date text, pos_entry_mode text, pos_condition text, rrn text, card_acceptor_terminal text, card_acceptor text,
        mcc text, match_key text, received_at timestamptz, send_not_after timestamptz, respond_by timestamptz, request_message text,
        terminal_trace text, reference text, same_trace int8, route text, fingerprint bytea, refuse boolean
    )""",
    """
    CREATE TYPE outcome_row AS (
        transaction_id uuid, merchant_id uuid, state text, version int4, authorised int8, capturable int8, captured int8,
        sent_at timestamptz, answered_at timestamptz, outcome_at timestamptz, outcome text, response_code text, reason text,
        advice text, approval_code text, approved_amount int8, acquirer_rrn text, answer_emv text, balances text,
        answer_message text, from_state text
    )""",
    "CREATE UNIQUE INDEX transaction_by_id ON transaction (transaction_id)",
    "CREATE UNIQUE INDEX transaction_rrn ON transaction (acquirer_id, rrn, business_date)",
    """CREATE UNIQUE INDEX transaction_open_match_key ON transaction (acquirer_id, match_key)
       WHERE state IN ('SENT', 'REVERSING')""",
    "CREATE INDEX transaction_same_trace ON transaction (same_trace) WHERE same_trace IS NOT NULL",
    "CREATE INDEX transaction_card ON transaction (pan_token, amount, received_at)",
    # Rare values have an index; store, terminal, type, status, stan and amounts narrow a walk down the primary key, which is in time order.
    "CREATE INDEX transaction_last4 ON transaction (merchant_id, card_last4, transaction_id)",
    "CREATE INDEX transaction_reference ON transaction (merchant_id, reference, transaction_id) WHERE reference IS NOT NULL",
    """CREATE INDEX transaction_approval_code ON transaction (merchant_id, approval_code, transaction_id)
       WHERE approval_code IS NOT NULL""",
    "CREATE INDEX transaction_original ON transaction (merchant_id, original_id) WHERE original_id IS NOT NULL",
    """
    CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.version + 1 <> NEW.version THEN
            RAISE EXCEPTION 'transaction: version % may not become %', OLD.version, NEW.version USING ERRCODE = '23514';
        END IF;
        RAISE EXCEPTION 'transaction: % may not become %, or an immutable column changed', OLD.state, NEW.state
            USING ERRCODE = '23514';
    END $$""",
    """
    CREATE FUNCTION refuse_text() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'transaction: a number is not digits, or currency, masked PAN or BIN is malformed' USING ERRCODE = '23514';
    END $$""",
    # Digits, then the currency, then BIN, stars and last four: never a whole card number.
    """
    CREATE TRIGGER transaction_text BEFORE INSERT ON transaction FOR EACH ROW
    WHEN ((NEW.mti || NEW.processing_code || NEW.stan || NEW.transmitted_at || NEW.local_time || NEW.local_date || NEW.pos_entry_mode
           || NEW.pos_condition || NEW.rrn || NEW.mcc || NEW.card_last4 || NEW.currency || NEW.masked_pan)
          !~ '^[0-9]{61}[A-Z]{3}([0-9]{6,8}[*]+[0-9]{4}|[*]{12})$')
    EXECUTE FUNCTION refuse_text()""",
    # The condition is evaluated without calling the function, so the rule costs about a microsecond per update.
    f"""
    CREATE TRIGGER transaction_life BEFORE UPDATE ON transaction FOR EACH ROW
    WHEN ((OLD.state || '>' || NEW.state) NOT IN ({", ".join(f"'{step}'" for step in TRANSITIONS)})
          OR NEW.version <> OLD.version + 1
          OR ({", ".join(f"OLD.{name}" for name in IMMUTABLE)}) IS DISTINCT FROM ({", ".join(f"NEW.{name}" for name in IMMUTABLE)})
          OR (OLD.outcome IS NOT NULL AND OLD.outcome IS DISTINCT FROM NEW.outcome))
    EXECUTE FUNCTION refuse_change()""",
    # What is owed: a reversal of a request in doubt, or the repeats of an advice. One per transaction, written by the commit that owes it.
    """
    CREATE TABLE duty (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        acquirer_id uuid NOT NULL,
        kind text NOT NULL CHECK (kind IN ('reversal', 'advice')),
        state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'parked')),
        cause text NOT NULL,
        stan stan NOT NULL CHECK (stan ~ '^[0-9]{6}$'),
        transmitted_at digits10 NOT NULL CHECK (transmitted_at ~ '^[0-9]{10}$'),
        match_key text NOT NULL,
        next_attempt_at timestamptz NOT NULL,
        transmissions integer NOT NULL DEFAULT 0 CHECK (transmissions >= 0),
        first_sent_at timestamptz,
        last_sent_at timestamptz,
        last_code text,
        not_found_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        closed_at timestamptz,
        closed_by text CHECK (closed_by IN ('ack', 'not_found', 'declined', 'person')),
        PRIMARY KEY (merchant_id, transaction_id),
        FOREIGN KEY (merchant_id, transaction_id) REFERENCES transaction,
        CHECK ((state = 'done') = (closed_at IS NOT NULL)),
        CHECK ((closed_at IS NULL) = (closed_by IS NULL))
    )""",
    "CREATE UNIQUE INDEX duty_by_transaction ON duty (transaction_id)",
    "CREATE INDEX duty_due ON duty (acquirer_id, next_attempt_at) WHERE state = 'open'",
    "CREATE UNIQUE INDEX duty_open_match_key ON duty (acquirer_id, match_key) WHERE state = 'open'",
    # Once reversing, somebody owes the reversal: checked when the transaction commits, whoever wrote it.
    """
    CREATE FUNCTION require_reversal() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM duty WHERE merchant_id = NEW.merchant_id AND transaction_id = NEW.transaction_id
                       AND kind = 'reversal' AND state = 'open') THEN
            RAISE EXCEPTION 'transaction: REVERSING without an open reversal' USING ERRCODE = '23514';
        END IF;
        RETURN NULL;
    END $$""",
    """
    CREATE CONSTRAINT TRIGGER transaction_reversing_owes AFTER UPDATE ON transaction DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.state = 'REVERSING' AND OLD.state <> 'REVERSING') EXECUTE FUNCTION require_reversal()""",
    """
    CREATE TABLE transaction_event (
        event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp(),
        kind text NOT NULL,
        detail jsonb NOT NULL DEFAULT '{}'
    )""",
    "CREATE INDEX transaction_event_of ON transaction_event (transaction_id, event_id)",
    """
    CREATE TABLE unmatched_answer (
        unmatched_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        acquirer_id uuid NOT NULL,
        received_at timestamptz NOT NULL,
        reason text NOT NULL,
        field text,
        transaction_id uuid,
        message jsonb
    )""",
    "CREATE INDEX unmatched_answer_recent ON unmatched_answer (received_at)",
    """
    CREATE TABLE number_block (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        name text NOT NULL,
        next bigint NOT NULL CHECK (next >= 1),
        PRIMARY KEY (acquirer_id, name)
    )""",
    """
    CREATE TABLE worker (
        epoch bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        host text NOT NULL,
        pid integer NOT NULL,
        started_at timestamptz NOT NULL DEFAULT now(),
        lease_until timestamptz NOT NULL,
        ended_at timestamptz
    )""",
    """
    CREATE TABLE alert (
        alert_id uuid PRIMARY KEY,
        kind text NOT NULL,
        object text NOT NULL,
        since timestamptz NOT NULL DEFAULT now(),
        last_at timestamptz NOT NULL DEFAULT now(),
        count integer NOT NULL DEFAULT 1,
        acknowledged_by text,
        acknowledged_at timestamptz,
        UNIQUE (kind, object)
    )""",
)

VIEWS = (
    *(f"CREATE VIEW directory_{name} AS SELECT * FROM {name}"
      for name in ("organisation", "merchant", "store", "terminal", "acquirer", "acquirer_line", "acquirer_terminal", "route", "api_key",
                    "bin_range", "business_day")),
    "CREATE VIEW history_transaction AS SELECT * FROM transaction",
    "CREATE VIEW history_duty AS SELECT * FROM duty",
    "CREATE VIEW history_event AS SELECT * FROM transaction_event",
    "CREATE VIEW history_idempotency AS SELECT * FROM idempotency",
    "CREATE VIEW history_unmatched AS SELECT * FROM unmatched_answer",
)

# What the writer may change after the insert; nothing may be deleted.
MUTABLE = (
    "state", "version", "worker_epoch", "authorised", "capturable", "captured", "refunded", "charged_back", "sent_at", "answered_at",
    "outcome_at", "outcome", "response_code", "reason", "advice", "approval_code", "approved_amount", "acquirer_rrn", "answer_emv",
    "balances", "answer_message",
)

ROLES = (
    """
    DO $$
    BEGIN
        PERFORM pg_advisory_xact_lock(3583002);
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'switch_writer') THEN CREATE ROLE switch_writer NOLOGIN; END IF;
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'switch_reader') THEN CREATE ROLE switch_reader NOLOGIN; END IF;
        EXECUTE format('GRANT switch_writer, switch_reader TO %I', current_user);
    END $$""",
    "GRANT SELECT ON ALL TABLES IN SCHEMA public TO switch_reader, switch_writer",
    """GRANT INSERT ON organisation, merchant, store, terminal, acquirer, acquirer_line, acquirer_terminal, route, api_key, bin_range,
       business_day, tariff, directory_change, idempotency, transaction, duty, transaction_event, unmatched_answer, number_block, worker,
       alert TO switch_writer""",
    """GRANT UPDATE ON merchant, store, terminal, acquirer, acquirer_line, route, business_day, number_block, worker, alert
       TO switch_writer""",
    "GRANT UPDATE (revoked_at, expires_at) ON api_key TO switch_writer",
    f"GRANT UPDATE ({', '.join(MUTABLE)}) ON transaction TO switch_writer",
    """GRANT UPDATE (kind, stan, transmitted_at, match_key, state, cause, next_attempt_at, transmissions, first_sent_at, last_sent_at,
       last_code, not_found_at, closed_at, closed_by) ON duty TO switch_writer""",
)


def upgrade() -> None:
    for statement in DIRECTORY:
        op.execute(statement)
    for table, key in LOGGED.items():
        op.execute(f"CREATE TRIGGER log_change AFTER INSERT OR UPDATE ON {table} FOR EACH ROW "
                   f"EXECUTE FUNCTION log_directory_change('{key}')")
    for statement in (*PAYMENTS, *VIEWS, *ROLES):
        op.execute(statement)
