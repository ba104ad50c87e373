"""Devices: their life, activation codes, keys, health, parameters, releases and roll-outs; what of them decides whether a till sells.

`device.sells` is what the hot path follows: through the view `directory_terminal` and the directory's change log, without a read of its own.
"""

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# state>state; the life table of switch/terminals/lifecycle.py, held by a test against this text.
STEPS = (
    "inventory>ordered", "inventory>installed", "inventory>retired", "ordered>inventory", "ordered>shipped", "ordered>installed",
    "shipped>installed", "shipped>returned", "shipped>retired", "installed>activated", "installed>maintenance", "installed>returned",
    "installed>retired", "activated>activated", "activated>live", "activated>maintenance", "activated>returned", "activated>retired",
    "live>maintenance", "live>returned", "live>retired", "maintenance>activated", "maintenance>live", "maintenance>maintenance",
    "maintenance>returned", "maintenance>retired", "returned>inventory", "returned>retired",
)
STATES = "'inventory', 'ordered', 'shipped', 'installed', 'activated', 'live', 'maintenance', 'returned', 'retired'"
BOUND = "'installed', 'activated', 'live', 'maintenance'"

LIFE = (
    # terminal_id is the binding: one per device, and one device per till. version counts the moves; each has its row in device_event.
    f"""
    CREATE TABLE device (
        device_id uuid PRIMARY KEY,
        serial_number text NOT NULL CONSTRAINT device_serial_number UNIQUE CHECK (serial_number ~ '^[0-9A-Z][0-9A-Z._/-]{{3,39}}$'),
        model text NOT NULL CHECK (model ~ '^[0-9A-Za-z][ 0-9A-Za-z._/+-]{{0,39}}$'),
        state text NOT NULL CHECK (state IN ({STATES})),
        version integer NOT NULL DEFAULT 1,
        merchant_id uuid,
        store_id uuid,
        terminal_id uuid,
        sells_in_maintenance boolean NOT NULL DEFAULT false,
        tampered_at timestamptz,
        state_since timestamptz NOT NULL DEFAULT now(),
        created_at timestamptz NOT NULL DEFAULT now(),
        sells boolean NOT NULL GENERATED ALWAYS AS (tampered_at IS NULL
            AND (state = 'live' OR state = 'maintenance' AND sells_in_maintenance)) STORED,
        FOREIGN KEY (merchant_id, store_id) REFERENCES store,
        FOREIGN KEY (merchant_id, terminal_id) REFERENCES terminal,
        CONSTRAINT device_bound CHECK ((state IN ({BOUND})) = (terminal_id IS NOT NULL)),
        CONSTRAINT device_assigned CHECK ((state IN ('ordered', 'shipped', {BOUND})) = (merchant_id IS NOT NULL)
            AND (merchant_id IS NULL) = (store_id IS NULL)),
        CONSTRAINT device_sells_in_maintenance CHECK (NOT sells_in_maintenance OR state = 'maintenance')
    )""",
    "CREATE UNIQUE INDEX device_of_terminal ON device (terminal_id) WHERE terminal_id IS NOT NULL",
    "CREATE INDEX device_of_merchant ON device (merchant_id, device_id) WHERE merchant_id IS NOT NULL",
    "CREATE INDEX device_of_model ON device (model, device_id)",
    f"""
    CREATE TABLE device_event (
        device_id uuid NOT NULL REFERENCES device,
        number integer NOT NULL,
        event text NOT NULL CHECK (length(event) BETWEEN 1 AND 40),
        was text CHECK (was IN ({STATES})),
        state text NOT NULL CHECK (state IN ({STATES})),
        merchant_id uuid,
        store_id uuid,
        terminal_id uuid,
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        key_id text,
        reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 500),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (device_id, number)
    )""",
    "CREATE INDEX device_event_of_terminal ON device_event (terminal_id) WHERE terminal_id IS NOT NULL",
    f"""
    CREATE FUNCTION check_device_step() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.version <> OLD.version + 1 THEN
            RAISE EXCEPTION 'a move of a device raises its version by one' USING ERRCODE = '23514';
        END IF;
        IF NOT OLD.state || '>' || NEW.state = ANY ('{{{",".join(STEPS)}}}'::text[]) THEN
            RAISE EXCEPTION 'a device that is % does not become %', OLD.state, NEW.state USING ERRCODE = '23514';
        END IF;
        IF NEW.serial_number <> OLD.serial_number OR NEW.model <> OLD.model THEN
            RAISE EXCEPTION 'a device keeps its serial number and model' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER device_step BEFORE UPDATE ON device FOR EACH ROW EXECUTE FUNCTION check_device_step()",
    # Asked at the commit: no move without its row.
    """
    CREATE FUNCTION require_device_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM device_event e WHERE e.device_id = NEW.device_id AND e.number = NEW.version AND e.state = NEW.state) THEN
            RAISE EXCEPTION 'a move of a device is recorded with who, when and why' USING ERRCODE = '23514';
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER device_recorded AFTER INSERT OR UPDATE ON device DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION require_device_event()""",
    # A till that had a device sells only while one that may sell is bound to it; a till that never had one sells as before.
    """
    CREATE OR REPLACE VIEW directory_terminal AS
    SELECT t.merchant_id, t.store_id, t.terminal_id, t.name,
        CASE WHEN t.status = 'active' AND EXISTS (SELECT FROM device_event e WHERE e.terminal_id = t.terminal_id)
                  AND NOT EXISTS (SELECT FROM device d WHERE d.terminal_id = t.terminal_id AND d.sells) THEN 'suspended' ELSE t.status END AS status,
        t.created_at, t.status AS own_status
    FROM terminal t""",
    """
    CREATE FUNCTION log_device_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(3583001);
        INSERT INTO directory_change (kind, key)
        SELECT DISTINCT 'terminal', u.terminal_id::text FROM unnest(ARRAY[OLD.terminal_id, NEW.terminal_id]) AS u (terminal_id)
        WHERE u.terminal_id IS NOT NULL;
        PERFORM pg_notify('directory', '');
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER log_change AFTER UPDATE ON device FOR EACH ROW
    WHEN (OLD.sells <> NEW.sells OR OLD.terminal_id IS DISTINCT FROM NEW.terminal_id) EXECUTE FUNCTION log_device_change()""",
)

KEYS = (
    # digest: keyed, so that who reads the table cannot try all codes.
    """
    CREATE TABLE activation_code (
        device_id uuid NOT NULL REFERENCES device,
        number integer NOT NULL,
        digest bytea NOT NULL CHECK (octet_length(digest) = 32),
        issued_by text NOT NULL,
        issued_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz NOT NULL,
        failures integer NOT NULL DEFAULT 0,
        ended_at timestamptz,
        ended_as text CHECK (ended_as IN ('used', 'replaced', 'guessed')),
        PRIMARY KEY (device_id, number),
        CHECK ((ended_at IS NULL) = (ended_as IS NULL)),
        CHECK (expires_at > issued_at)
    )""",
    "CREATE UNIQUE INDEX activation_code_open ON activation_code (device_id) WHERE ended_at IS NULL",
    """
    CREATE TABLE activation_failure (
        scope text NOT NULL CHECK (scope IN ('address', 'terminal')),
        subject text NOT NULL CHECK (length(subject) <= 64),
        failures integer NOT NULL DEFAULT 0 CHECK (failures >= 0),
        since timestamptz NOT NULL DEFAULT now(),
        locked_until timestamptz,
        PRIMARY KEY (scope, subject)
    )""",
    """
    CREATE TABLE device_key (
        key_id text PRIMARY KEY REFERENCES api_key,
        device_id uuid NOT NULL REFERENCES device,
        issued_at timestamptz NOT NULL DEFAULT now(),
        erase_asked_at timestamptz,
        erased_at timestamptz
    )""",
    "CREATE INDEX device_key_of ON device_key (device_id, issued_at)",
    "CREATE INDEX api_key_of_terminal ON api_key (terminal_id) WHERE terminal_id IS NOT NULL AND revoked_at IS NULL",
)

HEALTH = (
    # The last values; silent_since is set by who called somebody, and taken off by the next heartbeat.
    """
    CREATE TABLE device_health (
        device_id uuid PRIMARY KEY REFERENCES device,
        last_at timestamptz NOT NULL DEFAULT now(),
        software_version text,
        battery_percent smallint CHECK (battery_percent BETWEEN 0 AND 100),
        charging boolean,
        paper text CHECK (paper IN ('ok', 'low', 'out')),
        signal_dbm smallint,
        network text,
        latitude_e6 integer,
        longitude_e6 integer,
        accuracy_m integer,
        tamper boolean NOT NULL DEFAULT false,
        parameters_version text,
        batch_open boolean,
        queued_offline integer,
        silent_after_s integer NOT NULL DEFAULT 86400 CHECK (silent_after_s > 0),
        silent_since timestamptz
    ) WITH (fillfactor = 70)""",
    # One row an hour, with its last values and its worst battery and signal.
    """
    CREATE TABLE device_health_hour (
        device_id uuid NOT NULL REFERENCES device,
        hour timestamptz NOT NULL,
        heartbeats integer NOT NULL DEFAULT 1,
        software_version text,
        battery_min smallint,
        signal_min smallint,
        paper text,
        latitude_e6 integer,
        longitude_e6 integer,
        tamper boolean NOT NULL DEFAULT false,
        PRIMARY KEY (device_id, hour)
    ) WITH (fillfactor = 70)""",
)

PARAMETERS = (
    # Each version for ever; the newest counts. owner_id of the defaults is the nil id.
    """
    CREATE TABLE parameter_set (
        owner_kind text NOT NULL CHECK (owner_kind IN ('default', 'merchant', 'store', 'terminal')),
        owner_id uuid NOT NULL,
        version integer NOT NULL CHECK (version >= 1),
        content jsonb NOT NULL CHECK (jsonb_typeof(content) = 'object' AND length(content::text) <= 40000),
        person text NOT NULL,
        reason text NOT NULL DEFAULT '',
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (owner_kind, owner_id, version),
        CHECK ((owner_kind = 'default') = (owner_id = '00000000-0000-0000-0000-000000000000'))
    )""",
)

RELEASES = (
    """
    CREATE TABLE software_release (
        release_id uuid PRIMARY KEY,
        model text NOT NULL,
        version text NOT NULL CHECK (version ~ '^[0-9A-Za-z][0-9A-Za-z._+-]{0,39}$'),
        url text NOT NULL CHECK (url ~ '^https://[!-~]+$' AND length(url) <= 500),
        sha256 text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
        size bigint NOT NULL CHECK (size > 0),
        notes text NOT NULL DEFAULT '' CHECK (length(notes) <= 2000),
        person text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT software_release_once UNIQUE (model, version)
    )""",
    # stores: None for all. percent only grows, so that who was chosen stays chosen.
    """
    CREATE TABLE rollout (
        rollout_id uuid PRIMARY KEY,
        model text NOT NULL,
        version text NOT NULL,
        back_to text NOT NULL,
        state text NOT NULL CHECK (state IN ('running', 'paused', 'rolled_back')),
        percent integer NOT NULL CHECK (percent BETWEEN 0 AND 100),
        stores uuid[] CHECK (cardinality(stores) BETWEEN 1 AND 1000),
        number integer NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(),
        FOREIGN KEY (model, version) REFERENCES software_release (model, version),
        FOREIGN KEY (model, back_to) REFERENCES software_release (model, version),
        CHECK (back_to <> version)
    )""",
    "CREATE INDEX rollout_of_model ON rollout (model, rollout_id)",
    """
    CREATE TABLE rollout_event (
        rollout_id uuid NOT NULL REFERENCES rollout,
        number integer NOT NULL,
        event text NOT NULL,
        state text NOT NULL,
        percent integer NOT NULL,
        person text NOT NULL,
        reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 500),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (rollout_id, number)
    )""",
    "CREATE VIEW history_batch AS SELECT merchant_id, terminal_id, number, closed_at FROM terminal_batch",
)

TABLES = ("device, device_event, activation_code, activation_failure, device_key, device_health, device_health_hour, parameter_set, "
          "software_release, rollout, rollout_event")
ROLES = (
    f"GRANT SELECT, INSERT ON {TABLES} TO switch_writer",
    f"GRANT SELECT ON {TABLES}, history_batch TO switch_reader",
    "GRANT SELECT ON history_batch TO switch_writer",
    """GRANT UPDATE (state, version, merchant_id, store_id, terminal_id, sells_in_maintenance, tampered_at, state_since) ON device
       TO switch_writer""",
    "GRANT UPDATE (failures, ended_at, ended_as) ON activation_code TO switch_writer",
    "GRANT UPDATE (failures, since, locked_until) ON activation_failure TO switch_writer",
    "GRANT UPDATE (erase_asked_at, erased_at) ON device_key TO switch_writer",
    "GRANT UPDATE ON device_health, device_health_hour TO switch_writer",
    "GRANT UPDATE (state, percent, number) ON rollout TO switch_writer",
)


def upgrade() -> None:
    for statement in (*LIFE, *KEYS, *HEALTH, *PARAMETERS, *RELEASES, *ROLES):
        op.execute(statement)
