"""row security: a second wall between projects, for a role of its own

Safe on a live database: the role that the release before connects as sees what it saw.
"""

from pathlib import Path

from alembic import op

from app.db.sql import commands

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

SQL = Path(__file__).parents[1] / "sql"


def upgrade() -> None:
    for statement in commands(SQL / "row_security.sql"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    op.execute(
        """
        DO $$
        DECLARE
            t regclass;
        BEGIN
            FOR t IN SELECT polrelid FROM pg_policy WHERE polname = 'of_project' LOOP
                EXECUTE format('DROP POLICY of_project ON %s', t);
                EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', t);
            END LOOP;
        END $$
        """
    )
    op.execute("DROP FUNCTION everthread_project")
