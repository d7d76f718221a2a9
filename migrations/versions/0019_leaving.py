"""leaving: console sessions that can be ended, and the title of a thread when it was shared

Safe on a live table: a new table, and a column without a default.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "leaving.sql"):
        op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_reference_table('console_sessions');
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("ALTER TABLE shares DROP COLUMN title")
    op.execute("DROP TABLE console_sessions")
