"""Settlement: calendars, the ledger, cut-overs with their steps, settlements and their lines; a closed day takes no intent any more.

Amounts are minor units. A ledger balance is credits minus debits. In a line `gross` is signed from the merchant's point of view, and fees
and costs are positive when they are charged.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

CALENDARS = (
    # weekend: ISO numbers of the days off (Monday is 1). A row of business_calendar is an exception from it, in either direction;
    # 'plain' is what was one.
    """
    CREATE TABLE calendar (
        calendar text PRIMARY KEY CHECK (calendar ~ '^[a-z0-9][a-z0-9_-]{0,39}$'),
        weekend smallint[] NOT NULL CHECK (weekend <@ '{1,2,3,4,5,6,7}'::smallint[] AND cardinality(weekend) < 7)
    )""",
    """
    CREATE TABLE business_calendar (
        calendar text NOT NULL REFERENCES calendar,
        day date NOT NULL,
        kind text NOT NULL CHECK (kind IN ('holiday', 'workday', 'plain')),
        PRIMARY KEY (calendar, day)
    )""",
    "INSERT INTO calendar (calendar, weekend) VALUES ('daily', '{}'), ('weekdays', '{6,7}')",
    # cut_over_minute: when its business day ends, in minutes of its wall clock after the day's first midnight; 1440 is the next midnight.
    """
    ALTER TABLE acquirer
        ADD COLUMN calendar text NOT NULL DEFAULT 'daily' REFERENCES calendar,
        ADD COLUMN cut_over_minute smallint NOT NULL DEFAULT 1440 CHECK (cut_over_minute BETWEEN 0 AND 2879)""",
    # funding_days: T+n in business days of its calendar. reserve_days: calendar days. minimum_payout: minor units of each currency.
    """
    ALTER TABLE merchant
        ADD COLUMN calendar text NOT NULL DEFAULT 'weekdays' REFERENCES calendar,
        ADD COLUMN funding_days smallint NOT NULL DEFAULT 1 CHECK (funding_days BETWEEN 0 AND 60),
        ADD COLUMN minimum_payout bigint NOT NULL DEFAULT 0 CHECK (minimum_payout >= 0),
        ADD COLUMN reserve_basis_points integer NOT NULL DEFAULT 0 CHECK (reserve_basis_points BETWEEN 0 AND 10000),
        ADD COLUMN reserve_days smallint NOT NULL DEFAULT 180 CHECK (reserve_days BETWEEN 1 AND 730)""",
    "CREATE OR REPLACE VIEW directory_acquirer AS SELECT * FROM acquirer",
    "CREATE OR REPLACE VIEW directory_merchant AS SELECT * FROM merchant",
    "ALTER TABLE business_day ADD COLUMN closed_at timestamptz",
    "CREATE OR REPLACE VIEW directory_business_day AS SELECT * FROM business_day",
    # What a worker has confirmed that it knows of the directory.
    "ALTER TABLE worker ADD COLUMN directory_version bigint NOT NULL DEFAULT 0",
)

LEDGER = (
    """
    CREATE TABLE account (
        account_id uuid PRIMARY KEY,
        kind text NOT NULL CHECK (kind IN ('merchant', 'acquirer', 'fee', 'cost', 'tax', 'reserve', 'hold', 'suspense', 'bank', 'loss', 'payout',
                                           'dispute')),
        merchant_id uuid REFERENCES merchant,
        acquirer_id uuid REFERENCES acquirer,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        created_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE NULLS NOT DISTINCT (kind, merchant_id, acquirer_id, currency),
        UNIQUE (account_id, currency),
        CONSTRAINT account_of_its_kind CHECK ((kind IN ('merchant', 'reserve', 'hold', 'payout', 'dispute')) = (merchant_id IS NOT NULL)
                                              AND (kind <> 'acquirer' OR acquirer_id IS NOT NULL)
                                              AND (merchant_id IS NULL OR acquirer_id IS NULL))
    )""",
    "CREATE INDEX account_of_merchant ON account (merchant_id) WHERE merchant_id IS NOT NULL",
    # One amount, one currency, two accounts: it sums to zero by its form. Corrections are new transfers.
    """
    CREATE TABLE transfer (
        transfer_id uuid PRIMARY KEY,
        debit_account uuid NOT NULL,
        credit_account uuid NOT NULL,
        amount bigint NOT NULL CONSTRAINT transfer_amount_positive CHECK (amount > 0),
        currency text NOT NULL,
        cause text NOT NULL CHECK (cause ~ '^[a-z][a-z_]{0,39}$'),
        object text NOT NULL CHECK (length(object) BETWEEN 1 AND 64),
        business_date date NOT NULL,
        posted_at timestamptz NOT NULL DEFAULT now(),
        note text NOT NULL DEFAULT '' CHECK (length(note) <= 500),
        corrects uuid REFERENCES transfer,
        posting_key text NOT NULL UNIQUE CHECK (length(posting_key) BETWEEN 1 AND 200),
        CONSTRAINT transfer_between_two CHECK (debit_account <> credit_account),
        CONSTRAINT transfer_debit FOREIGN KEY (debit_account, currency) REFERENCES account (account_id, currency),
        CONSTRAINT transfer_credit FOREIGN KEY (credit_account, currency) REFERENCES account (account_id, currency)
    )""",
    "CREATE INDEX transfer_debits ON transfer (debit_account, posted_at) INCLUDE (amount)",
    "CREATE INDEX transfer_credits ON transfer (credit_account, posted_at) INCLUDE (amount)",
    "CREATE INDEX transfer_of_object ON transfer (object)",
    """
    CREATE FUNCTION refuse_ledger_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '%: what is posted stays; post a transfer that corrects it', TG_TABLE_NAME USING ERRCODE = '23514';
    END $$""",
    *(f"CREATE TRIGGER {table}_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_ledger_change()"
      for table in ("account", "transfer")),
    # Each transfer seen from its two accounts: `amount` is signed, credits are positive.
    """
    CREATE VIEW ledger_entry AS
        SELECT credit_account AS account_id, debit_account AS other_account_id, amount, currency, transfer_id, cause, object, business_date,
          posted_at, note, corrects FROM transfer
        UNION ALL
        SELECT debit_account, credit_account, -amount, currency, transfer_id, cause, object, business_date, posted_at, note, corrects
        FROM transfer""",
    # What is kept back from a merchant by a person: an amount (moved to its hold account), or all payouts (amount is null).
    """
    CREATE TABLE merchant_hold (
        merchant_id uuid NOT NULL REFERENCES merchant,
        hold_id uuid NOT NULL,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        amount bigint CHECK (amount > 0),
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        placed_by text NOT NULL,
        placed_at timestamptz NOT NULL DEFAULT now(),
        released_by text,
        released_at timestamptz,
        PRIMARY KEY (merchant_id, hold_id),
        CHECK ((released_by IS NULL) = (released_at IS NULL))
    )""",
    # The same request twice is one hold.
    """CREATE UNIQUE INDEX merchant_hold_once ON merchant_hold (merchant_id, currency, coalesce(amount, 0), reason) WHERE released_at IS NULL""",
)

CUT_OVER = (
    # epoch: of the runner that holds it; every commit of a runner compares it.
    """
    CREATE TABLE cutover (
        acquirer_id uuid NOT NULL,
        business_date date NOT NULL,
        next_date date NOT NULL CHECK (next_date > business_date),
        epoch bigint NOT NULL DEFAULT 1,
        started_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        PRIMARY KEY (acquirer_id, business_date),
        FOREIGN KEY (acquirer_id, business_date) REFERENCES business_day
    )""",
    """
    CREATE TABLE cutover_step (
        acquirer_id uuid NOT NULL,
        business_date date NOT NULL,
        step text NOT NULL CHECK (step IN ('open', 'confirm', 'wait', 'take', 'price', 'post', 'state')),
        state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'done')),
        started_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        detail jsonb NOT NULL DEFAULT '{}',
        PRIMARY KEY (acquirer_id, business_date, step),
        FOREIGN KEY (acquirer_id, business_date) REFERENCES cutover,
        CHECK ((state = 'done') = (ended_at IS NOT NULL))
    )""",
    # A transaction of a closed day that had no outcome when the day was taken, or that moved since. settled_on: the business date at whose
    # cut-over it was looked at and found final. change: another one at each move, so that nobody marks a move that he has not seen.
    """
    CREATE TABLE late_change (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        acquirer_id uuid NOT NULL,
        for_date date NOT NULL,
        noticed_at timestamptz NOT NULL DEFAULT now(),
        settled_on date,
        change bigint GENERATED ALWAYS AS IDENTITY,
        PRIMARY KEY (merchant_id, transaction_id)
    )""",
    "CREATE INDEX late_change_waiting ON late_change (acquirer_id) WHERE settled_on IS NULL",
    # A cut-over reads the day; rows lie in the order of their days, and a BRIN costs an insert next to nothing.
    "CREATE INDEX transaction_business_date ON transaction USING brin (business_date) WITH (pages_per_range = 32, autosummarize = on)",
)

SETTLEMENTS = (
    """
    CREATE TABLE settlement (
        merchant_id uuid NOT NULL REFERENCES merchant,
        settlement_id uuid NOT NULL,
        acquirer_id uuid NOT NULL,
        business_date date NOT NULL,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        state text NOT NULL DEFAULT 'priced' CHECK (state IN ('priced', 'posted', 'stated')),
        sales_count integer NOT NULL DEFAULT 0 CHECK (sales_count >= 0),
        sales bigint NOT NULL DEFAULT 0 CHECK (sales >= 0),
        refunds_count integer NOT NULL DEFAULT 0 CHECK (refunds_count >= 0),
        refunds bigint NOT NULL DEFAULT 0 CHECK (refunds >= 0),
        adjustments_count integer NOT NULL DEFAULT 0 CHECK (adjustments_count >= 0),
        adjustments bigint NOT NULL DEFAULT 0,
        fees bigint NOT NULL DEFAULT 0,
        tax bigint NOT NULL DEFAULT 0,
        costs bigint NOT NULL DEFAULT 0,
        net bigint NOT NULL,
        reserve_held bigint NOT NULL DEFAULT 0 CHECK (reserve_held >= 0),
        reserve_release_on date,
        reserve_released_at timestamptz,
        due_on date NOT NULL,
        payout_id uuid,
        extras jsonb NOT NULL DEFAULT '[]',
        priced_at timestamptz NOT NULL DEFAULT now(),
        posted_at timestamptz,
        stated_at timestamptz,
        PRIMARY KEY (merchant_id, settlement_id),
        CONSTRAINT settlement_of_a_day UNIQUE (acquirer_id, business_date, merchant_id, currency),
        FOREIGN KEY (acquirer_id, business_date) REFERENCES cutover,
        CONSTRAINT settlement_net CHECK (net = sales - refunds + adjustments - fees - tax),
        CHECK ((reserve_held > 0) = (reserve_release_on IS NOT NULL))
    )""",
    "CREATE UNIQUE INDEX settlement_by_id ON settlement (settlement_id)",
    "CREATE INDEX settlement_waiting ON settlement (acquirer_id, business_date, settlement_id) WHERE state <> 'stated'",
    "CREATE INDEX settlement_reserve ON settlement (reserve_release_on) WHERE reserve_held > 0 AND reserve_released_at IS NULL",
    # One line per transaction and settlement. A transaction settles once, in the settlement of its own day; later differences are adjustments,
    # each naming that day.
    """
    CREATE TABLE settlement_line (
        merchant_id uuid NOT NULL,
        settlement_id uuid NOT NULL,
        business_date date NOT NULL,
        transaction_id uuid NOT NULL,
        acquirer_id uuid NOT NULL,
        kind text NOT NULL CHECK (kind IN ('sale', 'refund', 'adjustment')),
        type text NOT NULL,
        for_date date NOT NULL,
        gross bigint NOT NULL,
        fee bigint NOT NULL,
        interchange bigint NOT NULL DEFAULT 0,
        scheme_fee bigint NOT NULL DEFAULT 0,
        acquirer_fee bigint NOT NULL DEFAULT 0,
        margin bigint GENERATED ALWAYS AS (fee - interchange - scheme_fee - acquirer_fee) STORED,
        currency text NOT NULL,
        tariff_id uuid,
        rule text NOT NULL,
        original_id uuid,
        store_id uuid NOT NULL,
        terminal_id uuid NOT NULL,
        brand text NOT NULL,
        card_type text NOT NULL,
        entry_mode text NOT NULL,
        mcc text NOT NULL,
        card_last4 text NOT NULL,
        rrn text NOT NULL,
        stan text NOT NULL,
        acquirer_rrn text,
        approval_code text,
        reference text,
        captured_at timestamptz NOT NULL,
        PRIMARY KEY (merchant_id, transaction_id, business_date),
        FOREIGN KEY (merchant_id, settlement_id) REFERENCES settlement DEFERRABLE INITIALLY DEFERRED,
        CONSTRAINT line_names_its_day CHECK (CASE kind WHEN 'adjustment' THEN for_date < business_date ELSE for_date = business_date END),
        CONSTRAINT line_sign CHECK (CASE kind WHEN 'sale' THEN gross > 0 WHEN 'refund' THEN gross < 0 ELSE true END)
    )""",
    "CREATE INDEX settlement_line_of ON settlement_line (settlement_id, transaction_id)",
)

# An intent takes the day's lock for reading, whoever closes the day takes it for writing: then either the cut-over sees the row, or the row
# the closed day. Advisory, since a lock on the day's row would write that row for each sale.
CLOSED_DAYS = (
    """
    CREATE FUNCTION day_lock(acquirer_id uuid, business_date date) RETURNS integer LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT uuid_hash(acquirer_id) # (business_date - date '2000-01-01') $$""",
    # Once per statement. The capture that a dual-message sale owes by itself comes with its outcome and is never refused: it settles late.
    """
    CREATE FUNCTION refuse_closed_day() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        day record;
    BEGIN
        FOR day IN SELECT DISTINCT w.acquirer_id, w.business_date FROM written w LOOP
            PERFORM pg_advisory_xact_lock_shared(3583010, day_lock(day.acquirer_id, day.business_date));
            IF EXISTS (SELECT FROM business_day d WHERE d.acquirer_id = day.acquirer_id AND d.business_date = day.business_date
                       AND d.state = 'closed') THEN
                IF EXISTS (SELECT FROM written w WHERE w.acquirer_id = day.acquirer_id AND w.business_date = day.business_date
                           AND (w.type <> 'capture' OR w.idempotency_key IS NOT NULL)) THEN
                    RAISE EXCEPTION 'transaction: business day % of the acquirer is closed', day.business_date
                        USING ERRCODE = '23514', CONSTRAINT = 'business_day_open';
                END IF;
                INSERT INTO late_change (merchant_id, transaction_id, acquirer_id, for_date)
                SELECT w.merchant_id, w.transaction_id, w.acquirer_id, w.business_date FROM written w
                WHERE w.acquirer_id = day.acquirer_id AND w.business_date = day.business_date;
            END IF;
        END LOOP;
        RETURN NULL;
    END $$""",
    """
    CREATE TRIGGER transaction_day_open AFTER INSERT ON transaction REFERENCING NEW TABLE AS written
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_closed_day()""",
    # What had an outcome when its day was taken and moves afterwards. What was SENT then is listed by the cut-over itself, so that an outcome
    # only compares its old state here.
    """
    CREATE FUNCTION notice_late_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock_shared(3583010, day_lock(NEW.acquirer_id, NEW.business_date));
        INSERT INTO late_change (merchant_id, transaction_id, acquirer_id, for_date)
        SELECT NEW.merchant_id, NEW.transaction_id, NEW.acquirer_id, NEW.business_date FROM business_day d
        WHERE d.acquirer_id = NEW.acquirer_id AND d.business_date = NEW.business_date AND d.state = 'closed'
        ON CONFLICT (merchant_id, transaction_id) DO UPDATE SET settled_on = NULL, noticed_at = now(), change = DEFAULT;
        RETURN NULL;
    END $$""",
    """
    CREATE TRIGGER transaction_moves_late AFTER UPDATE ON transaction FOR EACH ROW
    WHEN (OLD.state <> 'SENT' AND NEW.state <> OLD.state) EXECUTE FUNCTION notice_late_change()""",
    """
    CREATE FUNCTION refuse_reopening() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION 'business_day: a closed day stays closed' USING ERRCODE = '23514';
    END $$""",
    """CREATE TRIGGER business_day_stays_closed BEFORE UPDATE ON business_day FOR EACH ROW
       WHEN (OLD.state = 'closed' AND NEW.state <> 'closed') EXECUTE FUNCTION refuse_reopening()""",
)

TABLES = ("calendar", "business_calendar", "account", "transfer", "merchant_hold", "cutover", "cutover_step", "late_change", "settlement",
          "settlement_line")

ROLES = (
    f"GRANT SELECT ON {', '.join(TABLES)}, ledger_entry TO switch_writer, switch_reader",
    f"GRANT INSERT ON {', '.join(TABLES)} TO switch_writer",
    "GRANT UPDATE (weekend) ON calendar TO switch_writer",
    "GRANT UPDATE (kind) ON business_calendar TO switch_writer",
    "GRANT UPDATE (released_by, released_at) ON merchant_hold TO switch_writer",
    "GRANT UPDATE (epoch, ended_at) ON cutover TO switch_writer",
    "GRANT UPDATE (state, ended_at, detail) ON cutover_step TO switch_writer",
    "GRANT UPDATE (settled_on) ON late_change TO switch_writer",
    "GRANT UPDATE (state, posted_at, stated_at, payout_id, reserve_released_at) ON settlement TO switch_writer",
)


def upgrade() -> None:
    for statement in (*CALENDARS, *LEDGER, *CUT_OVER, *SETTLEMENTS, *CLOSED_DAYS, *ROLES):
        op.execute(statement)
