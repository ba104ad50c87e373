"""Imports of merchants and terminals: files as they came, what was wrong in them, and by which reference of its sender a record is known."""

from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None

# What `from>to` an import may do; a test holds it against switch/merchants/bulk/sheet.py.
STEPS = ("queued>checked", "queued>refused", "queued>writing", "writing>writing", "writing>done")

IMPORTS = (
    """
    CREATE TABLE bulk_import (
        import_id uuid PRIMARY KEY,
        name text NOT NULL CHECK (length(name) <= 120),
        sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
        content bytea NOT NULL,
        lines integer NOT NULL CHECK (lines > 0),
        dry_run boolean NOT NULL,
        skip_bad boolean NOT NULL,
        state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'checked', 'refused', 'writing', 'done')),
        faults integer NOT NULL DEFAULT 0 CHECK (faults >= 0),
        written_to integer NOT NULL DEFAULT 0 CHECK (written_to >= 0),
        made jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(made) = 'object'),
        asked_by text NOT NULL CHECK (length(asked_by) BETWEEN 1 AND 140),
        asked_at timestamptz NOT NULL DEFAULT now(),
        ended_at timestamptz,
        CHECK ((state IN ('checked', 'refused', 'done')) = (ended_at IS NOT NULL)),
        CHECK (state <> 'checked' OR dry_run),
        CHECK (state NOT IN ('writing', 'done') OR NOT dry_run)
    )""",
    """
    CREATE TABLE bulk_fault (
        import_id uuid NOT NULL REFERENCES bulk_import,
        line integer NOT NULL CHECK (line > 0),
        field text NOT NULL,
        rule text NOT NULL CHECK (length(rule) BETWEEN 1 AND 300),
        PRIMARY KEY (import_id, line, field)
    )""",
    # digest: of what the file said of it. A reference is given once, and never moved.
    """
    CREATE TABLE external_reference (
        kind text NOT NULL CHECK (kind IN ('merchant', 'store', 'terminal')),
        reference text NOT NULL CHECK (length(reference) BETWEEN 1 AND 129),
        digest bytea NOT NULL CHECK (octet_length(digest) = 32),
        subject_id uuid NOT NULL,
        import_id uuid NOT NULL REFERENCES bulk_import,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (kind, reference),
        UNIQUE (subject_id)
    )""",
    f"""
    CREATE FUNCTION check_bulk_import_step() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.state || '>' || NEW.state <> ALL (ARRAY[{", ".join(f"'{step}'" for step in STEPS)}]) THEN
            RAISE EXCEPTION 'import: % is never followed by %', OLD.state, NEW.state USING ERRCODE = '23514';
        END IF;
        IF NEW.written_to < OLD.written_to THEN
            RAISE EXCEPTION 'import: lines are written in their order' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER bulk_import_step BEFORE UPDATE ON bulk_import FOR EACH ROW EXECUTE FUNCTION check_bulk_import_step()",
    "GRANT SELECT ON bulk_import, bulk_fault, external_reference TO switch_reader, switch_writer",
    "GRANT INSERT ON bulk_import, bulk_fault, external_reference TO switch_writer",
    "GRANT UPDATE (state, faults, written_to, made, ended_at) ON bulk_import TO switch_writer",
)


def upgrade() -> None:
    for statement in IMPORTS:
        op.execute(statement)
