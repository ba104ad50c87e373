"""Terminal batches: what a terminal counted against what our books say of it, and what its acquirers say of that.

Amounts are minor units; `amount` of an entry is signed, positive for a sale.
"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

TABLES = (
    """
    CREATE TABLE terminal_batch (
        merchant_id uuid NOT NULL,
        batch_id uuid NOT NULL,
        terminal_id uuid NOT NULL,
        number integer NOT NULL CHECK (number >= 1),
        opened_at timestamptz,
        closed_at timestamptz NOT NULL DEFAULT now(),
        in_balance boolean NOT NULL,
        totals jsonb NOT NULL,
        differences jsonb NOT NULL,
        PRIMARY KEY (merchant_id, batch_id),
        CONSTRAINT terminal_batch_number UNIQUE (terminal_id, number),
        FOREIGN KEY (merchant_id, terminal_id) REFERENCES terminal
    )""",
    "CREATE UNIQUE INDEX terminal_batch_by_id ON terminal_batch (batch_id)",
    # What a batch took of a transaction: what it was worth then, less what earlier batches took of it.
    """
    CREATE TABLE batch_entry (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        batch_id uuid NOT NULL,
        amount bigint NOT NULL CHECK (amount <> 0),
        PRIMARY KEY (merchant_id, transaction_id, batch_id),
        FOREIGN KEY (merchant_id, batch_id) REFERENCES terminal_batch
    )""",
    "CREATE INDEX batch_entry_of ON batch_entry (batch_id, transaction_id)",
    # Per acquirer and currency: our figures, and where they are forwarded (0500), what came back. Numbers are written before anything is sent.
    """
    CREATE TABLE batch_total (
        merchant_id uuid NOT NULL,
        batch_id uuid NOT NULL,
        acquirer_id uuid NOT NULL REFERENCES acquirer,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        terminal_id uuid NOT NULL,
        business_date date NOT NULL,
        sales_count integer NOT NULL CHECK (sales_count >= 0),
        sales bigint NOT NULL CHECK (sales >= 0),
        refunds_count integer NOT NULL CHECK (refunds_count >= 0),
        refunds bigint NOT NULL CHECK (refunds >= 0),
        state text NOT NULL CHECK (state IN ('not_forwarded', 'waiting', 'in_balance', 'out_of_balance', 'refused')),
        stan text,
        transmitted_at text,
        transmissions integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        answered_at timestamptz,
        code text,
        PRIMARY KEY (merchant_id, batch_id, acquirer_id, currency),
        FOREIGN KEY (merchant_id, batch_id) REFERENCES terminal_batch,
        CONSTRAINT batch_total_numbered CHECK ((stan IS NULL) = (transmitted_at IS NULL)),
        CONSTRAINT batch_total_answered CHECK ((state IN ('in_balance', 'out_of_balance', 'refused')) = (answered_at IS NOT NULL))
    )""",
    "CREATE INDEX batch_total_waiting ON batch_total (next_attempt_at) WHERE state = 'waiting'",
    # Whether an acquirer gets the totals of terminals.
    """
    CREATE TABLE batch_terms (
        acquirer_id uuid PRIMARY KEY REFERENCES acquirer,
        forward boolean NOT NULL
    )""",
)

ROLES = (
    "GRANT SELECT, INSERT ON terminal_batch, batch_entry, batch_total, batch_terms TO switch_writer",
    "GRANT SELECT ON terminal_batch, batch_entry, batch_total, batch_terms TO switch_reader",
    "GRANT UPDATE (state, stan, transmitted_at, transmissions, next_attempt_at, answered_at, code) ON batch_total TO switch_writer",
    "GRANT UPDATE (forward) ON batch_terms TO switch_writer",
)


def upgrade() -> None:
    for statement in (*TABLES, *ROLES):
        op.execute(statement)
