"""retention: content that is purged after some days, users whose data is purged, copies to delete at the provider"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("projects", sa.Column("retention_days", sa.Integer(), nullable=True))
    op.add_column("projects", sa.Column("purged_until", sa.Uuid(), nullable=True))
    op.create_check_constraint(op.f("projects_retention_days_check"), "projects", "retention_days BETWEEN 1 AND 36500")
    op.create_table(
        "provider_deletions",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("response_id", sa.Text(), nullable=False),
        sa.Column("binding", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("next_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("project_id", "response_id", name=op.f("provider_deletions_pkey")),
    )
    op.create_index("provider_deletions_next_idx", "provider_deletions", ["binding", "next_at"])
    op.create_table(
        "user_purges",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=True),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("threads_done", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("lease_expires_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("completed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("threads_done >= 0", name=op.f("user_purges_threads_done_check")),
        sa.PrimaryKeyConstraint("project_id", "id", name=op.f("user_purges_pkey")),
    )
    op.create_index(
        "user_purges_unfinished_idx",
        "user_purges",
        ["lease_expires_at"],
        postgresql_where=sa.text("completed_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("user_purges")
    op.drop_table("provider_deletions")
    op.drop_constraint(op.f("projects_retention_days_check"), "projects", type_="check")
    op.drop_column("projects", "purged_until")
    op.drop_column("projects", "retention_days")
