"""quicker guards: the same checks, lexemes and records, for less of a turn's cost in Postgres

Safe on a live table: triggers that need no look at its rows, and functions that do what they did.
"""

from pathlib import Path

from alembic import op
from sqlalchemy import text

from app.db.sql import commands

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"

UNSAFE_TRIGGERS = """
DO $$ BEGIN
    IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
        SET LOCAL citus.enable_unsafe_triggers = on;
    END IF;
END $$
"""


def upgrade() -> None:
    bind = op.get_bind()
    schema = bind.dialect.identifier_preparer.quote(bind.scalar(text("SELECT current_schema()")))
    # A trigger that looks at nothing but its row's own shard is safe there.
    op.execute(UNSAFE_TRIGGERS)
    for statement in commands(SQL / "quicker_guards.sql"):
        bind.exec_driver_sql(statement.replace("{schema}", schema))
    op.execute(
        """
        DO $$ BEGIN
            EXECUTE 'ALTER FUNCTION lexemes_v1(text, text[]) SET search_path TO ' || current_setting('search_path');
        END $$
        """
    )
    (close_turn,) = commands(SQL / "close_turn_v2.sql")
    bind.exec_driver_sql(close_turn.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
    op.execute(
        """
        DO $$ BEGIN
            IF EXISTS (SELECT FROM pg_extension WHERE extname = 'citus') THEN
                IF EXISTS (SELECT FROM pg_dist_partition WHERE logicalrelid = 'threads'::regclass) THEN
                    ALTER FUNCTION close_turn_v2 SET plan_cache_mode = force_custom_plan;
                END IF;
            END IF;
        END $$
        """
    )


# Lexemes and records stay as they are made now: they are the same.
def downgrade() -> None:
    op.execute(UNSAFE_TRIGGERS)
    op.execute("DROP TRIGGER threads_head_guard ON threads")
    op.execute("DROP FUNCTION threads_head_guard")
    op.execute("DROP TRIGGER threads_guard ON threads")
    (guard,) = (command for command in commands(SQL / "at_rest.sql") if "FUNCTION threads_guard" in command)
    op.get_bind().exec_driver_sql(guard)
    op.execute(
        "CREATE TRIGGER threads_guard BEFORE INSERT OR UPDATE OF id, bucket, name, title, user_id, metadata, "
        "head_turn_id ON threads FOR EACH ROW EXECUTE FUNCTION threads_guard()"
    )
