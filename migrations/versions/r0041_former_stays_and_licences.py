"""Where terminals were is forgotten when no rule, and no trial of one, can ask for it any more: 90 days (payments/away.py, TRIED) and the longest
window of a rule before them. Its rows go by the index of what was written; nothing else removes one.

And licences of merchants that never applied: what an operator has seen and when it ends, each time anew; the last one counts. `licence_held` is what
is watched, of whichever merchant."""

from alembic import op

revision = "0041"
down_revision = "0040"
branch_labels = None
depends_on = None

FORMER_STAYS = (
    """
    CREATE FUNCTION forget_former_stays(at_most integer) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
        WITH gone AS (DELETE FROM terminal_stay WHERE (terminal_id, since) IN (
            SELECT terminal_id, since FROM terminal_stay WHERE written_at < now() - interval '97 days'
            ORDER BY written_at LIMIT at_most FOR UPDATE SKIP LOCKED) RETURNING 1)
        SELECT count(*) FROM gone
    $$""",
    "REVOKE EXECUTE ON FUNCTION forget_former_stays(integer) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION forget_former_stays(integer) TO switch_writer",
)

LICENCES = (
    # sealed: what stands on the paper; nonce, then AES-256-GCM, bound to the document's id.
    """
    CREATE TABLE licence_record (
        document_id uuid PRIMARY KEY,
        merchant_id uuid NOT NULL REFERENCES merchant,
        kind text NOT NULL CHECK (kind ~ '^[a-z_]{1,40}$'),
        number integer NOT NULL CHECK (number BETWEEN 1 AND 100),
        key_id text NOT NULL,
        sealed bytea NOT NULL CHECK (octet_length(sealed) <= 4096),
        expires_on date NOT NULL,
        currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
        person text NOT NULL CHECK (length(person) BETWEEN 1 AND 140),
        caller text NOT NULL CHECK (length(caller) BETWEEN 1 AND 40),
        reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
        at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (merchant_id, kind, number)
    )""",
    "CREATE INDEX licence_record_expires ON licence_record (expires_on)",
    """
    CREATE VIEW licence_held AS
    SELECT a.merchant_id, a.application_id, d.document_id, d.kind, d.expires_on, NULL::text AS currency
    FROM application_document d JOIN application a USING (application_id)
    WHERE d.expires_on IS NOT NULL AND a.state = 'approved' AND coalesce((SELECT v.verdict = 'accepted' FROM application_verdict v
      WHERE v.document_id = d.document_id ORDER BY v.number DESC LIMIT 1), d.at <= a.state_since)
    UNION ALL
    SELECT r.merchant_id, NULL, r.document_id, r.kind, r.expires_on, r.currency FROM licence_record r
    WHERE NOT EXISTS (SELECT FROM licence_record n WHERE n.merchant_id = r.merchant_id AND n.kind = r.kind AND n.number > r.number)""",
    "GRANT SELECT, INSERT ON licence_record TO switch_writer",
    "GRANT SELECT ON licence_record TO switch_reader",
    "GRANT SELECT ON licence_held TO switch_writer, switch_reader",
)


def upgrade() -> None:
    for statement in (*FORMER_STAYS, *LICENCES):
        op.execute(statement)
