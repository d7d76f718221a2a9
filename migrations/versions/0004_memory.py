"""memory: what a turn's context was, what items count, compactions, and what was learnt of models

Safe on a live table: columns without a default, new tables, and a new function beside the old.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for name in ("memory", "close_turn_v2"):
        for statement in commands(SQL / f"{name}.sql"):
            op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_distributed_table('compactions', 'bucket', colocate_with => 'threads');
                    PERFORM create_reference_table('learnt_models');
                    PERFORM create_distributed_function(
                        p.oid::regprocedure, 'b', colocate_with => 'threads', force_delegation => true
                    ) FROM pg_proc p WHERE p.proname = 'close_turn_v2';
                    ALTER FUNCTION close_turn_v2 SET plan_cache_mode = force_custom_plan;
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION close_turn_v2")
    op.execute("DROP TABLE compactions, learnt_models")
    op.execute("ALTER TABLE projects DROP COLUMN session_cache")
    op.execute("ALTER TABLE items DROP COLUMN tokens")
    op.execute("ALTER TABLE turns DROP COLUMN context")
