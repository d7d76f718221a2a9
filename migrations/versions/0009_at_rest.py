"""at rest: projects whose contents are encrypted

Safe on a live database: columns without a default, a check that is validated without a lock, functions that do with
plain contents what they did. A project is encrypted when no worker of the release before runs any more: it cannot read
what is sealed.

On the way back, the functions stay as they are here.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "at_rest.sql"):
        op.get_bind().exec_driver_sql(statement)
    # A restore looks at nothing but the catalog by itself: see 0003.
    for function in ("message_lexemes_v1(uuid, uuid, json)", "title_lexemes_v1(uuid, text)"):
        op.execute(
            f"""
            DO $$ BEGIN
                EXECUTE 'ALTER FUNCTION {function} SET search_path TO ' || current_setting('search_path');
            END $$
            """
        )
    with op.get_context().autocommit_block():
        op.execute("ALTER TABLE feedback VALIDATE CONSTRAINT feedback_comment_check")


def downgrade() -> None:
    op.execute("DROP TRIGGER projects_guard ON projects")
    op.execute("DROP FUNCTION projects_guard")
    op.execute("ALTER TABLE projects DROP COLUMN key_destroyed_at, DROP COLUMN encrypted_at")
    op.execute("ALTER TABLE feedback DROP CONSTRAINT feedback_comment_check")
    op.execute(
        "ALTER TABLE feedback ADD CONSTRAINT feedback_comment_check CHECK (char_length(comment) BETWEEN 1 AND 4000)"
    )
