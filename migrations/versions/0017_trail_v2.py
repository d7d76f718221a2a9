"""trail v2: audit records cover the place of a turn, heads, feedback, shares, keys and projects

Records that were written before are still chained and signed. Their contents are not compared any more.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = False

SQL = Path(__file__).parents[1] / "sql"

FUNCTIONS = ("open_turn_v3", "close_turn_v3", "append_records_v2")


def upgrade() -> None:
    for name in ("trail_v2", "open_turn_v3", "close_turn_v3"):
        for statement in commands(SQL / f"{name}.sql"):
            op.get_bind().exec_driver_sql(statement)
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    PERFORM create_distributed_function(p.oid::regprocedure) FROM pg_proc p
                        WHERE p.proname = 'record_hash_v2';
                    PERFORM create_distributed_function(
                        p.oid::regprocedure, CASE p.proname WHEN 'append_records_v2' THEN 'p_bucket' ELSE 'b' END,
                        colocate_with => 'threads', force_delegation => true
                    ) FROM pg_proc p WHERE p.proname IN ('open_turn_v3', 'close_turn_v3', 'append_records_v2');
                    ALTER FUNCTION open_turn_v3 SET plan_cache_mode = force_custom_plan;
                    ALTER FUNCTION close_turn_v3 SET plan_cache_mode = force_custom_plan;
                    ALTER FUNCTION append_records_v2 SET plan_cache_mode = force_custom_plan;
                END IF;
            END IF;
        END $$
        """
    )


def downgrade() -> None:
    for function in (*FUNCTIONS, "record_hash_v2"):
        op.execute(f"DROP FUNCTION {function}")
    for table, column in (
        ("projects", "salt"), ("api_keys", "salt"), ("shares", "salt"), ("feedback", "salt"), ("turns", "left_salt"),
        ("audit_records", "version"),
    ):  # fmt: skip
        op.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
