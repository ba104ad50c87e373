"""Acceptance tests of devices, what must be done before one goes live, training; signatures of cardholders.

`device.testing`: its till sells while a test of it runs, though it is not live yet. The hot path follows it as it follows `device.sells`.
"""

from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

# state>state; the life table of switch/terminals/acceptance_life.py, held by a test against this text.
STEPS = ("open>running", "open>cancelled", "running>passed", "running>failed", "running>cancelled", "failed>repeated")
STATES = "'open', 'running', 'passed', 'failed', 'repeated', 'cancelled'"
WHO = "person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140), key_id text, at timestamptz NOT NULL DEFAULT now()"

DEVICE = (
    "ALTER TABLE device ADD COLUMN testing boolean NOT NULL DEFAULT false",
    # A move to another state ends it, whoever moves.
    """
    CREATE FUNCTION end_device_testing() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.testing := false;
        RETURN NEW;
    END $$""",
    """CREATE TRIGGER device_testing BEFORE INSERT OR UPDATE ON device FOR EACH ROW
    WHEN (NEW.testing AND (NEW.state <> 'activated' OR NEW.tampered_at IS NOT NULL)) EXECUTE FUNCTION end_device_testing()""",
    """
    CREATE OR REPLACE VIEW directory_terminal AS
    SELECT t.merchant_id, t.store_id, t.terminal_id, t.name,
        CASE WHEN t.status = 'active' AND EXISTS (SELECT FROM device_event e WHERE e.terminal_id = t.terminal_id)
                  AND NOT EXISTS (SELECT FROM device d WHERE d.terminal_id = t.terminal_id AND (d.sells OR d.testing))
             THEN 'suspended' ELSE t.status END AS status,
        t.created_at, t.status AS own_status
    FROM terminal t""",
    """CREATE TRIGGER log_testing AFTER UPDATE ON device FOR EACH ROW
    WHEN (OLD.testing <> NEW.testing) EXECUTE FUNCTION log_device_change()""",
)

TESTS = (
    # Each version for ever; the newest counts. A model without one asks for nothing.
    f"""
    CREATE TABLE acceptance_plan (
        model text NOT NULL CHECK (length(model) BETWEEN 1 AND 40),
        version integer NOT NULL CHECK (version >= 1),
        content jsonb NOT NULL CHECK (jsonb_typeof(content) = 'object' AND length(content::text) <= 20000),
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        {WHO},
        PRIMARY KEY (model, version)
    )""",
    # installation: the number of the move that bound the device to the till. steps: what is wanted, as the plan said when it was opened.
    f"""
    CREATE TABLE acceptance_test (
        test_id uuid PRIMARY KEY,
        device_id uuid NOT NULL REFERENCES device,
        installation integer NOT NULL,
        merchant_id uuid NOT NULL,
        store_id uuid NOT NULL,
        terminal_id uuid NOT NULL,
        plan_version integer NOT NULL,
        steps jsonb NOT NULL CHECK (jsonb_typeof(steps) = 'array'),
        repeats uuid REFERENCES acceptance_test CONSTRAINT acceptance_test_repeats UNIQUE,
        state text NOT NULL CHECK (state IN ({STATES})),
        version integer NOT NULL DEFAULT 1,
        state_since timestamptz NOT NULL DEFAULT now(),
        begun_at timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        FOREIGN KEY (merchant_id, store_id) REFERENCES store,
        FOREIGN KEY (merchant_id, terminal_id) REFERENCES terminal,
        CONSTRAINT acceptance_test_begun CHECK (state IN ('open', 'cancelled') OR begun_at IS NOT NULL)
    )""",
    "CREATE UNIQUE INDEX acceptance_test_of_device ON acceptance_test (device_id) WHERE state IN ('open', 'running')",
    "CREATE INDEX acceptance_test_installed ON acceptance_test (device_id, test_id)",
    f"""
    CREATE TABLE acceptance_event (
        test_id uuid NOT NULL REFERENCES acceptance_test,
        number integer NOT NULL,
        event text NOT NULL CHECK (event ~ '^[a-z_]{{1,20}}$'),
        was text CHECK (was IN ({STATES})),
        state text NOT NULL CHECK (state IN ({STATES})),
        reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 500),
        {WHO},
        PRIMARY KEY (test_id, number)
    )""",
    # What was shown by which transaction, and what was found of it: also what did not show its step.
    f"""
    CREATE TABLE acceptance_step (
        test_id uuid NOT NULL REFERENCES acceptance_test,
        number integer NOT NULL CHECK (number BETWEEN 1 AND 200),
        step text NOT NULL CHECK (length(step) BETWEEN 1 AND 30),
        dialect text CHECK (length(dialect) BETWEEN 1 AND 40),
        transaction_id uuid NOT NULL,
        shown boolean NOT NULL,
        findings jsonb NOT NULL CHECK (jsonb_typeof(findings) = 'array' AND length(findings::text) <= 8000),
        compared jsonb NOT NULL CHECK (jsonb_typeof(compared) = 'array' AND length(compared::text) <= 8000),
        {WHO},
        PRIMARY KEY (test_id, number),
        CHECK (shown = (jsonb_array_length(findings) = 0))
    )""",
    f"""
    CREATE FUNCTION check_acceptance_step() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            IF NEW.state <> 'open' OR NEW.version <> 1 THEN
                RAISE EXCEPTION 'an acceptance test begins open' USING ERRCODE = '23514';
            END IF;
            RETURN NEW;
        END IF;
        IF NEW.version <> OLD.version + 1 THEN
            RAISE EXCEPTION 'a move of an acceptance test raises its version by one' USING ERRCODE = '23514';
        END IF;
        IF NOT OLD.state || '>' || NEW.state = ANY ('{{{",".join(STEPS)}}}'::text[]) THEN
            RAISE EXCEPTION 'an acceptance test that is % does not become %', OLD.state, NEW.state USING ERRCODE = '23514';
        END IF;
        IF (NEW.device_id, NEW.installation, NEW.terminal_id, NEW.steps) IS DISTINCT FROM
           (OLD.device_id, OLD.installation, OLD.terminal_id, OLD.steps) THEN
            RAISE EXCEPTION 'an acceptance test keeps its device, till and steps' USING ERRCODE = '23514';
        END IF;
        -- Passed is never said before each wanted step was shown.
        IF NEW.state = 'passed' AND EXISTS (
            SELECT FROM jsonb_array_elements(NEW.steps) AS w WHERE NOT EXISTS (
                SELECT FROM acceptance_step s WHERE s.test_id = NEW.test_id AND s.shown AND s.step = w ->> 'step'
                  AND (w ->> 'dialect' IS NULL OR s.dialect = w ->> 'dialect'))) THEN
            RAISE EXCEPTION 'an acceptance test passes when all its steps were shown' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END $$""",
    """CREATE TRIGGER acceptance_step_taken BEFORE INSERT OR UPDATE ON acceptance_test
    FOR EACH ROW EXECUTE FUNCTION check_acceptance_step()""",
    """
    CREATE FUNCTION require_acceptance_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM acceptance_event e WHERE e.test_id = NEW.test_id AND e.number = NEW.version AND e.state = NEW.state) THEN
            RAISE EXCEPTION 'a move of an acceptance test is recorded with who, when and why' USING ERRCODE = '23514';
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER acceptance_recorded AFTER INSERT OR UPDATE ON acceptance_test DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION require_acceptance_event()""",
    "CREATE VIEW history_cleared AS SELECT acquirer_id, business_date, rrn, kind, amount, currency FROM clearing_line",
)

TRAINING = (
    f"""
    CREATE TABLE device_check (
        device_id uuid NOT NULL REFERENCES device,
        installation integer NOT NULL,
        number integer NOT NULL,
        code text NOT NULL CHECK (code ~ '^[a-z][a-z0-9_]{{1,39}}$'),
        done boolean NOT NULL,
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        {WHO},
        PRIMARY KEY (device_id, number)
    )""",
    f"""
    CREATE TABLE training_material (
        material_id uuid PRIMARY KEY,
        model text NOT NULL CHECK (length(model) BETWEEN 1 AND 40),
        role text NOT NULL CHECK (role ~ '^[a-z][a-z0-9_]{{1,29}}$'),
        language text NOT NULL CHECK (language IN ('en', 'zh')),
        title text NOT NULL CHECK (length(title) BETWEEN 1 AND 140),
        version integer NOT NULL CHECK (version >= 1),
        address text CHECK (address ~ '^https://[!-~]+$' AND length(address) <= 500),
        content text CHECK (length(content) BETWEEN 1 AND 8000),
        {WHO},
        CONSTRAINT training_material_version UNIQUE (model, role, language, title, version),
        CHECK ((address IS NULL) <> (content IS NULL))
    )""",
    f"""
    CREATE TABLE training (
        training_id uuid PRIMARY KEY,
        merchant_id uuid NOT NULL,
        store_id uuid NOT NULL,
        model text NOT NULL CHECK (length(model) BETWEEN 1 AND 40),
        role text NOT NULL CHECK (role ~ '^[a-z][a-z0-9_]{{1,29}}$'),
        trainee text NOT NULL CHECK (length(trainee) BETWEEN 1 AND 140),
        trainer text NOT NULL CHECK (length(trainer) BETWEEN 1 AND 140),
        held_on date NOT NULL,
        materials uuid[] NOT NULL CHECK (cardinality(materials) BETWEEN 0 AND 50),
        {WHO},
        FOREIGN KEY (merchant_id, store_id) REFERENCES store
    )""",
    "CREATE INDEX training_of_store ON training (store_id, model, role)",
    "CREATE INDEX training_of_merchant ON training (merchant_id, training_id)",
)

SIGNATURES = (
    # sealed: nonce, then AES-256-GCM over the bytes, bound to the transaction's id.
    """
    CREATE TABLE transaction_signature (
        merchant_id uuid NOT NULL,
        transaction_id uuid PRIMARY KEY,
        width integer NOT NULL CHECK (width BETWEEN 1 AND 4096),
        height integer NOT NULL CHECK (height BETWEEN 1 AND 4096),
        size integer NOT NULL CHECK (size BETWEEN 1 AND 65536),
        sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
        key_id text NOT NULL,
        sealed bytea NOT NULL CHECK (octet_length(sealed) = size + 28),
        signed_at timestamptz NOT NULL DEFAULT now(),
        uploaded_by text NOT NULL CHECK (length(uploaded_by) BETWEEN 1 AND 140)
    )""",
    "ALTER TABLE transaction_signature ALTER COLUMN sealed SET STORAGE EXTERNAL",
)

TABLES = ("acceptance_plan, acceptance_test, acceptance_event, acceptance_step, device_check, training_material, training, "
          "transaction_signature")
ROLES = (
    f"GRANT SELECT, INSERT ON {TABLES} TO switch_writer",
    f"GRANT SELECT ON {TABLES}, history_cleared TO switch_reader",
    "GRANT SELECT ON history_cleared TO switch_writer",
    "GRANT UPDATE (state, version, state_since, begun_at) ON acceptance_test TO switch_writer",
    "GRANT UPDATE (testing) ON device TO switch_writer",
)


def upgrade() -> None:
    for statement in (*DEVICE, *TESTS, *TRAINING, *SIGNATURES, *ROLES):
        op.execute(statement)
