"""Where terminals were is forgotten when no rule, and no trial of one, can ask for it any more: 90 days (payments/away.py, TRIED) and the longest
window of a rule before them. Its rows go by the index of what was written; nothing else removes one."""

from alembic import op

revision = "0041"
down_revision = "0039"
branch_labels = None
depends_on = None

STATEMENTS = (
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


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
