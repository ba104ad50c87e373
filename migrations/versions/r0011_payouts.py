"""Payouts: bank accounts, payouts with their life, files to the bank and what the bank answers.

Amounts are minor units and positive. An account number and the content of a file to the bank are sealed; `last4` is what is shown.
"""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

ACCOUNTS = (
    # merchant_id null: our own account, which payouts are paid from. Never overwritten: a change is another row.
    # suspended: a payout to it came back; nothing is paid there until two people have said it again.
    """
    CREATE TABLE bank_account (
        bank_account_id uuid PRIMARY KEY,
        merchant_id uuid REFERENCES merchant,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        holder text NOT NULL CHECK (length(holder) BETWEEN 1 AND 70),
        iban boolean NOT NULL,
        key_id text NOT NULL,
        sealed bytea NOT NULL,
        last4 text NOT NULL CHECK (length(last4) <= 4),
        bank_code text CHECK (length(bank_code) BETWEEN 1 AND 28),
        bic text CHECK (length(bic) IN (8, 11)),
        country text NOT NULL CHECK (country ~ '^[A-Z]{2}$'),
        state text NOT NULL DEFAULT 'asked' CHECK (state IN ('asked', 'active', 'suspended', 'replaced')),
        requested_by text NOT NULL,
        requested_at timestamptz NOT NULL DEFAULT now(),
        approved_by text,
        active_at timestamptz,
        ended_at timestamptz,
        CHECK (iban OR bank_code IS NOT NULL),
        CHECK ((state = 'asked') = (active_at IS NULL)),
        CONSTRAINT bank_account_by_two CHECK (approved_by <> requested_by)
    )""",
    """CREATE UNIQUE INDEX bank_account_in_use ON bank_account (merchant_id, currency) NULLS NOT DISTINCT
       WHERE state IN ('active', 'suspended')""",
    "CREATE INDEX bank_account_of_merchant ON bank_account (merchant_id, bank_account_id)",
)

PAYOUTS = (
    # content: sealed, exactly the bytes that the bank gets. Until it is sent there is no other file in that currency.
    """
    CREATE TABLE payout_file (
        file_id uuid PRIMARY KEY,
        bank_account_id uuid NOT NULL REFERENCES bank_account,
        currency text NOT NULL,
        format text NOT NULL CHECK (format IN ('pain001', 'csv')),
        execution_date date NOT NULL,
        payouts integer NOT NULL CHECK (payouts > 0),
        total bigint NOT NULL CHECK (total > 0),
        key_id text NOT NULL,
        content bytea NOT NULL,
        sha256 bytea NOT NULL CHECK (octet_length(sha256) = 32),
        size integer NOT NULL,
        state text NOT NULL DEFAULT 'made' CHECK (state IN ('made', 'sent')),
        made_by text NOT NULL,
        made_at timestamptz NOT NULL DEFAULT now(),
        sent_by text,
        sent_at timestamptz,
        CHECK ((state = 'sent') = (sent_at IS NOT NULL))
    )""",
    "CREATE UNIQUE INDEX payout_file_unsent ON payout_file (currency) WHERE state = 'made'",
    """
    CREATE TABLE payout (
        merchant_id uuid NOT NULL REFERENCES merchant,
        payout_id uuid NOT NULL,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        amount bigint NOT NULL CHECK (amount > 0),
        state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'sent', 'confirmed', 'returned')),
        bank_account_id uuid NOT NULL REFERENCES bank_account,
        file_id uuid REFERENCES payout_file,
        end_to_end_id text NOT NULL UNIQUE CHECK (length(end_to_end_id) BETWEEN 1 AND 35),
        reason text NOT NULL DEFAULT '' CHECK (length(reason) <= 200),
        requested_by text NOT NULL,
        requested_at timestamptz NOT NULL DEFAULT now(),
        sent_at timestamptz,
        confirmed_at timestamptz,
        returned_at timestamptz,
        PRIMARY KEY (merchant_id, payout_id),
        CHECK (state = 'requested' OR file_id IS NOT NULL),
        CHECK ((state = 'requested') = (sent_at IS NULL)),
        CHECK (state <> 'confirmed' OR confirmed_at IS NOT NULL),
        CHECK ((state = 'returned') = (returned_at IS NOT NULL))
    )""",
    "CREATE UNIQUE INDEX payout_by_id ON payout (payout_id)",
    "CREATE INDEX payout_waiting ON payout (currency, payout_id) WHERE file_id IS NULL",
    "CREATE INDEX payout_of_file ON payout (file_id, payout_id) WHERE file_id IS NOT NULL",
    # Once in a file, always in that file and in no other; what it is about never changes.
    """
    CREATE FUNCTION refuse_payout_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.file_id IS NOT NULL AND (NEW.file_id, NEW.bank_account_id) IS DISTINCT FROM (OLD.file_id, OLD.bank_account_id) THEN
            RAISE EXCEPTION 'payout: it is in a file already' USING ERRCODE = '23514', CONSTRAINT = 'payout_in_one_file';
        END IF;
        IF (OLD.state, NEW.state) NOT IN (('requested', 'sent'), ('sent', 'confirmed'), ('sent', 'returned'), ('confirmed', 'returned'))
           AND OLD.state <> NEW.state THEN
            RAISE EXCEPTION 'payout: it cannot go from % to %', OLD.state, NEW.state USING ERRCODE = '23514', CONSTRAINT = 'payout_life';
        END IF;
        RETURN NEW;
    END $$""",
    "CREATE TRIGGER payout_moves BEFORE UPDATE ON payout FOR EACH ROW EXECUTE FUNCTION refuse_payout_change()",
)

ANSWERS = (
    """
    CREATE TABLE bank_answer (
        file_id uuid PRIMARY KEY,
        bank_account_id uuid NOT NULL REFERENCES bank_account,
        format text NOT NULL CHECK (format IN ('camt053', 'csv')),
        statement text NOT NULL CHECK (length(statement) BETWEEN 1 AND 35),
        name text NOT NULL CHECK (length(name) <= 120),
        sha256 bytea NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
        size bigint NOT NULL,
        entries integer NOT NULL,
        applied integer NOT NULL,
        unexplained integer NOT NULL,
        received_by text NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        CONSTRAINT bank_answer_numbered UNIQUE (bank_account_id, format, statement)
    )""",
    # What an answer says of a payout; the rest of a statement is in statement_entry.
    """
    CREATE TABLE bank_answer_entry (
        file_id uuid NOT NULL REFERENCES bank_answer,
        entry_no integer NOT NULL,
        merchant_id uuid NOT NULL,
        payout_id uuid NOT NULL,
        fact text NOT NULL CHECK (fact IN ('confirmed', 'returned', 'rejected')),
        amount bigint NOT NULL CHECK (amount > 0),
        currency text NOT NULL,
        booked_on date NOT NULL,
        bank_reference text NOT NULL,
        reason text NOT NULL DEFAULT '',
        PRIMARY KEY (file_id, entry_no, payout_id),
        FOREIGN KEY (merchant_id, payout_id) REFERENCES payout
    )""",
    "CREATE INDEX bank_answer_of_payout ON bank_answer_entry (payout_id)",
)

TABLES = "bank_account, payout_file, payout, bank_answer, bank_answer_entry"
ROLES = (
    f"GRANT SELECT ON {TABLES} TO switch_writer, switch_reader",
    f"GRANT INSERT ON {TABLES} TO switch_writer",
    "GRANT UPDATE (state, approved_by, active_at, ended_at, key_id, sealed) ON bank_account TO switch_writer",
    "GRANT UPDATE (state, sent_by, sent_at) ON payout_file TO switch_writer",
    "GRANT UPDATE (state, file_id, bank_account_id, reason, sent_at, confirmed_at, returned_at) ON payout TO switch_writer",
)


def upgrade() -> None:
    for statement in (*ACCOUNTS, *PAYOUTS, *ANSWERS, *ROLES):
        op.execute(statement)
