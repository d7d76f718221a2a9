"""full text search over titles and what was said"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "texts",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("turn_id", sa.Uuid(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("document", postgresql.TSVECTOR(), nullable=False),
        sa.CheckConstraint("role IN ('user', 'assistant')", name=op.f("texts_role_check")),
        sa.ForeignKeyConstraint(
            ["project_id", "turn_id"],
            ["turns.project_id", "turns.id"],
            name=op.f("texts_project_id_turn_id_fkey"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("project_id", "turn_id", "role", name=op.f("texts_pkey")),
    )
    op.create_index("texts_document_idx", "texts", ["document"], postgresql_using="gin")
    op.add_column("threads", sa.Column("title_document", postgresql.TSVECTOR(), nullable=True))
    with op.get_context().autocommit_block():
        op.create_index(
            "threads_title_document_idx",
            "threads",
            ["title_document"],
            postgresql_using="gin",
            postgresql_where=sa.text("title_document IS NOT NULL"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    op.drop_index("threads_title_document_idx", table_name="threads")
    op.drop_column("threads", "title_document")
    op.drop_table("texts")
