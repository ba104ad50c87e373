"""Applications: their life, profiles, documents and verdicts, each only added to; keys of applicants.

What stands on a document and its file are sealed. `subject` is a keyed hash of a number, so that two applications of one business are known
without the number.
"""

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

# state>state; the life table of switch/merchants/applications/life.py, held by a test against this text.
STEPS = (
    "draft>submitted", "draft>withdrawn", "submitted>approved", "submitted>in_review", "submitted>withdrawn", "in_review>in_review",
    "in_review>more_wanted", "in_review>approved", "in_review>refused", "in_review>withdrawn", "more_wanted>submitted", "more_wanted>refused",
    "more_wanted>withdrawn",
)
STATES = "'draft', 'submitted', 'in_review', 'more_wanted', 'approved', 'refused', 'withdrawn'"
KINDS = ("'business_licence', 'tax_registration', 'bank_account', 'representative_identity', 'food_licence', 'drug_licence', "
         "'travel_licence'")

LIFE = (
    # version counts the moves; each has its row in application_event. limits: what an individual may take until somebody looked.
    f"""
    CREATE TABLE application (
        application_id uuid PRIMARY KEY,
        entity_type text NOT NULL CHECK (entity_type IN ('company', 'micro', 'individual')),
        country text NOT NULL CHECK (country ~ '^[A-Z]{{2}}$'),
        state text NOT NULL CHECK (state IN ({STATES})),
        version integer NOT NULL DEFAULT 1,
        reviewer text CHECK (length(reviewer) BETWEEN 1 AND 140),
        due_at timestamptz,
        state_since timestamptz NOT NULL DEFAULT now(),
        created_at timestamptz NOT NULL DEFAULT now(),
        merchant_id uuid REFERENCES merchant CONSTRAINT application_of_merchant UNIQUE,
        limits jsonb CHECK (jsonb_typeof(limits) = 'object'),
        CONSTRAINT application_made CHECK ((state = 'approved') = (merchant_id IS NOT NULL)),
        CONSTRAINT application_limits CHECK (limits IS NULL OR state = 'approved'),
        CONSTRAINT application_due CHECK ((state IN ('approved', 'refused', 'withdrawn')) = (due_at IS NULL)),
        CONSTRAINT application_reviewer CHECK (state <> 'in_review' OR reviewer IS NOT NULL)
    )""",
    "CREATE INDEX application_waiting ON application (due_at, application_id) WHERE due_at IS NOT NULL",
    f"""
    CREATE TABLE application_event (
        application_id uuid NOT NULL REFERENCES application,
        number integer NOT NULL,
        event text NOT NULL CHECK (event ~ '^[a-z_]{{1,20}}$'),
        was text CHECK (was IN ({STATES})),
        state text NOT NULL CHECK (state IN ({STATES})),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        key_id text,
        reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 2000),
        detail jsonb NOT NULL DEFAULT '{{}}' CHECK (jsonb_typeof(detail) = 'object'),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (application_id, number)
    )""",
    f"""
    CREATE FUNCTION check_application_step() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.version <> OLD.version + 1 THEN
            RAISE EXCEPTION 'a move of an application raises its version by one' USING ERRCODE = '23514';
        END IF;
        IF NOT OLD.state || '>' || NEW.state = ANY ('{{{",".join(STEPS)}}}'::text[]) THEN
            RAISE EXCEPTION 'an application that is % does not become %', OLD.state, NEW.state USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER application_step BEFORE UPDATE ON application FOR EACH ROW EXECUTE FUNCTION check_application_step()",
    # A life begins as a draft.
    """
    CREATE FUNCTION check_application_birth() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.state <> 'draft' OR NEW.version <> 1 THEN
            RAISE EXCEPTION 'an application begins as a draft' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER application_birth BEFORE INSERT ON application FOR EACH ROW EXECUTE FUNCTION check_application_birth()",
    # Asked at the commit: no move without its row.
    """
    CREATE FUNCTION require_application_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM application_event e WHERE e.application_id = NEW.application_id AND e.number = NEW.version
                       AND e.state = NEW.state) THEN
            RAISE EXCEPTION 'a move of an application is recorded with who, when and why' USING ERRCODE = '23514';
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER application_recorded AFTER INSERT OR UPDATE ON application DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION require_application_event()""",
)

PAPERS = (
    # Each version for ever; the newest counts.
    """
    CREATE TABLE application_profile (
        application_id uuid NOT NULL REFERENCES application,
        number integer NOT NULL CHECK (number >= 1),
        content jsonb NOT NULL CHECK (jsonb_typeof(content) = 'object' AND length(content::text) <= 8000),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (application_id, number)
    )""",
    f"""
    CREATE TABLE application_document (
        document_id uuid PRIMARY KEY,
        application_id uuid NOT NULL REFERENCES application,
        kind text NOT NULL CHECK (kind IN ({KINDS})),
        number integer NOT NULL CHECK (number BETWEEN 1 AND 20),
        key_id text NOT NULL,
        sealed bytea NOT NULL CHECK (octet_length(sealed) <= 4096),
        subject keyed_hash NOT NULL,
        expires_on date,
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT application_document_version UNIQUE (application_id, kind, number)
    )""",
    "CREATE INDEX application_document_subject ON application_document (subject)",
    # sealed: nonce, then AES-256-GCM over the bytes, bound to the document's id.
    """
    CREATE TABLE application_file (
        document_id uuid PRIMARY KEY REFERENCES application_document,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        media_type text NOT NULL CHECK (media_type IN ('application/pdf', 'image/png', 'image/jpeg')),
        size integer NOT NULL CHECK (size BETWEEN 1 AND 4194304),
        sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
        key_id text NOT NULL,
        sealed bytea NOT NULL CHECK (octet_length(sealed) = size + 28),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        at timestamptz NOT NULL DEFAULT now()
    )""",
    "ALTER TABLE application_file ALTER COLUMN sealed SET STORAGE EXTERNAL",
    """
    CREATE TABLE application_verdict (
        document_id uuid NOT NULL REFERENCES application_file,
        number integer NOT NULL CHECK (number >= 1),
        verdict text NOT NULL CHECK (verdict IN ('accepted', 'refused')),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (document_id, number)
    )""",
)

# An applicant's key names its application and nothing else.
CALLERS = (
    "ALTER TABLE api_key ADD COLUMN application_id uuid REFERENCES application",
    "ALTER TABLE api_key DROP CONSTRAINT api_key_role_check, DROP CONSTRAINT api_key_check1",
    """ALTER TABLE api_key ADD CONSTRAINT api_key_role CHECK (role IN ('terminal', 'merchant', 'operator', 'applicant')),
       ADD CONSTRAINT api_key_merchant CHECK ((role IN ('operator', 'applicant')) = (merchant_id IS NULL)),
       ADD CONSTRAINT api_key_application CHECK ((role = 'applicant') = (application_id IS NOT NULL))""",
    "CREATE OR REPLACE VIEW directory_api_key AS SELECT * FROM api_key",
)

TABLES = "application, application_event, application_profile, application_document, application_file, application_verdict"
ROLES = (
    f"GRANT SELECT, INSERT ON {TABLES} TO switch_writer",
    f"GRANT SELECT ON {TABLES} TO switch_reader",
    "GRANT UPDATE (state, version, reviewer, due_at, state_since, merchant_id, limits) ON application TO switch_writer",
)


def upgrade() -> None:
    for statement in (*LIFE, *PAPERS, *CALLERS, *ROLES):
        op.execute(statement)
