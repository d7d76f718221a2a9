"""the key that a head refers by has an index on its own side: deleting a turn need not look at every thread"""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.create_index(
            "threads_head_turn_idx", "threads", ["head_turn_id", "project_id"], postgresql_concurrently=True
        )


def downgrade() -> None:
    op.drop_index("threads_head_turn_idx", table_name="threads")
