"""Cryptographic keys, wrapped: their life, the components that people key in, what workers read of them.

A key stands here only under the storage key of the security module, bound to its id, purpose, algorithm and check value.
"""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

KEYS = (
    "CREATE SEQUENCE crypto_key_version",
    # One owner: an acquirer, a terminal (with its merchant), or a merchant. `name`: what a terminal calls it, or the key set of a base key.
    # source: keyed in by people, taken out of a key block, or brought by a sign-on, which has no people.
    """
    CREATE TABLE crypto_key (
        key_id uuid PRIMARY KEY,
        acquirer_id uuid REFERENCES acquirer,
        merchant_id uuid REFERENCES merchant,
        terminal_id uuid,
        purpose text NOT NULL CHECK (purpose IN ('kek', 'tmk', 'pin', 'mac', 'track', 'bdk')),
        name text NOT NULL DEFAULT '' CHECK (length(name) <= 64),
        algorithm text NOT NULL CHECK (algorithm IN ('des', 'tdes', 'aes', 'sm4')),
        kcv text NOT NULL CHECK (kcv ~ '^[0-9A-F]{6}$'),
        storage_key text,
        wrapped bytea,
        source text NOT NULL CHECK (source IN ('components', 'key_block', 'sign_in')),
        components integer NOT NULL DEFAULT 0 CHECK (components IN (0, 2, 3)),
        state text NOT NULL CHECK (state IN ('collecting', 'waiting', 'active', 'replaced')),
        requested_by text,
        requested_at timestamptz NOT NULL DEFAULT now(),
        approved_by text,
        active_at timestamptz,
        ended_at timestamptz,
        version bigint NOT NULL DEFAULT 0,
        FOREIGN KEY (merchant_id, terminal_id) REFERENCES terminal,
        CONSTRAINT crypto_key_one_owner CHECK ((acquirer_id IS NULL) <> (merchant_id IS NULL) AND (terminal_id IS NULL OR merchant_id IS NOT NULL)),
        CONSTRAINT crypto_key_whole CHECK ((state = 'collecting') = (wrapped IS NULL) AND (wrapped IS NULL) = (storage_key IS NULL)),
        CONSTRAINT crypto_key_dated CHECK ((state IN ('active', 'replaced')) = (active_at IS NOT NULL)),
        CONSTRAINT crypto_key_ended CHECK ((state = 'replaced') = (ended_at IS NOT NULL)),
        CONSTRAINT crypto_key_by_people CHECK ((source = 'sign_in') = (requested_by IS NULL)),
        CONSTRAINT crypto_key_by_two CHECK (source = 'sign_in' OR (active_at IS NOT NULL) = (approved_by IS NOT NULL))
    )""",
    """CREATE UNIQUE INDEX crypto_key_in_use ON crypto_key (coalesce(acquirer_id, terminal_id, merchant_id), purpose, name)
       WHERE state = 'active'""",
    "CREATE INDEX crypto_key_of ON crypto_key (coalesce(acquirer_id, terminal_id, merchant_id), key_id)",
    "CREATE INDEX crypto_key_followed ON crypto_key (version) WHERE state IN ('active', 'replaced')",
    # Each person gives one: nobody knows the whole. Erased when the key is whole.
    """
    CREATE TABLE crypto_key_component (
        key_id uuid NOT NULL REFERENCES crypto_key,
        component integer NOT NULL CHECK (component BETWEEN 1 AND 3),
        kcv text NOT NULL,
        storage_key text,
        wrapped bytea,
        entered_by text NOT NULL,
        entered_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (key_id, component)
    )""",
    r"""CREATE UNIQUE INDEX crypto_key_component_by_another ON crypto_key_component
        (key_id, lower(regexp_replace(btrim(entered_by), '\s+', ' ', 'g')))""",
    # The lock makes versions appear in the order of their commits, as in the directory's change log.
    """
    CREATE FUNCTION stamp_crypto_key() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'UPDATE' AND (NEW.acquirer_id, NEW.merchant_id, NEW.terminal_id, NEW.purpose, NEW.name, NEW.algorithm, NEW.kcv, NEW.source,
                                 NEW.requested_by) IS DISTINCT FROM
           (OLD.acquirer_id, OLD.merchant_id, OLD.terminal_id, OLD.purpose, OLD.name, OLD.algorithm, OLD.kcv, OLD.source, OLD.requested_by) THEN
            RAISE EXCEPTION 'crypto_key: what it is does not change' USING ERRCODE = '23514';
        END IF;
        IF TG_OP = 'UPDATE' AND (OLD.state, NEW.state) NOT IN (('collecting', 'collecting'), ('collecting', 'waiting'), ('waiting', 'waiting'),
            ('waiting', 'active'), ('active', 'active'), ('active', 'replaced'), ('replaced', 'replaced')) THEN
            RAISE EXCEPTION 'crypto_key: it cannot go from % to %', OLD.state, NEW.state USING ERRCODE = '23514';
        END IF;
        PERFORM pg_advisory_xact_lock(3583016);
        NEW.version := nextval('crypto_key_version');
        PERFORM pg_notify('crypto_key', '');
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON crypto_key FOR EACH ROW EXECUTE FUNCTION stamp_crypto_key()",
    """CREATE VIEW directory_crypto_key AS SELECT version, coalesce(acquirer_id, terminal_id, merchant_id) AS owner, name, key_id, purpose,
       algorithm, kcv, storage_key, wrapped, state, ended_at FROM crypto_key
       WHERE state = 'active' OR (state = 'replaced' AND ended_at > now() - interval '1 hour')""",
)

ROLES = (
    "GRANT SELECT ON crypto_key, crypto_key_component, directory_crypto_key TO switch_writer, switch_reader",
    "GRANT INSERT ON crypto_key, crypto_key_component TO switch_writer",
    "GRANT UPDATE (storage_key, wrapped, state, approved_by, active_at, ended_at) ON crypto_key TO switch_writer",
    "GRANT UPDATE (storage_key, wrapped) ON crypto_key_component TO switch_writer",
    "GRANT USAGE ON SEQUENCE crypto_key_version TO switch_writer",
)


def upgrade() -> None:
    for statement in (*KEYS, *ROLES):
        op.execute(statement)
