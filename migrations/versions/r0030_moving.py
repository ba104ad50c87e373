"""Another acquirer, choosing one, licences and leaving: rules for stores and days, changes of acquirer with their steps."""

from alembic import op

revision = "0030"
down_revision = "0023"
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

ROLES = (
    "GRANT SELECT, INSERT ON merchant_move, merchant_move_event, merchant_move_route TO switch_writer",
    "GRANT SELECT ON merchant_move, merchant_move_event, merchant_move_route TO switch_reader",
    "GRANT UPDATE (state, version, state_since) ON merchant_move TO switch_writer",
)


def upgrade() -> None:
    for statement in (*RULES, *MOVES, *ROLES):
        op.execute(statement)
