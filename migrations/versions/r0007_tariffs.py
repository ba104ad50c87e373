"""Tariffs of merchants and costs of acquirers as terms with effective dates; nothing is overwritten, a new row holds instead."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATEMENTS = (
    # Of one date the highest version holds. created_by: the person, or who brought it.
    *(f"""
    CREATE TABLE {table} (
        {ident}_id uuid PRIMARY KEY,
        {owner}_id uuid NOT NULL REFERENCES {owner},
        effective_from date NOT NULL,
        version integer NOT NULL DEFAULT 1 CHECK (version BETWEEN 1 AND 10000),
        terms jsonb NOT NULL CHECK (jsonb_typeof(terms) = 'object'),
        created_by text NOT NULL CHECK (length(created_by) BETWEEN 1 AND 120),
        created_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT {table}_version UNIQUE ({owner}_id, effective_from, version)
    )""" for table, ident, owner in (("merchant_tariff", "tariff", "merchant"), ("acquirer_cost", "cost", "acquirer"))),
    # The flat rates of `tariff` as terms with one rule for every currency. The table stays for the release before this one, whose rows come
    # over by the trigger.
    """
    CREATE FUNCTION flat_terms(basis_points integer) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
        SELECT jsonb_build_object('name', 'Flat rate', 'currency', '*', 'rounding', 'half_even',
            'rules', jsonb_build_array(jsonb_build_object('name', 'All sales', 'price', jsonb_build_object('basis_points', basis_points))))
    $$""",
    """INSERT INTO merchant_tariff (tariff_id, merchant_id, effective_from, terms, created_by)
       SELECT gen_random_uuid(), merchant_id, effective_from, flat_terms(basis_points), 'flat tariff' FROM tariff""",
    """
    CREATE FUNCTION take_flat_tariff() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO merchant_tariff (tariff_id, merchant_id, effective_from, terms, created_by)
        VALUES (gen_random_uuid(), NEW.merchant_id, NEW.effective_from, flat_terms(NEW.basis_points), 'flat tariff');
        RETURN NULL;
    END $$""",
    "CREATE TRIGGER tariff_as_terms AFTER INSERT ON tariff FOR EACH ROW EXECUTE FUNCTION take_flat_tariff()",
    # A day that is being settled, or is settled, keeps its prices: those of an acquirer, and those of a merchant that sold on it. The lock makes
    # whoever ends a day wait for the terms, or the terms for him.
    """
    CREATE FUNCTION refuse_closed_terms() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE
        of_acquirer uuid := to_jsonb(NEW) ->> 'acquirer_id';
        of_merchant uuid := to_jsonb(NEW) ->> 'merchant_id';
    BEGIN
        PERFORM FROM business_day d WHERE d.business_date >= NEW.effective_from AND d.acquirer_id = coalesce(of_acquirer, d.acquirer_id) FOR SHARE;
        IF EXISTS (SELECT FROM business_day d WHERE d.business_date >= NEW.effective_from AND d.state <> 'open'
                   AND d.acquirer_id = coalesce(of_acquirer, d.acquirer_id)
                   AND (of_merchant IS NULL OR EXISTS (SELECT FROM transaction t WHERE t.merchant_id = of_merchant
                                                       AND t.acquirer_id = d.acquirer_id AND t.business_date = d.business_date))) THEN
            RAISE EXCEPTION '%: a business day from % on is closed', TG_TABLE_NAME, NEW.effective_from
                USING ERRCODE = '23514', CONSTRAINT = 'terms_of_open_days';
        END IF;
        RETURN NEW;
    END $$""",
    """
    CREATE FUNCTION refuse_terms_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        RAISE EXCEPTION '%: what was agreed stays; add a row that holds instead', TG_TABLE_NAME USING ERRCODE = '23514';
    END $$""",
    *(statement for table in ("merchant_tariff", "acquirer_cost") for statement in (
        f"CREATE TRIGGER {table}_of_open_days BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_closed_terms()",
        f"CREATE TRIGGER {table}_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_terms_change()",
        f"GRANT SELECT ON {table} TO switch_writer, switch_reader",
        f"GRANT INSERT ON {table} TO switch_writer",
    )),
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
