"""which releases a database serves; and functions of indexes that find their helpers whoever calls them

Safe on a live table: a new one, and a setting of two functions. REINDEX and pg_restore call them with an empty
search_path.
"""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True

OF_INDEXES = ("message_lexemes_v1(uuid, uuid, json)", "title_lexemes_v1(uuid, text)")


def upgrade() -> None:
    op.execute("CREATE TABLE served_revisions (revision text NOT NULL CONSTRAINT served_revisions_pkey PRIMARY KEY)")
    for function in OF_INDEXES:
        op.execute(
            f"""
            DO $$ BEGIN
                EXECUTE 'ALTER FUNCTION {function} SET search_path TO ' || current_setting('search_path');
            END $$
            """
        )


def downgrade() -> None:
    for function in OF_INDEXES:
        op.execute(f"ALTER FUNCTION {function} RESET search_path")
    op.execute("DROP TABLE served_revisions")
