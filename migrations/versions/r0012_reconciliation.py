"""Reconciliation: files of acquirers and banks with their lines, runs with what they found, exceptions with their life.

Amounts are minor units. In a clearing line they are not negative and `kind` says the direction; `expected`, `found` and `difference` are signed from
our point of view: money that comes to us is positive.
"""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

FILES = (
    # sha256 is of the unpacked content. A clearing file has an acquirer, a bank statement none; `institution` is what its header says.
    """
    CREATE TABLE clearing_file (
        file_id uuid PRIMARY KEY,
        document text NOT NULL CHECK (document IN ('clearing', 'statement')),
        format text NOT NULL,
        acquirer_id uuid REFERENCES acquirer,
        institution text NOT NULL CHECK (length(institution) <= 140),
        business_date date NOT NULL,
        number integer NOT NULL CHECK (number BETWEEN 1 AND 9999),
        name text NOT NULL CHECK (length(name) <= 120),
        sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
        size bigint NOT NULL,
        lines integer NOT NULL,
        total bigint NOT NULL,
        fees bigint NOT NULL,
        dates date[] NOT NULL,
        received_by text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        CHECK ((document = 'clearing') = (acquirer_id IS NOT NULL)),
        CONSTRAINT clearing_file_once UNIQUE NULLS NOT DISTINCT (document, acquirer_id, sha256),
        CONSTRAINT clearing_file_numbered UNIQUE NULLS NOT DISTINCT (document, acquirer_id, institution, business_date, number)
    )""",
    "CREATE INDEX clearing_file_of_day ON clearing_file (acquirer_id, business_date)",
    # Lines come by COPY in the commit of their file, a million at a time: a foreign key would cost as much as all the rest.
    """
    CREATE TABLE clearing_line (
        file_id uuid NOT NULL,
        line_no integer NOT NULL,
        acquirer_id uuid NOT NULL,
        business_date date NOT NULL,
        rrn text NOT NULL,
        stan text NOT NULL,
        terminal text NOT NULL,
        acceptor text NOT NULL,
        approval_code text NOT NULL,
        kind text NOT NULL,
        amount bigint NOT NULL CHECK (amount > 0),
        currency text NOT NULL,
        fee bigint NOT NULL CHECK (fee >= 0),
        reference text NOT NULL,
        PRIMARY KEY (file_id, line_no)
    )""",
    "CREATE INDEX clearing_line_of_day ON clearing_line (acquirer_id, business_date)",
    """
    CREATE TABLE statement_entry (
        file_id uuid NOT NULL REFERENCES clearing_file,
        line_no integer NOT NULL,
        booked_on date NOT NULL,
        business_date date NOT NULL,
        amount bigint NOT NULL CHECK (amount <> 0),
        currency text NOT NULL,
        bank_reference text NOT NULL,
        text text NOT NULL,
        PRIMARY KEY (file_id, line_no)
    )""",
    "CREATE INDEX statement_entry_reference ON statement_entry (bank_reference)",
    # Whose money an entry is.
    """
    CREATE TABLE funding_entry (
        file_id uuid NOT NULL,
        line_no integer NOT NULL,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        business_date date NOT NULL,
        currency text NOT NULL,
        amount bigint NOT NULL,
        booked_on date NOT NULL,
        PRIMARY KEY (file_id, line_no),
        FOREIGN KEY (file_id, line_no) REFERENCES statement_entry
    )""",
    "CREATE INDEX funding_of_day ON funding_entry (acquirer_id, business_date)",
)

RUNS = (
    """
    CREATE TABLE reconciliation_run (
        run_id uuid PRIMARY KEY,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        business_date date NOT NULL,
        state text NOT NULL DEFAULT 'due' CHECK (state IN ('due', 'done')),
        cause text NOT NULL,
        requested_at timestamptz NOT NULL DEFAULT now(),
        started_at timestamptz,
        ended_at timestamptz,
        complete boolean,
        lines integer,
        movements integer,
        matched jsonb NOT NULL DEFAULT '{}',
        found jsonb NOT NULL DEFAULT '{}',
        digest text,
        CHECK ((state = 'done') = (ended_at IS NOT NULL)),
        CHECK (state = 'due' OR (complete IS NOT NULL AND digest IS NOT NULL))
    )""",
    # What is asked for while it waits is one run.
    "CREATE UNIQUE INDEX reconciliation_run_due ON reconciliation_run (acquirer_id, business_date) WHERE state = 'due'",
    "CREATE INDEX reconciliation_run_of_day ON reconciliation_run (acquirer_id, business_date, run_id)",
    # What a run found, as it found it; what neighbouring days explain of it is said by the exceptions.
    """
    CREATE TABLE reconciliation_finding (
        run_id uuid NOT NULL REFERENCES reconciliation_run,
        finding_no integer NOT NULL,
        kind text NOT NULL CHECK (kind IN ('missing_here', 'missing_there', 'amount', 'fee', 'duplicate')),
        rule text NOT NULL,
        file_id uuid,
        line_no integer,
        merchant_id uuid,
        transaction_id uuid,
        rrn text NOT NULL,
        movement text NOT NULL CHECK (movement IN ('sale', 'refund')),
        currency text NOT NULL,
        expected bigint,
        found bigint,
        PRIMARY KEY (run_id, finding_no)
    )""",
)

EXCEPTIONS = (
    # One per day, kind and subject, whatever the number of runs: a run opens it, changes its figures or withdraws it, people do the rest.
    """
    CREATE TABLE reconciliation_exception (
        exception_id uuid PRIMARY KEY,
        acquirer_id uuid REFERENCES acquirer,
        business_date date NOT NULL,
        kind text NOT NULL CHECK (kind IN ('missing_here', 'missing_there', 'amount', 'fee', 'duplicate', 'date', 'funding', 'funding_missing',
                                           'unknown_entry')),
        subject text NOT NULL,
        rule text NOT NULL,
        file_id uuid,
        line_no integer,
        merchant_id uuid,
        transaction_id uuid,
        rrn text NOT NULL,
        currency text NOT NULL,
        expected bigint NOT NULL,
        found bigint NOT NULL,
        difference bigint NOT NULL,
        state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'claimed', 'resolved', 'withdrawn')),
        owner text CHECK (length(owner) <= 120),
        resolution text CHECK (resolution IN ('write_off', 'suspense', 'adjust', 'claim', 'accept')),
        resolved_by text,
        approved_by text,
        resolved_at timestamptz,
        version integer NOT NULL DEFAULT 1,
        opened_at timestamptz NOT NULL DEFAULT now(),
        changed_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT exception_once UNIQUE NULLS NOT DISTINCT (acquirer_id, business_date, kind, subject),
        CONSTRAINT exception_has_resolution CHECK ((state IN ('claimed', 'resolved')) = (resolution IS NOT NULL))
    )""",
    "CREATE INDEX exception_waiting ON reconciliation_exception (exception_id) WHERE state IN ('open', 'claimed')",
    "CREATE INDEX exception_of_transaction ON reconciliation_exception (transaction_id) WHERE transaction_id IS NOT NULL",
    """
    CREATE TABLE reconciliation_comment (
        comment_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        exception_id uuid NOT NULL REFERENCES reconciliation_exception,
        at timestamptz NOT NULL DEFAULT now(),
        by text NOT NULL,
        what text NOT NULL CHECK (what IN ('comment', 'assigned', 'claimed', 'resolved', 'changed', 'withdrawn', 'reopened')),
        text text NOT NULL CHECK (length(text) <= 1000)
    )""",
    "CREATE INDEX comment_of_exception ON reconciliation_comment (exception_id, comment_id)",
)

# What should stand in the acquirer's files, and is what the settlement takes: money that was taken or given back by messages of the 02xx class
# and stands. `amount`: not negative.
VIEWS = (
    """
    CREATE VIEW reconciliation_movement AS
    SELECT t.merchant_id, t.transaction_id, t.acquirer_id, t.business_date, CASE t.type WHEN 'refund' THEN 'refund' ELSE 'sale' END AS kind,
        coalesce(t.approved_amount, t.amount) AS amount, t.currency, t.rrn, coalesce(t.acquirer_rrn, '') AS acquirer_rrn,
        coalesce(rtrim(t.approval_code), '') AS approval_code, t.stan, rtrim(t.card_acceptor_terminal) AS terminal
    FROM transaction t
    WHERE t.mti LIKE '02%' AND t.type IN ('purchase', 'cash_advance', 'capture', 'tip', 'refund', 'offline_sale')
      AND t.state IN ('APPROVED', 'CONFIRMED') AND t.voided = 0 AND coalesce(t.approved_amount, t.amount) > 0
      AND (t.original_id IS NULL OR t.type NOT IN ('capture', 'tip')
           OR (SELECT o.voided = 0 AND o.state IN ('APPROVED', 'CONFIRMED') FROM transaction o WHERE o.transaction_id = t.original_id))""",
)

TABLES = ("clearing_file, clearing_line, statement_entry, funding_entry, reconciliation_run, reconciliation_finding, reconciliation_exception, "
          "reconciliation_comment")
ROLES = (
    f"GRANT SELECT ON {TABLES}, reconciliation_movement TO switch_writer, switch_reader",
    f"GRANT INSERT ON {TABLES} TO switch_writer",
    """GRANT UPDATE (state, started_at, ended_at, complete, lines, movements, matched, found, digest) ON reconciliation_run TO switch_writer""",
    """GRANT UPDATE (rule, file_id, line_no, expected, found, difference, state, owner, resolution, resolved_by, approved_by, resolved_at, version,
       changed_at) ON reconciliation_exception TO switch_writer""",
)


def upgrade() -> None:
    for statement in (*FILES, *RUNS, *EXCEPTIONS, *VIEWS, *ROLES):
        op.execute(statement)
