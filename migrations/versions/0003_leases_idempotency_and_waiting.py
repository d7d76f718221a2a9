"""leases with cancel requests, idempotency keys, and the queue of a busy thread"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("turns", sa.Column("cancel_requested_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("turns", sa.Column("api_key_id", sa.Uuid(), nullable=True))
    op.add_column("turns", sa.Column("idempotency_key", sa.Text(), nullable=True))
    op.add_column("turns", sa.Column("body_hash", sa.LargeBinary(), nullable=True))
    op.add_column("turns", sa.Column("error_status", sa.SmallInteger(), nullable=True))
    op.create_table(
        "waiters",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id", "thread_id"],
            ["threads.project_id", "threads.id"],
            name=op.f("waiters_project_id_thread_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "thread_id", "id", name=op.f("waiters_pkey")),
    )
    # CONCURRENTLY needs to be outside a transaction: turns go on being written meanwhile.
    with op.get_context().autocommit_block():
        op.create_index(
            "turns_idempotency_key",
            "turns",
            ["project_id", "idempotency_key"],
            unique=True,
            postgresql_where=sa.text("idempotency_key IS NOT NULL"),
            postgresql_concurrently=True,
        )
        op.create_index("turns_body_hash_idx", "turns", ["project_id", "body_hash"], postgresql_concurrently=True)


def downgrade() -> None:
    op.drop_index("turns_body_hash_idx", table_name="turns")
    op.drop_index("turns_idempotency_key", table_name="turns")
    op.drop_table("waiters")
    for column in ("error_status", "body_hash", "idempotency_key", "api_key_id", "cancel_requested_at"):
        op.drop_column("turns", column)
