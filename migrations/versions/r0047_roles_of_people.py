"""Keys of people who may less: a shop's staff, reviewers, and administrators, who alone give keys to people; and who issued a key."""

from alembic import op

revision = "0047"
down_revision = "0046"
branch_labels = None
depends_on = None

ROLES_OF_PEOPLE = (
    "ALTER TABLE api_key ADD COLUMN store_id uuid, ADD COLUMN issued_by text CHECK (length(issued_by) BETWEEN 1 AND 140)",
    "ALTER TABLE api_key ADD CONSTRAINT api_key_store FOREIGN KEY (merchant_id, store_id) REFERENCES store (merchant_id, store_id)",
    "ALTER TABLE api_key DROP CONSTRAINT api_key_role, DROP CONSTRAINT api_key_merchant, DROP CONSTRAINT api_key_support",
    """ALTER TABLE api_key
       ADD CONSTRAINT api_key_role CHECK (role IN ('terminal', 'merchant', 'staff', 'operator', 'applicant', 'support', 'reviewer', 'administrator')),
       ADD CONSTRAINT api_key_merchant CHECK ((role IN ('terminal', 'merchant', 'staff')) = (merchant_id IS NOT NULL)),
       ADD CONSTRAINT api_key_of_store CHECK ((role = 'staff') = (store_id IS NOT NULL)),
       ADD CONSTRAINT api_key_person CHECK (person IS NOT NULL OR role IN ('terminal', 'merchant', 'applicant'))""",
    "CREATE OR REPLACE VIEW directory_api_key AS SELECT * FROM api_key",
)


def upgrade() -> None:
    for statement in ROLES_OF_PEOPLE:
        op.execute(statement)
