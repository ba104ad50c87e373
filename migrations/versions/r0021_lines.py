"""Several lines per acquirer, TLS, breakers, and what a host says of its business day.

The first line stays the row of `acquirer_line`, which the release before reads alone; further ones stand beside it.
"""

from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

# What a line has beside its address. A line with a server name speaks TLS; paths are of the machines that connect.
COLUMNS = (
    "priority integer NOT NULL DEFAULT 0 CHECK (priority BETWEEN 0 AND 1000)",
    "connections integer NOT NULL DEFAULT 1 CHECK (connections BETWEEN 1 AND 32)",
    "status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'down', 'retired'))",
    "server_name text CHECK (length(server_name) BETWEEN 1 AND 253)",
    "ca_file text CHECK (ca_file ~ '^/' AND length(ca_file) <= 1000)",
    "certificate_file text CHECK (certificate_file ~ '^/' AND length(certificate_file) <= 1000)",
    "key_file text CHECK (key_file ~ '^/' AND length(key_file) <= 1000)",
    "created_at timestamptz NOT NULL DEFAULT now()",
)
RULES = (
    "CONSTRAINT line_secured CHECK (server_name IS NOT NULL OR (ca_file IS NULL AND certificate_file IS NULL AND key_file IS NULL))",
    "CONSTRAINT line_certificate CHECK ((certificate_file IS NULL) = (key_file IS NULL))",
)

TABLES = (
    f"ALTER TABLE acquirer_line {', '.join([f'ADD COLUMN {column}' for column in COLUMNS] + [f'ADD {rule}' for rule in RULES])}",
    f"""
    CREATE TABLE acquirer_further_line (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        line_id uuid NOT NULL,
        host text NOT NULL CHECK (length(host) BETWEEN 1 AND 253),
        port integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
        {", ".join((*COLUMNS, *RULES))},
        PRIMARY KEY (acquirer_id, line_id)
    )""",
    # A share is of what ended within the window; `codes` NULL: the dialect's. No row, or 0 faults: no breaker.
    """
    CREATE TABLE acquirer_breaker (
        acquirer_id uuid PRIMARY KEY REFERENCES acquirer,
        faults integer NOT NULL CHECK (faults BETWEEN 0 AND 100000),
        percent integer NOT NULL CHECK (percent BETWEEN 1 AND 100),
        window_ms integer NOT NULL CHECK (window_ms BETWEEN 1000 AND 600000),
        pause_ms integer NOT NULL CHECK (pause_ms BETWEEN 100 AND 600000),
        probes integer NOT NULL CHECK (probes BETWEEN 1 AND 100),
        codes text[] CHECK (cardinality(codes) <= 20)
    )""",
    # What a host's cut-over message does: opens the day here (open), is only kept for a person (record), or asks for the cut-over too (cut_over).
    """ALTER TABLE acquirer ADD COLUMN host_cut_over text NOT NULL DEFAULT 'open' CHECK (host_cut_over IN ('open', 'record', 'cut_over'))""",
    # Hosts say it on each line: counted, not repeated. `business_date` NULL: no day near the open one has that month and day.
    """
    CREATE TABLE host_cut_over (
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        notice_id bigint GENERATED ALWAYS AS IDENTITY,
        month_day text NOT NULL CHECK (month_day ~ '^[0-9]{4}$'),
        open_date date NOT NULL,
        business_date date,
        action text NOT NULL CHECK (action IN ('opened', 'recorded', 'asked', 'known', 'refused')),
        count integer NOT NULL DEFAULT 1 CHECK (count >= 1),
        first_at timestamptz NOT NULL DEFAULT now(),
        last_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (acquirer_id, notice_id),
        CONSTRAINT host_cut_over_once UNIQUE (acquirer_id, open_date, month_day, action)
    )""",
)

VIEWS = (
    "CREATE OR REPLACE VIEW directory_acquirer AS SELECT * FROM acquirer",
    "CREATE OR REPLACE VIEW directory_acquirer_line AS SELECT * FROM acquirer_line",
    """
    CREATE VIEW directory_line AS
    SELECT acquirer_id, line_id, host, port, priority, connections, status, server_name, ca_file, certificate_file, key_file, created_at,
        true AS first FROM acquirer_line
    UNION ALL
    SELECT acquirer_id, line_id, host, port, priority, connections, status, server_name, ca_file, certificate_file, key_file, created_at, false
    FROM acquirer_further_line""",
    "CREATE VIEW directory_breaker AS SELECT * FROM acquirer_breaker",
)

# The release before knows the kinds of its own tables only: what changes here is told as a change of the acquirer.
CHANGES = (
    """
    CREATE FUNCTION log_acquirer_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_advisory_xact_lock(3583001);
        INSERT INTO directory_change (kind, key) VALUES ('acquirer', NEW.acquirer_id::text);
        PERFORM pg_notify('directory', '');
        RETURN NULL;
    END $$""",
    *(f"CREATE TRIGGER log_change AFTER INSERT OR UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION log_acquirer_change()"
      for table in ("acquirer_further_line", "acquirer_breaker")),
)

ROLES = (
    "GRANT SELECT ON acquirer_further_line, acquirer_breaker, host_cut_over, directory_line, directory_breaker TO switch_writer, switch_reader",
    "GRANT INSERT ON acquirer_further_line, acquirer_breaker, host_cut_over TO switch_writer",
    """GRANT UPDATE (host, port, priority, connections, status, server_name, ca_file, certificate_file, key_file) ON acquirer_further_line
       TO switch_writer""",
    "GRANT UPDATE (faults, percent, window_ms, pause_ms, probes, codes) ON acquirer_breaker TO switch_writer",
    "GRANT UPDATE (count, last_at) ON host_cut_over TO switch_writer",
)


def upgrade() -> None:
    for statement in (*TABLES, *VIEWS, *CHANGES, *ROLES):
        op.execute(statement)
