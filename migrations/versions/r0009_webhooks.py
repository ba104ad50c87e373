"""Webhooks: endpoints of merchants, events, deliveries and each attempt of one; how far the sweep over transactions has read."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    # since: it is told what happened from then on. resume_at: it asked to be left alone until then. Two secrets while one is rotated.
    """
    CREATE TABLE webhook_endpoint (
        merchant_id uuid NOT NULL REFERENCES merchant,
        endpoint_id uuid NOT NULL,
        url text NOT NULL CHECK (url ~ '^https?://[!-~]+$' AND length(url) <= 500),
        description text NOT NULL DEFAULT '' CHECK (length(description) <= 200),
        types text[] NOT NULL CHECK (cardinality(types) BETWEEN 1 AND 50),
        state text NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled')),
        disabled_reason text CHECK (disabled_reason IN ('merchant', 'gone', 'failing')),
        disabled_at timestamptz,
        since timestamptz NOT NULL DEFAULT now(),
        secret_sealed bytea NOT NULL,
        secret_key text NOT NULL,
        old_secret_sealed bytea,
        old_secret_key text,
        old_secret_until timestamptz,
        per_second integer NOT NULL DEFAULT 20 CHECK (per_second BETWEEN 1 AND 1000),
        at_once integer NOT NULL DEFAULT 4 CHECK (at_once BETWEEN 1 AND 50),
        taken_at timestamptz NOT NULL DEFAULT now(),
        resume_at timestamptz,
        failing_since timestamptz,
        last_status integer,
        last_fault text,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, endpoint_id),
        CHECK ((state = 'disabled') = (disabled_at IS NOT NULL)),
        CHECK ((disabled_at IS NULL) = (disabled_reason IS NULL)),
        CHECK ((old_secret_sealed IS NULL) = (old_secret_until IS NULL) AND (old_secret_sealed IS NULL) = (old_secret_key IS NULL))
    )""",
    "CREATE UNIQUE INDEX webhook_endpoint_by_id ON webhook_endpoint (endpoint_id)",
    "CREATE INDEX webhook_endpoint_enabled ON webhook_endpoint (endpoint_id) WHERE state = 'enabled'",
    "CREATE INDEX webhook_endpoint_failing ON webhook_endpoint (endpoint_id) WHERE failing_since IS NOT NULL",
    # One event per object and type, whoever finds it how often. body: the very bytes that are signed and sent, each time.
    """
    CREATE TABLE webhook_event (
        merchant_id uuid NOT NULL REFERENCES merchant,
        event_id uuid NOT NULL,
        type text NOT NULL CHECK (type ~ '^[a-z_]{1,40}([.][a-z_]{1,40}){1,3}$'),
        object text NOT NULL CHECK (length(object) BETWEEN 1 AND 100),
        happened_at timestamptz NOT NULL,
        body text NOT NULL CHECK (length(body) <= 20000),
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, event_id),
        UNIQUE (merchant_id, object, type)
    )""",
    # attempts: of all time; step: where in the schedule it stands, from the start again when it is sent by hand.
    """
    CREATE TABLE webhook_delivery (
        merchant_id uuid NOT NULL,
        endpoint_id uuid NOT NULL,
        event_id uuid NOT NULL,
        state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'delivered', 'failed')),
        attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
        step integer NOT NULL DEFAULT 0 CHECK (step >= 0),
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        leased_until timestamptz,
        last_status integer,
        last_fault text,
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        PRIMARY KEY (merchant_id, endpoint_id, event_id),
        FOREIGN KEY (merchant_id, endpoint_id) REFERENCES webhook_endpoint,
        FOREIGN KEY (merchant_id, event_id) REFERENCES webhook_event,
        CHECK ((state = 'due') = (ended_at IS NULL))
    )""",
    "CREATE INDEX webhook_delivery_due ON webhook_delivery (endpoint_id, next_attempt_at, event_id) WHERE state = 'due'",
    """
    CREATE TABLE webhook_attempt (
        merchant_id uuid NOT NULL,
        endpoint_id uuid NOT NULL,
        event_id uuid NOT NULL,
        number integer NOT NULL CHECK (number >= 1),
        ended_at timestamptz NOT NULL DEFAULT now(),
        duration_ms integer NOT NULL CHECK (duration_ms >= 0),
        status integer,
        fault text,
        answer text CHECK (length(answer) <= 400),
        PRIMARY KEY (merchant_id, endpoint_id, event_id, number),
        FOREIGN KEY (merchant_id, endpoint_id, event_id) REFERENCES webhook_delivery
    )""",
    # How far a merchant's transactions were read; a row only for merchants that had an endpoint.
    """
    CREATE TABLE webhook_cursor (
        merchant_id uuid PRIMARY KEY REFERENCES merchant,
        read_to uuid NOT NULL,
        closed_to timestamptz NOT NULL,
        swept_at timestamptz NOT NULL DEFAULT now(),
        whole_at timestamptz NOT NULL DEFAULT now()
    )""",
    # What had no outcome when the cursor passed it: captures that are repeated for days.
    """
    CREATE TABLE webhook_undecided (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        told_at timestamptz,
        PRIMARY KEY (merchant_id, transaction_id),
        FOREIGN KEY (merchant_id, transaction_id) REFERENCES transaction
    )""",
    "CREATE INDEX webhook_undecided_open ON webhook_undecided (merchant_id, transaction_id) WHERE told_at IS NULL",
    # Reversals by when they were closed; no sale has a row in it.
    "CREATE INDEX duty_closed ON duty (merchant_id, closed_at) WHERE closed_at IS NOT NULL AND kind = 'reversal'",
    """GRANT SELECT ON webhook_endpoint, webhook_event, webhook_delivery, webhook_attempt, webhook_cursor, webhook_undecided
       TO switch_writer, switch_reader""",
    """GRANT INSERT ON webhook_endpoint, webhook_event, webhook_delivery, webhook_attempt, webhook_cursor, webhook_undecided
       TO switch_writer""",
    """GRANT UPDATE (url, description, types, state, disabled_reason, disabled_at, since, secret_sealed, secret_key, old_secret_sealed,
       old_secret_key, old_secret_until, per_second, at_once, taken_at, resume_at, failing_since, last_status, last_fault)
       ON webhook_endpoint TO switch_writer""",
    """GRANT UPDATE (state, attempts, step, next_attempt_at, leased_until, last_status, last_fault, ended_at) ON webhook_delivery
       TO switch_writer""",
    "GRANT UPDATE (read_to, closed_to, swept_at, whole_at) ON webhook_cursor TO switch_writer",
    "GRANT UPDATE (told_at) ON webhook_undecided TO switch_writer",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
