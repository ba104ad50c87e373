"""Where stores are, how far their terminals are from there, and the rule that asks."""

from alembic import op

revision = "0036"
down_revision = "0035"
branch_labels = None
depends_on = None

STATEMENTS = (
    """ALTER TABLE store ADD COLUMN latitude_e6 integer CHECK (latitude_e6 BETWEEN -90000000 AND 90000000),
       ADD COLUMN longitude_e6 integer CHECK (longitude_e6 BETWEEN -180000000 AND 180000000),
       ADD CONSTRAINT store_place_whole CHECK ((latitude_e6 IS NULL) = (longitude_e6 IS NULL))""",
    # One row from one move to the next; the last by `since` is where the terminal is. `away_m` NULL: not known from then on.
    """
    CREATE TABLE terminal_stay (
        terminal_id uuid NOT NULL REFERENCES terminal (terminal_id),
        since timestamptz NOT NULL DEFAULT now(),
        told_at timestamptz NOT NULL DEFAULT now(),
        written_at timestamptz NOT NULL DEFAULT now(),
        away_m integer CHECK (away_m BETWEEN 0 AND 20037509),
        PRIMARY KEY (terminal_id, since),
        CHECK (since <= told_at)
    ) WITH (fillfactor = 90)""",
    "CREATE INDEX terminal_stay_written ON terminal_stay (written_at)",
    """ALTER TABLE risk_rule ADD COLUMN distance_km integer CHECK (distance_km BETWEEN 1 AND 20000),
       DROP CONSTRAINT risk_rule_kind_check,
       ADD CONSTRAINT risk_rule_kind_check CHECK (kind IN ('velocity', 'amount', 'night', 'split', 'refund_ratio', 'card_testing', 'card_spread',
                                                           'relocated'))""",
    "CREATE OR REPLACE VIEW directory_risk_rule AS SELECT * FROM risk_rule",
    "GRANT SELECT, INSERT ON terminal_stay TO switch_writer",
    "GRANT UPDATE (told_at, written_at, away_m) ON terminal_stay TO switch_writer",
    "GRANT SELECT ON terminal_stay TO switch_reader",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
