"""Risk: rules, lists and merchants' limits as data, what they hit, and the desk where people look at it.

Amounts are minor units of the one currency. A time is hh:mm where the merchant is. A hit of a sale that goes on rides in the commit of its
outcome: the journal writes an event of the kind `risk`, and the trigger makes the hits of it. A card is named by its token.
"""

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

STEPS = ("state", "activated_by", "activated_at", "retired_by", "retired_at")
_time = "~ '^([01][0-9]|2[0-3]):[0-5][0-9]$'"
_life = """
        state text NOT NULL DEFAULT 'draft' CHECK (state IN ('draft', 'active', 'retired')),
        created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 120),
        created_at timestamptz NOT NULL DEFAULT now(),
        activated_by text,
        activated_at timestamptz,
        retired_by text,
        retired_at timestamptz,
        CHECK ((activated_by IS NULL) = (activated_at IS NULL)
               AND CASE state WHEN 'draft' THEN activated_at IS NULL WHEN 'active' THEN activated_at IS NOT NULL ELSE true END),
        CHECK ((state = 'retired') = (retired_at IS NOT NULL) AND (retired_by IS NULL) = (retired_at IS NULL))"""

RULES = (
    f"""
    CREATE TABLE risk_rule (
        rule_id uuid PRIMARY KEY,
        name text NOT NULL CHECK (length(name) BETWEEN 1 AND 120),
        kind text NOT NULL CHECK (kind IN ('velocity', 'amount', 'night', 'split', 'refund_ratio', 'card_testing', 'card_spread')),
        action text NOT NULL CHECK (action IN ('flag', 'hold', 'decline', 'block')),
        blocks text CHECK (blocks IN ('card', 'terminal')),
        merchant_id uuid REFERENCES merchant,
        mccs text[] CHECK (cardinality(mccs) >= 1),
        brands text[] CHECK (cardinality(brands) >= 1),
        entry_modes text[] CHECK (cardinality(entry_modes) >= 1),
        currency text CHECK (currency ~ '^[A-Z]{{3}}$'),
        subject text CHECK (subject IN ('card', 'terminal', 'merchant', 'store')),
        window_s integer CHECK (window_s BETWEEN 1 AND 604800),
        count_max integer CHECK (count_max BETWEEN 0 AND 1000000),
        amount_min bigint CHECK (amount_min >= 0),
        amount_max bigint CHECK (amount_max >= 0),
        basis_points integer CHECK (basis_points BETWEEN 1 AND 10000),
        time_from text CHECK (time_from {_time}),
        time_until text CHECK (time_until {_time}),{_life},
        CHECK ((action = 'block') = (blocks IS NOT NULL)),
        CHECK ((time_from IS NULL) = (time_until IS NULL) AND time_from <> time_until),
        CHECK (amount_min IS NULL AND amount_max IS NULL OR currency IS NOT NULL)
    )""",
    # Per currency one in force at most; a sale in a currency without one is refused where the merchant has limits.
    f"""
    CREATE TABLE merchant_limit (
        limit_id uuid PRIMARY KEY,
        merchant_id uuid NOT NULL REFERENCES merchant,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{{3}}$'),
        per_sale bigint CHECK (per_sale >= 0),
        per_day bigint CHECK (per_day >= 0),
        per_month bigint CHECK (per_month >= 0),{_life},
        CHECK (num_nonnulls(per_sale, per_day, per_month) >= 1)
    )""",
    "CREATE UNIQUE INDEX merchant_limit_in_force ON merchant_limit (merchant_id, currency) WHERE state = 'active'",
    # One entry in force per card, terminal or merchant. `value`: the token in hex, or the id.
    """
    CREATE TABLE risk_entry (
        entry_id uuid PRIMARY KEY,
        subject text NOT NULL CHECK (subject IN ('card', 'terminal', 'merchant')),
        value text NOT NULL CHECK (value ~ '^[0-9a-f]{64}$' AND subject = 'card'
                                   OR value ~ '^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$' AND subject <> 'card'),
        verdict text NOT NULL CHECK (verdict IN ('allow', 'block')),
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        rule_id uuid REFERENCES risk_rule,
        created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 120),
        created_at timestamptz NOT NULL DEFAULT now(),
        ended_by text,
        ended_at timestamptz,
        CHECK ((ended_by IS NULL) = (ended_at IS NULL))
    )""",
    "CREATE UNIQUE INDEX risk_entry_in_force ON risk_entry (subject, value) WHERE ended_at IS NULL",
    f"""
    CREATE FUNCTION keep_risk() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        steps text[] := '{{{",".join(STEPS)}}}';
    BEGIN
        IF to_jsonb(OLD) - steps <> to_jsonb(NEW) - steps OR OLD.state || '>' || NEW.state NOT IN ('draft>active', 'draft>retired', 'active>retired')
           OR (OLD.activated_at IS NOT NULL AND (OLD.activated_at, OLD.activated_by) IS DISTINCT FROM (NEW.activated_at, NEW.activated_by)) THEN
            RAISE EXCEPTION '%: what was written stays, and % may not become %', TG_TABLE_NAME, OLD.state, NEW.state
                USING ERRCODE = '23514', CONSTRAINT = 'risk_stays';
        END IF;
        RETURN NEW;
    END $$""",
    *(f"CREATE TRIGGER risk_stays BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION keep_risk()" for table in ("risk_rule", "merchant_limit")),
    """
    CREATE FUNCTION keep_risk_entry() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.ended_at IS NOT NULL THEN
            RAISE EXCEPTION 'risk_entry: what has ended stays ended' USING ERRCODE = '23514', CONSTRAINT = 'risk_stays';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER risk_stays BEFORE UPDATE ON risk_entry FOR EACH ROW EXECUTE FUNCTION keep_risk_entry()",
    *(f"CREATE TRIGGER log_change AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION log_directory_change('{key}')"
      for table, key in (("risk_rule", "rule_id"), ("merchant_limit", "limit_id"), ("risk_entry", "entry_id"))),
    *(f"CREATE VIEW directory_{table} AS SELECT * FROM {table}" for table in ("risk_rule", "merchant_limit", "risk_entry")),
)

HITS = (
    # `source_id`: of the rule, limit or list entry. A refused sale has no transaction: its key stays free, and its next try is the same hit.
    """
    CREATE TABLE risk_hit (
        hit_id uuid PRIMARY KEY,
        merchant_id uuid NOT NULL REFERENCES merchant,
        store_id uuid NOT NULL,
        terminal_id uuid NOT NULL,
        transaction_id uuid,
        idempotency_key text NOT NULL,
        source text NOT NULL CHECK (source IN ('rule', 'limit', 'list')),
        source_id uuid NOT NULL,
        kind text NOT NULL,
        action text NOT NULL CHECK (action IN ('flag', 'hold', 'decline', 'block')),
        why text NOT NULL CHECK (length(why) BETWEEN 1 AND 500),
        figures jsonb NOT NULL DEFAULT '{}',
        pan_token bytea NOT NULL,
        masked_pan text NOT NULL CHECK (masked_pan !~ '[0-9]{9}'),
        amount bigint NOT NULL,
        currency text NOT NULL,
        hit_at timestamptz NOT NULL,
        times integer NOT NULL DEFAULT 1,
        last_at timestamptz NOT NULL DEFAULT now(),
        state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'dismissed', 'confirmed')),
        decided_by text,
        decided_at timestamptz,
        reason text CHECK (length(reason) BETWEEN 1 AND 500),
        held text CHECK (held IN ('wanted', 'placed', 'not_needed', 'released')),
        CHECK ((state = 'open') = (decided_at IS NULL) AND (decided_by IS NULL) = (decided_at IS NULL) AND (reason IS NULL) = (decided_at IS NULL)),
        CHECK ((action = 'hold') = (held IS NOT NULL))
    )""",
    "CREATE UNIQUE INDEX risk_hit_once ON risk_hit (merchant_id, terminal_id, idempotency_key, source_id)",
    "CREATE INDEX risk_hit_open ON risk_hit (hit_id) WHERE state = 'open'",
    "CREATE INDEX risk_hit_held ON risk_hit (hit_id) WHERE held = 'wanted'",
    "CREATE INDEX risk_hit_dismissed ON risk_hit (hit_id) WHERE held = 'placed' AND state = 'dismissed'",
    "CREATE INDEX risk_hit_transaction ON risk_hit (transaction_id) WHERE transaction_id IS NOT NULL",
    """
    CREATE FUNCTION record_risk_hits(hits jsonb, of_transaction uuid) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
        hit record;
    BEGIN
        FOR hit IN SELECT * FROM jsonb_to_recordset(hits) AS h(hit_id uuid, merchant_id uuid, store_id uuid, terminal_id uuid, idempotency_key text,
            source text, source_id uuid, kind text, action text, blocks text, why text, figures jsonb, pan_token text, masked_pan text,
            amount bigint, currency text, hit_at timestamptz, transaction_id uuid) LOOP
            INSERT INTO risk_hit (hit_id, merchant_id, store_id, terminal_id, transaction_id, idempotency_key, source, source_id, kind, action, why,
                figures, pan_token, masked_pan, amount, currency, hit_at, held)
            VALUES (hit.hit_id, hit.merchant_id, hit.store_id, hit.terminal_id, coalesce(of_transaction, hit.transaction_id), hit.idempotency_key,
                hit.source, hit.source_id, hit.kind, hit.action, hit.why, hit.figures, decode(hit.pan_token, 'hex'), hit.masked_pan, hit.amount,
                hit.currency, hit.hit_at, CASE WHEN hit.action = 'hold' THEN
                    CASE WHEN coalesce(of_transaction, hit.transaction_id) IS NULL THEN 'not_needed' ELSE 'wanted' END END)
            ON CONFLICT (merchant_id, terminal_id, idempotency_key, source_id) DO UPDATE SET
                times = risk_hit.times + (risk_hit.hit_id <> EXCLUDED.hit_id)::int, last_at = now(),
                transaction_id = coalesce(risk_hit.transaction_id, EXCLUDED.transaction_id),
                held = CASE WHEN risk_hit.transaction_id IS NULL AND EXCLUDED.held = 'wanted' THEN 'wanted' ELSE risk_hit.held END;
            IF hit.blocks IS NOT NULL THEN
                INSERT INTO risk_entry (entry_id, subject, value, verdict, reason, rule_id, created_by)
                VALUES (hit.hit_id, hit.blocks, CASE hit.blocks WHEN 'card' THEN hit.pan_token ELSE hit.terminal_id::text END, 'block', hit.why,
                    hit.source_id, 'risk rule')
                ON CONFLICT DO NOTHING;
            END IF;
        END LOOP;
    END $$""",
    """
    CREATE FUNCTION take_risk_event() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM record_risk_hits(NEW.detail -> 'hits', NEW.transaction_id);
        RETURN NULL;
    END $$""",
    """CREATE TRIGGER transaction_event_risk AFTER INSERT ON transaction_event FOR EACH ROW WHEN (NEW.kind = 'risk')
       EXECUTE FUNCTION take_risk_event()""",
    """
    CREATE FUNCTION keep_risk_hit() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.state <> 'open' AND (OLD.state, OLD.decided_by, OLD.decided_at, OLD.reason)
                                   IS DISTINCT FROM (NEW.state, NEW.decided_by, NEW.decided_at, NEW.reason) THEN
            RAISE EXCEPTION 'risk_hit: what was decided stays' USING ERRCODE = '23514', CONSTRAINT = 'risk_stays';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER risk_stays BEFORE UPDATE ON risk_hit FOR EACH ROW EXECUTE FUNCTION keep_risk_hit()",
)

ROLES = (
    "GRANT SELECT ON risk_rule, merchant_limit, risk_entry, risk_hit, directory_risk_rule, directory_merchant_limit, directory_risk_entry "
    "TO switch_writer, switch_reader",
    "GRANT INSERT ON risk_rule, merchant_limit, risk_entry, risk_hit TO switch_writer",
    f"GRANT UPDATE ({', '.join(STEPS)}) ON risk_rule, merchant_limit TO switch_writer",
    "GRANT UPDATE (ended_by, ended_at) ON risk_entry TO switch_writer",
    "GRANT UPDATE (transaction_id, times, last_at, state, decided_by, decided_at, reason, held) ON risk_hit TO switch_writer",
)


def upgrade() -> None:
    for statement in (*RULES, *HITS, *ROLES):
        op.execute(statement)
