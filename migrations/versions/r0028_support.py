"""Support: tickets with their life, deadlines per severity as data, every step with who and why, words, and one rating; keys of people of support.

Notices: what a merchant was told, kept as what it says; its words are made when it is read, in the merchant's language."""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None

# state>state; the life table of switch/merchants/support/life.py, held by a test against this text.
STEPS = (
    "open>assigned", "open>closed", "assigned>assigned", "assigned>waiting_for_merchant", "assigned>in_repair", "assigned>resolved",
    "waiting_for_merchant>assigned", "waiting_for_merchant>resolved", "waiting_for_merchant>closed", "in_repair>assigned", "resolved>closed",
    "resolved>open", "closed>open",
)
STATES = "'open', 'assigned', 'waiting_for_merchant', 'in_repair', 'resolved', 'closed'"
SEVERITIES = "'low', 'normal', 'high', 'critical'"

TABLES = (
    # Minutes from the opening of a ticket to the first answer and to its resolution.
    f"""
    CREATE TABLE ticket_term (
        severity text PRIMARY KEY CHECK (severity IN ({SEVERITIES})),
        rank smallint NOT NULL UNIQUE,
        answer_minutes integer NOT NULL CHECK (answer_minutes BETWEEN 1 AND 43200),
        resolve_minutes integer NOT NULL CHECK (resolve_minutes BETWEEN 1 AND 129600),
        set_by text NOT NULL,
        set_at timestamptz NOT NULL DEFAULT now(),
        CHECK (answer_minutes <= resolve_minutes)
    )""",
    """INSERT INTO ticket_term (severity, rank, answer_minutes, resolve_minutes, set_by) VALUES
    ('critical', 1, 30, 240, 'switch'), ('high', 2, 120, 1440, 'switch'), ('normal', 3, 480, 4320, 'switch'), ('low', 4, 1440, 14400, 'switch')""",
    # answer_by until somebody of support has answered, resolve_by while it is not resolved; *_missed_at: when somebody was called about it.
    # waits: whom it is with. opened_by: the person, or the shown id of the merchant or terminal.
    f"""
    CREATE TABLE ticket (
        merchant_id uuid NOT NULL,
        ticket_id uuid NOT NULL,
        store_id uuid,
        terminal_id uuid,
        transaction_id uuid,
        subject text NOT NULL CHECK (length(subject) BETWEEN 1 AND 200),
        severity text NOT NULL REFERENCES ticket_term,
        state text NOT NULL CHECK (state IN ({STATES})),
        version integer NOT NULL DEFAULT 1,
        assignee text CHECK (length(assignee) BETWEEN 1 AND 120),
        reopened integer NOT NULL DEFAULT 0,
        answer_by timestamptz,
        resolve_by timestamptz,
        answer_missed_at timestamptz,
        resolve_missed_at timestamptz,
        opened_by text NOT NULL CHECK (length(opened_by) BETWEEN 1 AND 140),
        opened_at timestamptz NOT NULL DEFAULT now(),
        state_since timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, ticket_id),
        FOREIGN KEY (merchant_id) REFERENCES merchant,
        FOREIGN KEY (merchant_id, store_id) REFERENCES store,
        FOREIGN KEY (merchant_id, terminal_id) REFERENCES terminal,
        FOREIGN KEY (merchant_id, transaction_id) REFERENCES transaction,
        CONSTRAINT ticket_store CHECK (terminal_id IS NULL OR store_id IS NOT NULL),
        CONSTRAINT ticket_assigned CHECK (state IN ('open', 'resolved', 'closed') OR assignee IS NOT NULL),
        CONSTRAINT ticket_deadline CHECK ((state IN ('resolved', 'closed')) = (resolve_by IS NULL))
    )""",
    "CREATE UNIQUE INDEX ticket_by_id ON ticket (ticket_id)",
    "CREATE INDEX ticket_of_terminal ON ticket (terminal_id) WHERE terminal_id IS NOT NULL",
    "CREATE INDEX ticket_waiting ON ticket (resolve_by) WHERE resolve_by IS NOT NULL",
    # A row is a step (was, state) or a word alone (event 'comment', number NULL). internal: the merchant does not see it.
    f"""
    CREATE TABLE ticket_event (
        event_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        merchant_id uuid NOT NULL,
        ticket_id uuid NOT NULL,
        number integer,
        event text NOT NULL CHECK (event ~ '^[a-z_]{{1,20}}$'),
        was text CHECK (was IN ({STATES})),
        state text NOT NULL CHECK (state IN ({STATES})),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        key_id text,
        support boolean NOT NULL,
        internal boolean NOT NULL DEFAULT false,
        text text NOT NULL CHECK (length(text) BETWEEN 1 AND 2000),
        device_id uuid REFERENCES device,
        replacement_id uuid REFERENCES device,
        at timestamptz NOT NULL DEFAULT now(),
        FOREIGN KEY (merchant_id, ticket_id) REFERENCES ticket,
        CONSTRAINT ticket_event_once UNIQUE (ticket_id, number),
        CHECK ((number IS NULL) = (event = 'comment')),
        CHECK (NOT internal OR support)
    )""",
    "CREATE INDEX ticket_event_of ON ticket_event (ticket_id, event_id)",
    """
    CREATE TABLE ticket_rating (
        merchant_id uuid NOT NULL,
        ticket_id uuid NOT NULL,
        stars smallint NOT NULL CHECK (stars BETWEEN 1 AND 5),
        text text NOT NULL DEFAULT '' CHECK (length(text) <= 500),
        rated_by text NOT NULL CHECK (length(rated_by) BETWEEN 1 AND 140),
        at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, ticket_id),
        FOREIGN KEY (merchant_id, ticket_id) REFERENCES ticket
    )""",
)

NOTICES = (
    """
    CREATE TABLE notice (
        merchant_id uuid NOT NULL REFERENCES merchant,
        notice_id uuid NOT NULL,
        kind text NOT NULL CHECK (kind ~ '^[a-z_]{1,40}([.][a-z_]{1,40}){1,3}$'),
        object text NOT NULL CHECK (length(object) BETWEEN 1 AND 100),
        happened_at timestamptz NOT NULL,
        data jsonb NOT NULL CHECK (jsonb_typeof(data) = 'object' AND length(data::text) <= 8000),
        read_by text CHECK (length(read_by) BETWEEN 1 AND 140),
        read_at timestamptz,
        PRIMARY KEY (merchant_id, notice_id),
        CONSTRAINT notice_once UNIQUE (merchant_id, object, kind),
        CHECK ((read_by IS NULL) = (read_at IS NULL))
    )""",
    "CREATE INDEX notice_unread ON notice (merchant_id, notice_id) WHERE read_at IS NULL",
    # Each choice for ever; the newest counts. None: English.
    """
    CREATE TABLE notice_language (
        merchant_id uuid NOT NULL REFERENCES merchant,
        number integer NOT NULL CHECK (number >= 1),
        language text NOT NULL CHECK (language IN ('en', 'zh')),
        set_by text NOT NULL CHECK (length(set_by) BETWEEN 1 AND 140),
        set_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (merchant_id, number)
    )""",
    """
    CREATE FUNCTION keep_notice_read() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'notice: who read it first stays' USING ERRCODE = '23514';
    END $$""",
    """CREATE TRIGGER notice_read_stays BEFORE UPDATE ON notice FOR EACH ROW
    WHEN (OLD.read_at IS NOT NULL AND (OLD.read_at, OLD.read_by) IS DISTINCT FROM (NEW.read_at, NEW.read_by)) EXECUTE FUNCTION keep_notice_read()""",
    "GRANT SELECT ON notice, notice_language TO switch_writer, switch_reader",
    "GRANT INSERT ON notice, notice_language TO switch_writer",
    "GRANT UPDATE (read_by, read_at) ON notice TO switch_writer",
)

LIFE = (
    """
    CREATE FUNCTION refuse_ticket_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'ticket: % may not become %, or what it is about changed', OLD.state, NEW.state USING ERRCODE = '23514';
    END $$""",
    # A call about a missed deadline is no step: version and state stay.
    f"""
    CREATE TRIGGER ticket_life BEFORE UPDATE ON ticket FOR EACH ROW
    WHEN ((NEW.version <> OLD.version
           AND (NEW.version <> OLD.version + 1 OR (OLD.state || '>' || NEW.state) NOT IN ({", ".join(f"'{step}'" for step in STEPS)})))
          OR (NEW.version = OLD.version
              AND (NEW.state, NEW.assignee, NEW.reopened, NEW.severity) IS DISTINCT FROM (OLD.state, OLD.assignee, OLD.reopened, OLD.severity))
          OR (OLD.merchant_id, OLD.ticket_id, OLD.store_id, OLD.terminal_id, OLD.transaction_id, OLD.subject, OLD.opened_by, OLD.opened_at)
             IS DISTINCT FROM (NEW.merchant_id, NEW.ticket_id, NEW.store_id, NEW.terminal_id, NEW.transaction_id, NEW.subject, NEW.opened_by,
                               NEW.opened_at))
    EXECUTE FUNCTION refuse_ticket_change()""",
    """
    CREATE FUNCTION require_ticket_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM ticket_event e WHERE e.ticket_id = NEW.ticket_id AND e.number = NEW.version AND e.state = NEW.state) THEN
            RAISE EXCEPTION 'a step of a ticket is recorded with who, when and why' USING ERRCODE = '23514';
        END IF;
        RETURN NULL;
    END $$""",
    """CREATE CONSTRAINT TRIGGER ticket_recorded AFTER INSERT OR UPDATE ON ticket DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION require_ticket_event()""",
    """
    CREATE FUNCTION require_closed_ticket() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NOT EXISTS (SELECT FROM ticket t WHERE t.merchant_id = NEW.merchant_id AND t.ticket_id = NEW.ticket_id AND t.state = 'closed') THEN
            RAISE EXCEPTION 'a ticket is rated when it is closed' USING ERRCODE = '23514', CONSTRAINT = 'ticket_rating_closed';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER ticket_rating_closed BEFORE INSERT ON ticket_rating FOR EACH ROW EXECUTE FUNCTION require_closed_ticket()",
)

# A person of support has a key of their own, of no merchant, for tickets alone.
CALLERS = (
    "ALTER TABLE api_key DROP CONSTRAINT api_key_role, DROP CONSTRAINT api_key_merchant",
    """ALTER TABLE api_key ADD CONSTRAINT api_key_role CHECK (role IN ('terminal', 'merchant', 'operator', 'applicant', 'support')),
       ADD CONSTRAINT api_key_merchant CHECK ((role IN ('operator', 'applicant', 'support')) = (merchant_id IS NULL)),
       ADD CONSTRAINT api_key_support CHECK (role <> 'support' OR person IS NOT NULL)""",
)

ROLES = (
    "GRANT SELECT ON ticket, ticket_event, ticket_term, ticket_rating TO switch_writer, switch_reader",
    "GRANT INSERT ON ticket, ticket_event, ticket_rating TO switch_writer",
    """GRANT UPDATE (state, version, assignee, reopened, answer_by, resolve_by, answer_missed_at, resolve_missed_at, state_since)
    ON ticket TO switch_writer""",
    "GRANT UPDATE (answer_minutes, resolve_minutes, set_by, set_at) ON ticket_term TO switch_writer",
)


def upgrade() -> None:
    for statement in (*TABLES, *NOTICES, *LIFE, *CALLERS, *ROLES):
        op.execute(statement)
