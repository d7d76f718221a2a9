"""emoji: a sign is found with a variation selector and without, and is a word of its own

Safe on a live table: functions of indexes are replaced, and the indexes are built again beside the ones in use. Until
they are ready, emoji in earlier messages are not found.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0022"
down_revision = "0019"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"

INDEXES = ("items_lexemes_idx", "threads_title_lexemes_idx")


def _replace(functions: list[str]) -> None:
    for function in functions:
        op.get_bind().exec_driver_sql(function)
    # REINDEX and pg_restore call the function with an empty search_path.
    op.execute(
        """
        DO $$ BEGIN
            EXECUTE 'ALTER FUNCTION lexemes_v1(text, text[]) SET search_path TO ' || current_setting('search_path');
        END $$
        """
    )
    with op.get_context().autocommit_block():
        for index in INDEXES:
            op.execute(f"REINDEX INDEX CONCURRENTLY {index}")


def upgrade() -> None:
    _replace(commands(SQL / "emoji.sql"))


def downgrade() -> None:
    (folded,) = commands(SQL / "combining_marks.sql")
    names = ("FUNCTION foreign_lexemes_v1(", "FUNCTION lexemes_v1(")
    before = [each for each in commands(SQL / "search.sql") if any(name in each for name in names)]
    _replace([folded, *(each.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1) for each in before)])
