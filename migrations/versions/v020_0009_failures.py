"""failed turns of a project"""

from alembic import op

revision = "v020_0009"
down_revision = "v020_0008"
branch_labels = None
depends_on = None

SERVES_THE_RELEASE_BEFORE = True


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # An index that an interrupted attempt has left is not valid.
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS turns_failed_idx")
        op.execute("""
            CREATE INDEX CONCURRENTLY turns_failed_idx ON turns (project_id, completed_at, id)
                WHERE status IN ('failed', 'incomplete') AND copied_from_id IS NULL AND deleted_at IS NULL
        """)


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS turns_failed_idx")
