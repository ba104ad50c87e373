"""What devices said of themselves hour by hour, with where they were, is kept for 97 days, as long as where terminals were (0041)."""

from alembic import op

revision = "0043"
down_revision = "0042"
branch_labels = None
depends_on = None

FORMER_HEALTH = (
    "CREATE INDEX device_health_by_hour ON device_health_hour (hour)",
    """
    CREATE FUNCTION forget_former_health(at_most integer) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
        WITH gone AS (DELETE FROM device_health_hour WHERE (device_id, hour) IN (
            SELECT device_id, hour FROM device_health_hour WHERE hour < now() - interval '97 days'
            ORDER BY hour LIMIT at_most FOR UPDATE SKIP LOCKED) RETURNING 1)
        SELECT count(*) FROM gone
    $$""",
    "REVOKE EXECUTE ON FUNCTION forget_former_health(integer) FROM PUBLIC",
    "GRANT EXECUTE ON FUNCTION forget_former_health(integer) TO switch_writer",
)


def upgrade() -> None:
    for statement in FORMER_HEALTH:
        op.execute(statement)
