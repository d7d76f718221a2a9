"""threads turns items calls"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("project_id", name=op.f("projects_pkey")),
        sa.UniqueConstraint("name", name=op.f("projects_name_key")),
    )
    op.create_table(
        "api_keys",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("key_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hint", sa.Text(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.project_id"], name=op.f("api_keys_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", "id", name=op.f("api_keys_pkey")),
        sa.UniqueConstraint("key_hash", name=op.f("api_keys_key_hash_key")),
    )
    op.create_table(
        "threads",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.Text(), nullable=True),
        sa.Column("title", sa.Text(), nullable=True),
        sa.Column("user_id", sa.Text(), nullable=True),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("head_turn_id", sa.Uuid(), nullable=True),
        sa.Column("turn_count", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("archived_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.CheckConstraint(
            "char_length(name) BETWEEN 1 AND 256 AND strpos(name, '/') = 0", name=op.f("threads_name_check")
        ),
        sa.CheckConstraint("jsonb_typeof(metadata) = 'object'", name=op.f("threads_metadata_check")),
        sa.CheckConstraint("char_length(title) <= 1000", name=op.f("threads_title_check")),
        sa.CheckConstraint("char_length(user_id) BETWEEN 1 AND 256", name=op.f("threads_user_id_check")),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.project_id"], name=op.f("threads_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("project_id", "id", name=op.f("threads_pkey")),
    )
    op.create_index(
        "threads_metadata_idx",
        "threads",
        ["metadata"],
        unique=False,
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
        postgresql_where=sa.text("metadata <> '{}'"),
    )
    op.create_index(
        "threads_name_key", "threads", ["project_id", "name"], unique=True, postgresql_where=sa.text("name IS NOT NULL")
    )
    op.create_index(
        "threads_name_prefix_idx",
        "threads",
        ["project_id", "name"],
        unique=False,
        postgresql_ops={"name": "text_pattern_ops"},
        postgresql_where=sa.text("name IS NOT NULL"),
    )
    op.create_index(
        "threads_user_idx",
        "threads",
        ["project_id", "user_id", "id"],
        unique=False,
        postgresql_where=sa.text("user_id IS NOT NULL"),
    )
    op.create_index("threads_updated_idx", "threads", ["project_id", "updated_at"], unique=False)
    op.create_table(
        "turns",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("thread_id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("continuation", sa.Text(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("params", sa.JSON(), nullable=False),
        sa.Column("metadata", postgresql.JSONB(astext_type=sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("ignored", postgresql.ARRAY(sa.Text()), server_default=sa.text("'{}'"), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("completed_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("worker_id", sa.Uuid(), nullable=True),
        sa.Column("lease_expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("response", sa.JSON(), nullable=True),
        sa.Column("usage", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("incomplete_details", sa.JSON(), nullable=True),
        sa.Column("binding", sa.Text(), nullable=True),
        sa.Column("response_id", sa.Text(), nullable=True),
        sa.Column("response_created_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("response_expires_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("response_unknown_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name=op.f("turns_error_check")),
        sa.CheckConstraint("(status = 'in_progress') = (completed_at IS NULL)", name=op.f("turns_completed_at_check")),
        sa.CheckConstraint("(status = 'in_progress') = (lease_expires_at IS NOT NULL)", name=op.f("turns_lease_check")),
        sa.CheckConstraint("continuation IN ('new', 'chained', 'rebuilt')", name=op.f("turns_continuation_check")),
        sa.CheckConstraint("status <> 'completed' OR response_id IS NOT NULL", name=op.f("turns_response_id_check")),
        sa.CheckConstraint(
            "status <> 'incomplete' OR incomplete_details IS NOT NULL", name=op.f("turns_incomplete_details_check")
        ),
        sa.CheckConstraint(
            "status IN ('in_progress', 'completed', 'incomplete', 'failed', 'cancelled')",
            name=op.f("turns_status_check"),
        ),
        sa.CheckConstraint("parent_id <> id", name=op.f("turns_parent_check")),
        sa.CheckConstraint(
            "response_id IS NOT NULL OR response_expires_at IS NULL", name=op.f("turns_response_expires_at_check")
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "thread_id", "parent_id"],
            ["turns.project_id", "turns.thread_id", "turns.id"],
            name="turns_parent_fkey",
        ),
        sa.ForeignKeyConstraint(
            ["project_id", "thread_id"],
            ["threads.project_id", "threads.id"],
            name=op.f("turns_project_id_thread_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "id", name=op.f("turns_pkey")),
        sa.UniqueConstraint("project_id", "thread_id", "id", name=op.f("turns_project_id_thread_id_id_key")),
    )
    op.create_index(
        "turns_lease_idx",
        "turns",
        ["lease_expires_at"],
        unique=False,
        postgresql_where=sa.text("status = 'in_progress'"),
    )
    op.create_index(
        "turns_one_active_per_thread",
        "turns",
        ["project_id", "thread_id"],
        unique=True,
        postgresql_where=sa.text("status = 'in_progress'"),
    )
    op.create_foreign_key(
        "threads_head_turn_fkey",
        "threads",
        "turns",
        ["project_id", "id", "head_turn_id"],
        ["project_id", "thread_id", "id"],
    )
    op.create_index("turns_parent_idx", "turns", ["project_id", "thread_id", "parent_id"], unique=False)
    op.create_table(
        "calls",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("turn_id", sa.Uuid(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("continuation", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("dropped_items", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("status", sa.Integer(), nullable=True),
        sa.Column("response_id", sa.Text(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.CheckConstraint("continuation IN ('new', 'chained', 'rebuilt')", name=op.f("calls_continuation_check")),
        sa.CheckConstraint("attempt >= 1", name=op.f("calls_attempt_check")),
        sa.ForeignKeyConstraint(
            ["project_id", "turn_id"],
            ["turns.project_id", "turns.id"],
            name=op.f("calls_project_id_turn_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "turn_id", "attempt", name=op.f("calls_pkey")),
    )
    op.create_table(
        "items",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("turn_id", sa.Uuid(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("origin", sa.Text(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("item_id", sa.Text(), nullable=False),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.CheckConstraint("origin IN ('input', 'output')", name=op.f("items_origin_check")),
        sa.CheckConstraint("position >= 0", name=op.f("items_position_check")),
        sa.ForeignKeyConstraint(
            ["project_id", "turn_id"],
            ["turns.project_id", "turns.id"],
            name=op.f("items_project_id_turn_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "turn_id", "position", name=op.f("items_pkey")),
    )


def downgrade() -> None:
    op.drop_constraint("threads_head_turn_fkey", "threads", type_="foreignkey")
    op.drop_table("items")
    op.drop_table("calls")
    op.drop_table("turns")
    op.drop_table("threads")
    op.drop_table("api_keys")
    op.drop_table("projects")
