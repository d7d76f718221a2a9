"""accounts: scopes and an end for keys, what a project asks for, its provider accounts and the key that seals theirs

Safe on a live database: columns with a constant default, and new tables. The release before makes keys that may do
everything in their project, as it did.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "accounts.sql"):
        op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_reference_table('data_keys');
                    PERFORM create_reference_table('accounts');
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE accounts, data_keys")
    op.execute("ALTER TABLE api_keys DROP COLUMN limits, DROP COLUMN expires_at, DROP COLUMN scopes")
    op.execute("ALTER TABLE projects DROP COLUMN settings, DROP COLUMN archived_at, DROP COLUMN operates")
