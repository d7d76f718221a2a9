"""webhooks: who is told of what happens, and what each has been told

Safe on a live database: new tables.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "webhooks.sql"):
        op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_reference_table('webhooks');
                    PERFORM create_reference_table('webhook_deliveries');
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE webhook_deliveries, webhooks")
