"""Routes as rules: conditions, splits and costs on the rows that were there, a life of their own, and attempts at other acquirers.

Amounts are minor units of the rule's one currency. A time is hh:mm where the merchant is; a weekday is 1 (Monday) to 7.
"""

from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

# What moves when a rule is switched on or off; all else stays as it was written.
STEPS = ("state", "activated_by", "activated_at", "retired_by", "retired_at")
_time = "~ '^([01][0-9]|2[0-3]):[0-5][0-9]$'"

RULES = (
    # The defaults are for what was there, and for the release before this one, whose routes hold from their first moment.
    f"""
    ALTER TABLE route
        ADD COLUMN name text CHECK (length(name) BETWEEN 1 AND 120),
        ADD COLUMN bin_low text CHECK (bin_low ~ '^[0-9]{{4,12}}$'),
        ADD COLUMN bin_high text CHECK (bin_high ~ '^[0-9]{{4,12}}$'),
        ADD COLUMN amount_min bigint CHECK (amount_min >= 0),
        ADD COLUMN amount_max bigint CHECK (amount_max >= 0),
        ADD COLUMN currencies text[] CHECK (cardinality(currencies) >= 1),
        ADD COLUMN mccs text[] CHECK (cardinality(mccs) >= 1),
        ADD COLUMN entry_modes text[] CHECK (cardinality(entry_modes) >= 1),
        ADD COLUMN weekdays smallint[] CHECK (cardinality(weekdays) >= 1 AND weekdays <@ '{{1,2,3,4,5,6,7}}'::smallint[]),
        ADD COLUMN time_from text CHECK (time_from {_time}),
        ADD COLUMN time_until text CHECK (time_until {_time}),
        ADD COLUMN weight integer CHECK (weight BETWEEN 0 AND 10000),
        ADD COLUMN cost_basis_points integer CHECK (cost_basis_points BETWEEN 0 AND 10000),
        ADD COLUMN cost_fixed bigint CHECK (cost_fixed BETWEEN 0 AND 1000000),
        ADD COLUMN healthy_percent smallint CHECK (healthy_percent BETWEEN 1 AND 100),
        ADD COLUMN state text NOT NULL DEFAULT 'active' CHECK (state IN ('draft', 'active', 'retired')),
        ADD COLUMN created_by text NOT NULL DEFAULT 'earlier release' CHECK (length(created_by) BETWEEN 1 AND 120),
        ADD COLUMN activated_by text DEFAULT 'earlier release',
        ADD COLUMN activated_at timestamptz DEFAULT now(),
        ADD COLUMN retired_by text,
        ADD COLUMN retired_at timestamptz""",
    "UPDATE route SET activated_at = created_at",
    """
    ALTER TABLE route
        ADD CONSTRAINT route_bin CHECK ((bin_low IS NULL) = (bin_high IS NULL) AND length(bin_low) = length(bin_high) AND bin_low <= bin_high),
        ADD CONSTRAINT route_amounts CHECK (amount_min <= amount_max),
        ADD CONSTRAINT route_amounts_of_one_currency CHECK (amount_min IS NULL AND amount_max IS NULL AND cost_fixed IS NULL
                                                            OR coalesce(cardinality(currencies), 0) = 1),
        ADD CONSTRAINT route_times CHECK ((time_from IS NULL) = (time_until IS NULL) AND time_from <> time_until),
        ADD CONSTRAINT route_activated CHECK ((activated_by IS NULL) = (activated_at IS NULL)
                                              AND CASE state WHEN 'draft' THEN activated_at IS NULL WHEN 'active' THEN activated_at IS NOT NULL
                                                       ELSE true END),
        ADD CONSTRAINT route_retired CHECK ((state = 'retired') = (retired_at IS NOT NULL) AND (retired_by IS NULL) = (retired_at IS NULL))""",
    f"""
    CREATE FUNCTION keep_route() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        steps text[] := '{{{",".join(STEPS)}}}';
    BEGIN
        IF to_jsonb(OLD) - steps <> to_jsonb(NEW) - steps OR OLD.state || '>' || NEW.state NOT IN ('draft>active', 'draft>retired', 'active>retired')
           OR (OLD.activated_at IS NOT NULL AND (OLD.activated_at, OLD.activated_by) IS DISTINCT FROM (NEW.activated_at, NEW.activated_by)) THEN
            RAISE EXCEPTION 'route: what was written stays, and % may not become %', OLD.state, NEW.state
                USING ERRCODE = '23514', CONSTRAINT = 'route_stays';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER route_stays BEFORE UPDATE ON route FOR EACH ROW EXECUTE FUNCTION keep_route()",
    # The release before this one reads no state and no condition: it sees the rules that it can keep.
    """
    CREATE OR REPLACE VIEW directory_route AS SELECT route_id, acquirer_id, merchant_id, brand, priority, created_at FROM route
    WHERE state = 'active' AND bin_low IS NULL AND amount_min IS NULL AND amount_max IS NULL AND currencies IS NULL AND mccs IS NULL
      AND entry_modes IS NULL AND weekdays IS NULL AND time_from IS NULL AND weight IS NULL AND healthy_percent IS NULL""",
    "CREATE VIEW directory_rule AS SELECT * FROM route",
    "GRANT SELECT ON directory_rule TO switch_writer, switch_reader",
    "REVOKE UPDATE ON route FROM switch_writer",
    f"GRANT UPDATE ({', '.join(STEPS)}) ON route TO switch_writer",
)

ATTEMPTS = (
    # Codes of declined requests after which another acquirer may be asked; NULL: those of the dialect.
    """
    ALTER TABLE acquirer ADD COLUMN reroute_codes text[]
        CHECK (array_position(reroute_codes, NULL) IS NULL AND array_to_string(reroute_codes, ',') ~ '^([0-9A-Z]{2,3}(,[0-9A-Z]{2,3})*)?$')""",
    "CREATE OR REPLACE VIEW directory_acquirer AS SELECT * FROM acquirer",
    # An attempt is a transaction of its own; the one before it never had an effect, and has one after it at most.
    "ALTER TABLE transaction ADD COLUMN attempt_of uuid",
    "CREATE UNIQUE INDEX transaction_attempt_of ON transaction (attempt_of) WHERE attempt_of IS NOT NULL",
    "CREATE OR REPLACE VIEW history_transaction AS SELECT * FROM transaction",
    # A key names the attempt that speaks for its sale. It moves on only from one that the acquirer never got or declined, in the commit
    # that says so, and only to the next attempt at the very same sale: one key has never two that may approve.
    """
    CREATE FUNCTION keep_one_sale() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF (OLD.merchant_id, OLD.caller, OLD.idempotency_key, OLD.route, OLD.fingerprint)
           IS DISTINCT FROM (NEW.merchant_id, NEW.caller, NEW.idempotency_key, NEW.route, NEW.fingerprint)
           OR NOT EXISTS (SELECT FROM transaction was JOIN transaction now_is ON now_is.attempt_of = was.transaction_id
                WHERE was.transaction_id = OLD.transaction_id AND now_is.transaction_id = NEW.transaction_id
                  AND was.state IN ('NOT_SENT', 'DECLINED') AND was.outcome = was.state AND now_is.state = 'SENT'
                  AND was.original_id IS NULL AND now_is.original_id IS NULL AND was.acquirer_id <> now_is.acquirer_id
                  AND (was.merchant_id, was.caller, was.idempotency_key, was.terminal_id, was.type, was.exchange,
                       was.amount, was.currency, was.pan_token)
                    = (now_is.merchant_id, now_is.caller, now_is.idempotency_key, now_is.terminal_id, now_is.type, now_is.exchange,
                       now_is.amount, now_is.currency, now_is.pan_token)) THEN
            RAISE EXCEPTION 'idempotency: a key names another transaction only when its sale is tried at another acquirer'
                USING ERRCODE = '23514', CONSTRAINT = 'one_sale_per_key';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER idempotency_moves BEFORE UPDATE ON idempotency FOR EACH ROW EXECUTE FUNCTION keep_one_sale()",
    "GRANT UPDATE (transaction_id) ON idempotency TO switch_writer",
)


def upgrade() -> None:
    for statement in (*RULES, *ATTEMPTS):
        op.execute(statement)
