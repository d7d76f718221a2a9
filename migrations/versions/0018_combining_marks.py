"""combining marks: a text with thousands of them in a row no longer occupies a backend for minutes

Safe on a live table: a function of indexes is replaced by one that gives the same for every text of a language. Texts
with more than 30 combining characters in a row keep the index entries that they have.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    (folded,) = commands(SQL / "combining_marks.sql")
    op.get_bind().exec_driver_sql(folded)


def downgrade() -> None:
    (folded,) = (command for command in commands(SQL / "search.sql") if "FUNCTION folded_v1" in command)
    op.get_bind().exec_driver_sql(folded.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION", 1))
