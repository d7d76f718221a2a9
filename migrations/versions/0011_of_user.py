"""of user: an end user's turn is opened in a thread of the user's alone, by the statement itself

Safe on a live database: a new function beside the old.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "open_turn_v2.sql"):
        op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_distributed_function(
                        p.oid::regprocedure, 'b', colocate_with => 'threads', force_delegation => true
                    ) FROM pg_proc p WHERE p.proname = 'open_turn_v2';
                    ALTER FUNCTION open_turn_v2 SET plan_cache_mode = force_custom_plan;
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION open_turn_v2")
