"""chat apps: how long a thread lives, feedback on turns, and links that show a conversation

Safe on a live table: columns without a default, an index that is made concurrently, and new tables.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "chat_apps.sql"):
        op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_distributed_table('feedback', 'bucket', colocate_with => 'threads');
                    PERFORM create_distributed_table('shares', 'bucket', colocate_with => 'threads');
                END IF;
            END IF;
        END $$
        """
    )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE threads VALIDATE CONSTRAINT threads_ttl_check")
        op.execute(
            "CREATE INDEX CONCURRENTLY IF NOT EXISTS threads_expires_idx ON threads (expires_at) "
            "WHERE expires_at IS NOT NULL"
        )


def downgrade() -> None:
    op.execute("DROP TABLE shares, feedback")
    op.execute("ALTER TABLE threads DROP COLUMN expires_at, DROP COLUMN ttl_seconds")
