"""turn hours: how turns have gone, in hourly sums

Safe on a live database: a new table.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "turn_hours.sql"):
        op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_reference_table('turn_hours');
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE turn_hours")
    op.execute("DROP FUNCTION added_v1")
