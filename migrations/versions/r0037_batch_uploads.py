"""What an acquirer must be told of a batch whose totals it did not agree with: each transaction, message by message, then the end.

The messages are written in the commit that writes the disagreement, and each has its numbers before it leaves. Sales that were voided within their
batch are kept apart: between terminal and books they are nothing, some hosts count both.
"""

from alembic import op

revision = "0037"
down_revision = "0036"
branch_labels = None
depends_on = None

STATEMENTS = (
    # An empty list of transactions is the end. Amounts are signed, in the order of the transactions.
    """
    CREATE TABLE batch_upload (
        merchant_id uuid NOT NULL,
        batch_id uuid NOT NULL,
        acquirer_id uuid NOT NULL,
        currency text NOT NULL,
        number integer NOT NULL CHECK (number >= 1),
        transactions uuid[] NOT NULL,
        amounts bigint[] NOT NULL,
        state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'accepted', 'refused')),
        stan text,
        transmitted_at text,
        transmissions integer NOT NULL DEFAULT 0,
        next_attempt_at timestamptz NOT NULL DEFAULT now(),
        answered_at timestamptz,
        code text,
        PRIMARY KEY (merchant_id, batch_id, acquirer_id, currency, number),
        FOREIGN KEY (merchant_id, batch_id, acquirer_id, currency) REFERENCES batch_total,
        CONSTRAINT batch_upload_amounts CHECK (cardinality(transactions) = cardinality(amounts)),
        CONSTRAINT batch_upload_numbered CHECK ((stan IS NULL) = (transmitted_at IS NULL)),
        CONSTRAINT batch_upload_answered CHECK ((state = 'waiting') = (answered_at IS NULL))
    )""",
    "CREATE INDEX batch_upload_waiting ON batch_upload (next_attempt_at) WHERE state = 'waiting'",
    """
    CREATE TABLE batch_void (
        merchant_id uuid NOT NULL,
        transaction_id uuid NOT NULL,
        void_id uuid NOT NULL,
        batch_id uuid NOT NULL,
        amount bigint NOT NULL CHECK (amount > 0),
        PRIMARY KEY (merchant_id, transaction_id),
        FOREIGN KEY (merchant_id, batch_id) REFERENCES terminal_batch
    )""",
    "CREATE INDEX batch_void_of ON batch_void (batch_id)",
    "GRANT SELECT, INSERT ON batch_upload, batch_void TO switch_writer",
    "GRANT SELECT ON batch_upload, batch_void TO switch_reader",
    "GRANT UPDATE (state, stan, transmitted_at, transmissions, next_attempt_at, answered_at, code) ON batch_upload TO switch_writer",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
