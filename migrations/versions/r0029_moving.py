"""Another acquirer, choosing one, licences and leaving: rules for stores and days, changes of acquirer with their steps."""

from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None

# state>state; the life table of switch/merchants/moving/life.py, held by a test against this text.
STEPS = (
    "planned>registering", "registering>moving", "moving>moving", "moving>moved", "moved>done", "moving>rolled_back", "moved>rolled_back",
    "planned>cancelled", "registering>cancelled",
)
STATES = "'planned', 'registering', 'moving', 'moved', 'done', 'rolled_back', 'cancelled'"

RULES = (
    """
    ALTER TABLE route
        ADD COLUMN stores uuid[] CHECK (cardinality(stores) >= 1),
        ADD COLUMN date_from date,
        ADD COLUMN date_until date,
        ADD CONSTRAINT route_days CHECK (date_from < date_until),
        ADD CONSTRAINT route_stores_of_one CHECK (stores IS NULL OR merchant_id IS NOT NULL)""",
    # A release before this one knows neither stores nor days: it sees none of these rules.
    """
    CREATE OR REPLACE VIEW directory_route AS SELECT route_id, acquirer_id, merchant_id, brand, priority, created_at FROM route
    WHERE state = 'active' AND bin_low IS NULL AND amount_min IS NULL AND amount_max IS NULL AND currencies IS NULL AND mccs IS NULL
      AND entry_modes IS NULL AND weekdays IS NULL AND time_from IS NULL AND weight IS NULL AND healthy_percent IS NULL
      AND stores IS NULL AND date_from IS NULL AND date_until IS NULL""",
    "CREATE OR REPLACE VIEW directory_rule AS SELECT * FROM route",
)


def life(table: str, key: str, first: str, steps: tuple[str, ...]) -> tuple[str, ...]:
    """A life that begins as `first`, moves only by `steps`, and has a row in `{table}_event` for each move of it."""
    return (
        f"""
    CREATE FUNCTION check_{table}_step() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            IF NEW.state <> '{first}' OR NEW.version <> 1 THEN
                RAISE EXCEPTION '{table}: it begins as {first}' USING ERRCODE = '23514';
            END IF;
        ELSIF NEW.version <> OLD.version + 1 OR NOT OLD.state || '>' || NEW.state = ANY ('{{{",".join(steps)}}}'::text[]) THEN
            RAISE EXCEPTION '{table}: what is % does not become %, and each move raises its version by one', OLD.state, NEW.state
                USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END $$""",
        f"CREATE TRIGGER {table}_step BEFORE INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION check_{table}_step()",
        # Asked at the commit: no move without its row.
        f"""
    CREATE FUNCTION require_{table}_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM {table}_event e WHERE e.{key} = NEW.{key} AND e.number = NEW.version AND e.state = NEW.state) THEN
            RAISE EXCEPTION '{table}: a move is recorded with who, when and why' USING ERRCODE = '23514';
        END IF;
        RETURN NULL;
    END $$""",
        f"""CREATE CONSTRAINT TRIGGER {table}_recorded AFTER INSERT OR UPDATE ON {table} DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION require_{table}_event()""",
    )


def events(table: str, key: str, states: str) -> str:
    """The moves of a life: only added to."""
    return f"""
    CREATE TABLE {table}_event (
        {key} uuid NOT NULL REFERENCES {table},
        number integer NOT NULL CHECK (number >= 1),
        event text NOT NULL CHECK (event ~ '^[a-z_]{{1,20}}$'),
        was text CHECK (was IN ({states})),
        state text NOT NULL CHECK (state IN ({states})),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        key_id text,
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        detail jsonb NOT NULL DEFAULT '{{}}' CHECK (jsonb_typeof(detail) = 'object'),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY ({key}, number)
    )"""


MOVES = (
    f"""
    CREATE TABLE merchant_move (
        move_id uuid PRIMARY KEY,
        merchant_id uuid NOT NULL REFERENCES merchant,
        from_acquirer uuid NOT NULL REFERENCES acquirer,
        to_acquirer uuid NOT NULL REFERENCES acquirer,
        state text NOT NULL CHECK (state IN ({STATES})),
        version integer NOT NULL DEFAULT 1,
        planned_for date,
        created_at timestamptz NOT NULL DEFAULT now(),
        state_since timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT merchant_move_elsewhere CHECK (from_acquirer <> to_acquirer)
    )""",
    # One change of a merchant at a time.
    "CREATE UNIQUE INDEX merchant_move_open ON merchant_move (merchant_id) WHERE state IN ('planned', 'registering', 'moving', 'moved')",
    "CREATE INDEX merchant_move_of ON merchant_move (merchant_id, move_id)",
    events("merchant_move", "move_id", STATES),
    # The rules that its shares made: which step, and whether for the new acquirer or the old one is the rule's own word.
    """
    CREATE TABLE merchant_move_route (
        move_id uuid NOT NULL REFERENCES merchant_move,
        route_id uuid NOT NULL REFERENCES route,
        number integer NOT NULL,
        PRIMARY KEY (move_id, route_id)
    )""",
    *life("merchant_move", "move_id", "planned", STEPS),
)

LEAVING_STEPS = ("noticed>stopped", "stopped>returned", "returned>settled", "settled>closed", "noticed>withdrawn", "stopped>withdrawn")
LEAVING_STATES = "'noticed', 'stopped', 'returned', 'settled', 'closed', 'withdrawn'"
LEAVING = (
    f"""
    CREATE TABLE merchant_leaving (
        leaving_id uuid PRIMARY KEY,
        merchant_id uuid NOT NULL REFERENCES merchant,
        state text NOT NULL CHECK (state IN ({LEAVING_STATES})),
        version integer NOT NULL DEFAULT 1,
        created_at timestamptz NOT NULL DEFAULT now(),
        state_since timestamptz NOT NULL DEFAULT now()
    )""",
    "CREATE UNIQUE INDEX merchant_leaving_once ON merchant_leaving (merchant_id) WHERE state <> 'withdrawn'",
    events("merchant_leaving", "leaving_id", LEAVING_STATES),
    *life("merchant_leaving", "leaving_id", "noticed", LEAVING_STEPS),
)

LICENCES = (
    # What was done about a licence that ends, once each: who, when, why, and what to take back.
    """
    CREATE TABLE licence_step (
        merchant_id uuid NOT NULL REFERENCES merchant,
        kind text NOT NULL CHECK (kind ~ '^[a-z_]{1,40}$'),
        expires_on date NOT NULL,
        step text NOT NULL CHECK (step IN ('remind_30', 'remind_7', 'remind_1', 'limit', 'suspend', 'lift')),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        detail jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(detail) = 'object'),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, kind, expires_on, step)
    )""",
    "CREATE INDEX application_document_expires ON application_document (expires_on) WHERE expires_on IS NOT NULL",
)

CHOOSING = (
    # What an acquirer offers to merchants: a document of fees, and in how many business days it pays. Its life is a risk rule's.
    """
    CREATE TABLE acquirer_offer (
        offer_id uuid PRIMARY KEY,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        country text CHECK (country ~ '^[A-Z]{2}$'),
        terms jsonb NOT NULL CHECK (jsonb_typeof(terms) = 'object'),
        funding_days smallint NOT NULL CHECK (funding_days BETWEEN 0 AND 60),
        state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'active', 'retired')),
        created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 120),
        created_at timestamptz NOT NULL DEFAULT now(),
        activated_by text,
        activated_at timestamptz,
        retired_by text,
        retired_at timestamptz,
        CHECK ((activated_by IS NULL) = (activated_at IS NULL) AND (retired_by IS NULL) = (retired_at IS NULL)),
        CHECK ((state = 'retired') = (retired_at IS NOT NULL) AND (state <> 'active' OR activated_at IS NOT NULL))
    )""",
    "CREATE INDEX acquirer_offer_in_force ON acquirer_offer (offer_id) WHERE state = 'active'",
    "CREATE TRIGGER acquirer_offer_stays BEFORE UPDATE ON acquirer_offer FOR EACH ROW EXECUTE FUNCTION keep_risk()",
    # A UTC day's requests to an acquirer, summed up once. times: answers by the buckets of switch/merchants/choosing/months.py.
    """
    CREATE TABLE acquirer_measured (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        day date NOT NULL,
        asked bigint NOT NULL CHECK (asked > 0),
        approved bigint NOT NULL CHECK (approved >= 0),
        declined bigint NOT NULL CHECK (declined >= 0),
        minutes integer NOT NULL CHECK (minutes BETWEEN 1 AND 1440),
        minutes_answered integer NOT NULL CHECK (minutes_answered BETWEEN 0 AND minutes),
        times bigint[] NOT NULL,
        measured_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (acquirer_id, day),
        CHECK (approved + declined <= asked)
    )""",
    # The newest of a merchant counts; those before stay.
    """
    CREATE TABLE acquirer_rating (
        merchant_id uuid NOT NULL REFERENCES merchant,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        number integer NOT NULL CHECK (number >= 1),
        stars smallint NOT NULL CHECK (stars BETWEEN 1 AND 5),
        words text NOT NULL CHECK (length(words) <= 500),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, acquirer_id, number)
    )""",
    "CREATE INDEX acquirer_rating_of ON acquirer_rating (acquirer_id, merchant_id, number DESC)",
)

ROLES = (
    "GRANT SELECT, INSERT ON licence_step TO switch_writer",
    "GRANT SELECT ON licence_step TO switch_reader",
    "GRANT SELECT, INSERT ON merchant_leaving, merchant_leaving_event TO switch_writer",
    "GRANT SELECT ON merchant_leaving, merchant_leaving_event TO switch_reader",
    "GRANT UPDATE (state, version, state_since) ON merchant_leaving TO switch_writer",
    "GRANT SELECT, INSERT ON acquirer_offer, acquirer_measured, acquirer_rating TO switch_writer",
    "GRANT SELECT ON acquirer_offer, acquirer_measured, acquirer_rating TO switch_reader",
    "GRANT UPDATE (state, activated_by, activated_at, retired_by, retired_at) ON acquirer_offer TO switch_writer",
    "GRANT SELECT, INSERT ON merchant_move, merchant_move_event, merchant_move_route TO switch_writer",
    "GRANT SELECT ON merchant_move, merchant_move_event, merchant_move_route TO switch_reader",
    "GRANT UPDATE (state, version, state_since) ON merchant_move TO switch_writer",
)


def upgrade() -> None:
    for statement in (*RULES, *MOVES, *LEAVING, *LICENCES, *CHOOSING, *ROLES):
        op.execute(statement)
