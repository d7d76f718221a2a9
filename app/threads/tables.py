"""Named threads."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, LargeBinary, Text, func, text
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Thread(Base):
    __tablename__ = "threads"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str | None] = mapped_column(Text)
    user_id: Mapped[str | None] = mapped_column(Text)
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata", JSONB, server_default=text("'{}'"))
    head_turn_id: Mapped[UUID | None]
    """The turn that the next one continues."""
    forked_turn_id: Mapped[UUID | None]
    """The last turn that it shares with the thread it was forked from; the turns before that one are shared too."""
    turn_count: Mapped[int] = mapped_column(server_default=text("0"))
    archived_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Of the digests in its audit records. None in threads that are older than the audit trail."""
    title_document: Mapped[Any] = mapped_column(TSVECTOR, nullable=True)
    """The title as it is searched for."""

    __table_args__ = (
        CheckConstraint("char_length(name) BETWEEN 1 AND 256 AND strpos(name, '/') = 0", name="name"),
        CheckConstraint("char_length(title) <= 1000", name="title"),
        CheckConstraint("char_length(user_id) BETWEEN 1 AND 256", name="user_id"),
        CheckConstraint("jsonb_typeof(metadata) = 'object'", name="metadata"),
        ForeignKeyConstraint(
            ["project_id", "head_turn_id"],
            ["turns.project_id", "turns.id"],
            name="threads_head_turn_fkey",
            use_alter=True,
        ),
        ForeignKeyConstraint(
            ["project_id", "forked_turn_id"],
            ["turns.project_id", "turns.id"],
            name="threads_forked_turn_fkey",
            use_alter=True,
        ),
        Index("threads_name_key", "project_id", "name", unique=True, postgresql_where=text("name IS NOT NULL")),
        Index(
            "threads_name_prefix_idx",
            "project_id",
            "name",
            postgresql_ops={"name": "text_pattern_ops"},
            postgresql_where=text("name IS NOT NULL"),
        ),
        Index(
            "threads_title_document_idx",
            "title_document",
            postgresql_using="gin",
            postgresql_where=text("title_document IS NOT NULL"),
        ),
        Index(
            "threads_forked_turn_idx",
            "project_id",
            "forked_turn_id",
            postgresql_where=text("forked_turn_id IS NOT NULL"),
        ),
        Index("threads_updated_idx", "updated_at", "project_id"),
        # A turn that is deleted is looked for here by its foreign key.
        Index("threads_head_turn_idx", "head_turn_id", "project_id"),
        Index("threads_user_idx", "project_id", "user_id", "id", postgresql_where=text("user_id IS NOT NULL")),
        Index(
            "threads_metadata_idx",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
            postgresql_where=text("metadata <> '{}'"),
        ),
    )
