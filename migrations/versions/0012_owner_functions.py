"""owner functions: what row-level security takes the indexes from, in named functions that filter by project themselves

Safe on a live database: new functions.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"

FUNCTIONS = ("found_messages_v1", "found_titles_v1", "listed_threads_v1")


def upgrade() -> None:
    for statement in commands(SQL / "owner_functions.sql"):
        op.get_bind().exec_driver_sql(statement)
    for function in FUNCTIONS:
        # They are done with their owner's rights: nobody else puts something of his in front of what they mean.
        op.execute(
            f"""
            DO $$ BEGIN
                EXECUTE 'ALTER FUNCTION {function} SET search_path TO '
                    || current_setting('search_path') || ', pg_temp';
            END $$
            """
        )
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")


def downgrade() -> None:
    for function in (*FUNCTIONS, "may_see_v1"):
        op.execute(f"DROP FUNCTION {function}")
