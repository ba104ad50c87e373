"""Contracts: their life, the documents that were offered, the signatures of both sides, and until when a merchant may sell by them. Applications:
from where people registered themselves, and reminders.

A document and a signature are only added to. What is signed is a document by its hash: another version's cannot stand there.
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None

# state>state; the life table of switch/merchants/contracts/life.py, held by a test against this text.
STEPS = (
    "draft>draft", "draft>offered", "draft>withdrawn", "offered>draft", "offered>signed_by_merchant", "offered>refused", "offered>withdrawn",
    "signed_by_merchant>draft", "signed_by_merchant>in_force", "signed_by_merchant>withdrawn", "in_force>in_force", "in_force>amended",
    "in_force>terminated", "in_force>expired",
)
STATES = "'draft', 'offered', 'signed_by_merchant', 'in_force', 'amended', 'terminated', 'expired', 'refused', 'withdrawn'"

LIFE = (
    # version counts the moves, document is the newest one. The last day is `until_on`, and `ends_at` the instant after it where the merchant is.
    f"""
    CREATE TABLE contract (
        contract_id uuid PRIMARY KEY,
        merchant_id uuid NOT NULL REFERENCES merchant,
        number integer NOT NULL CHECK (number >= 1),
        amends uuid REFERENCES contract,
        state text NOT NULL CHECK (state IN ({STATES})),
        version integer NOT NULL DEFAULT 1,
        document integer NOT NULL DEFAULT 1 CHECK (document BETWEEN 1 AND 100),
        state_since timestamptz NOT NULL DEFAULT now(),
        created_at timestamptz NOT NULL DEFAULT now(),
        from_on date,
        until_on date,
        begins_at timestamptz,
        begun_at timestamptz,
        ends_at timestamptz,
        ends_as text CHECK (ends_as IN ('expire', 'terminate')),
        tariff_id uuid REFERENCES merchant_tariff,
        CONSTRAINT contract_number UNIQUE (merchant_id, number),
        CONSTRAINT contract_held CHECK ((state IN ('in_force', 'amended', 'terminated', 'expired'))
                                        = (tariff_id IS NOT NULL AND from_on IS NOT NULL AND begins_at IS NOT NULL)),
        CONSTRAINT contract_end CHECK ((ends_at IS NULL) = (ends_as IS NULL)),
        CONSTRAINT contract_ended CHECK (state NOT IN ('terminated', 'expired') OR ends_at IS NOT NULL)
    )""",
    "CREATE UNIQUE INDEX contract_in_force ON contract (merchant_id) WHERE state = 'in_force'",
    "CREATE UNIQUE INDEX contract_open ON contract (merchant_id) WHERE state IN ('draft', 'offered', 'signed_by_merchant')",
    "CREATE INDEX contract_due ON contract (least(CASE WHEN begun_at IS NULL THEN begins_at END, ends_at)) WHERE state = 'in_force'",
    f"""
    CREATE TABLE contract_event (
        contract_id uuid NOT NULL REFERENCES contract,
        number integer NOT NULL,
        event text NOT NULL CHECK (event ~ '^[a-z_]{{1,20}}$'),
        was text CHECK (was IN ({STATES})),
        state text NOT NULL CHECK (state IN ({STATES})),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        key_id text,
        reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 2000),
        detail jsonb NOT NULL DEFAULT '{{}}' CHECK (jsonb_typeof(detail) = 'object'),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (contract_id, number)
    )""",
    f"""
    CREATE FUNCTION check_contract_step() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (NEW.contract_id, NEW.merchant_id, NEW.number, NEW.created_at)
           IS DISTINCT FROM (OLD.contract_id, OLD.merchant_id, OLD.number, OLD.created_at) OR NEW.amends IS DISTINCT FROM OLD.amends THEN
            RAISE EXCEPTION 'whose contract it is does not change' USING ERRCODE = '23514';
        END IF;
        IF NEW.version <> OLD.version + 1 THEN
            RAISE EXCEPTION 'a move of a contract raises its version by one' USING ERRCODE = '23514';
        END IF;
        IF NOT OLD.state || '>' || NEW.state = ANY ('{{{",".join(STEPS)}}}'::text[]) THEN
            RAISE EXCEPTION 'a contract that is % does not become %', OLD.state, NEW.state USING ERRCODE = '23514';
        END IF;
        IF OLD.tariff_id IS NOT NULL AND (NEW.tariff_id, NEW.document, NEW.from_on) IS DISTINCT FROM (OLD.tariff_id, OLD.document, OLD.from_on) THEN
            RAISE EXCEPTION 'what was signed stays' USING ERRCODE = '23514';
        END IF;
        IF NEW.state = 'in_force' AND (SELECT count(*) FROM contract_signature s WHERE s.contract_id = NEW.contract_id
                                       AND s.document = NEW.document) <> 2 THEN
            RAISE EXCEPTION 'a contract in force is signed by both sides' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER contract_step BEFORE UPDATE ON contract FOR EACH ROW EXECUTE FUNCTION check_contract_step()",
    """
    CREATE FUNCTION check_contract_birth() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.state <> 'draft' OR NEW.version <> 1 OR NEW.document <> 1 THEN
            RAISE EXCEPTION 'a contract begins as a draft' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER contract_birth BEFORE INSERT ON contract FOR EACH ROW EXECUTE FUNCTION check_contract_birth()",
    # Asked at the commit: no move without its row, and no contract without the document that it names.
    """
    CREATE FUNCTION require_contract_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM contract_event e WHERE e.contract_id = NEW.contract_id AND e.number = NEW.version AND e.state = NEW.state) THEN
            RAISE EXCEPTION 'a move of a contract is recorded with who, when and why' USING ERRCODE = '23514';
        END IF;
        IF NOT EXISTS (SELECT FROM contract_document d WHERE d.contract_id = NEW.contract_id AND d.number = NEW.document) THEN
            RAISE EXCEPTION 'a contract has its document' USING ERRCODE = '23514';
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER contract_recorded AFTER INSERT OR UPDATE ON contract DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION require_contract_event()""",
)

PAPERS = (
    # texts: what is printed, html: the bytes that are signed. The database itself says that the hash is theirs.
    """
    CREATE TABLE contract_document (
        contract_id uuid NOT NULL REFERENCES contract,
        number integer NOT NULL CHECK (number BETWEEN 1 AND 100),
        terms jsonb NOT NULL CHECK (jsonb_typeof(terms) = 'object' AND length(terms::text) <= 100000),
        texts jsonb NOT NULL CHECK (jsonb_typeof(texts) = 'object' AND length(texts::text) <= 400000),
        html text NOT NULL CHECK (length(html) <= 400000),
        sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (contract_id, number),
        CONSTRAINT contract_document_bytes UNIQUE (contract_id, number, sha256),
        CONSTRAINT contract_document_hash CHECK (sha256 = sha256(convert_to(html, 'UTF8')))
    )""",
    # The image is sealed: nonce, then AES-256-GCM over the PNG, bound to signature_id.
    """
    CREATE TABLE contract_signature (
        contract_id uuid NOT NULL,
        document integer NOT NULL,
        side text NOT NULL CHECK (side IN ('merchant', 'provider')),
        sha256 bytea NOT NULL,
        signature_id uuid NOT NULL CONSTRAINT contract_signature_id UNIQUE,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        size integer NOT NULL CHECK (size BETWEEN 1 AND 100000),
        image_sha256 bytea NOT NULL CHECK (octet_length(image_sha256) = 32),
        key_id text NOT NULL,
        sealed bytea NOT NULL CHECK (octet_length(sealed) = size + 28),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        api_key text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (contract_id, document, side),
        CONSTRAINT contract_signature_of FOREIGN KEY (contract_id, document, sha256) REFERENCES contract_document (contract_id, number, sha256)
    )""",
    "ALTER TABLE contract_signature ALTER COLUMN sealed SET STORAGE EXTERNAL",
)

# Until when a merchant with contracts may sell: by the one in force, else until the last one ended. A merchant that never had one is not in it.
SELLING = (
    """
    CREATE VIEW directory_contract AS SELECT DISTINCT ON (merchant_id) merchant_id, ends_at FROM contract
    WHERE state IN ('in_force', 'terminated', 'expired') ORDER BY merchant_id, state = 'in_force' DESC, ends_at DESC, contract_id DESC""",
    "CREATE VIEW history_contract AS SELECT * FROM contract",
    """
    CREATE FUNCTION log_contract_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(3583001);
        INSERT INTO directory_change (kind, key) VALUES ('merchant', NEW.merchant_id::text);
        PERFORM pg_notify('directory', '');
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER log_change AFTER UPDATE ON contract FOR EACH ROW
    WHEN (OLD.state <> NEW.state OR OLD.ends_at IS DISTINCT FROM NEW.ends_at) EXECUTE FUNCTION log_contract_change()""",
)

# Who applied without anybody's key, and from where; what somebody was reminded of, once for each threshold.
APPLYING = (
    """
    CREATE TABLE application_registration (
        application_id uuid PRIMARY KEY REFERENCES application,
        subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 64),
        at timestamptz NOT NULL DEFAULT now()
    )""",
    "CREATE INDEX application_registration_from ON application_registration (subject, at)",
    """
    CREATE TABLE application_reminder (
        object text NOT NULL CHECK (object ~ '^(doc|apl)_[0-9a-f-]{36}$'),
        threshold text NOT NULL CHECK (threshold ~ '^[a-z0-9]{1,20}$'),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (object, threshold)
    )""",
    "CREATE INDEX application_document_ends ON application_document (expires_on) WHERE expires_on IS NOT NULL",
)

TABLES = "application_registration, application_reminder, contract, contract_event, contract_document, contract_signature"
ROLES = (
    f"GRANT SELECT, INSERT ON {TABLES} TO switch_writer",
    f"GRANT SELECT ON {TABLES}, directory_contract, history_contract TO switch_reader",
    "GRANT SELECT ON directory_contract, history_contract TO switch_writer",
    """GRANT UPDATE (state, version, document, state_since, from_on, until_on, begins_at, begun_at, ends_at, ends_as, tariff_id) ON contract
       TO switch_writer""",
)


def upgrade() -> None:
    for statement in (*LIFE, *PAPERS, *SELLING, *APPLYING, *ROLES):
        op.execute(statement)
