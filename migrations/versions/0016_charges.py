"""charges: what is spent outside stored turns

Safe on a live database: a new table.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "charges.sql"):
        op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_distributed_table('charges', 'bucket', colocate_with => 'threads');
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP TABLE charges")
