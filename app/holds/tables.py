"""Tables of legal holds, and of rows that they keep. Triggers write and guard them: see migrations/schema.sql."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, BigInteger, CheckConstraint, ForeignKey, Index, SmallInteger, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.sealing.columns import SealedText


class Hold(Base):
    """A legal hold on a thread, on a user's threads, or on all threads of a project."""

    __tablename__ = "holds"
    __bound_by__ = ("id",)

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    scope: Mapped[str] = mapped_column(Text)
    thread_id: Mapped[UUID | None]
    user_id: Mapped[str | None] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(SealedText)
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    key_id: Mapped[UUID | None]
    """The key that has placed it."""
    released_at: Mapped[datetime | None]
    released_by: Mapped[UUID | None]
    release_reason: Mapped[str | None] = mapped_column(SealedText)
    erased_at: Mapped[datetime | None]
    """Time at which the cleaner had erased the rows that no other hold covers."""
    erased_rows: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (
        CheckConstraint("scope IN ('thread', 'user', 'project')", name="scope"),
        CheckConstraint(
            "(scope = 'thread') = (thread_id IS NOT NULL)"
            " AND ((scope = 'user') = (user_id IS NOT NULL) OR erased_at IS NOT NULL)",
            name="target",
        ),
        CheckConstraint("(released_at IS NULL) = (release_reason IS NULL)", name="released"),
        CheckConstraint("erased_rows >= 0 AND (erased_at IS NULL OR released_at IS NOT NULL)", name="erased"),
        Index("holds_active_idx", "project_id", postgresql_where=text("released_at IS NULL")),
        Index(
            "holds_unerased_idx",
            "released_at",
            postgresql_where=text("released_at IS NOT NULL AND erased_at IS NULL"),
        ),
    )


class HeldRow(Base):
    """A row of another table as it was before it was deleted or changed under a hold."""

    __tablename__ = "held_rows"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=func.gen_random_uuid())
    thread_id: Mapped[UUID | None]
    """The thread whose history had it: a turn that forks share is kept for each held one."""
    user_id: Mapped[str | None] = mapped_column(Text)
    """The thread's user at the time."""
    source: Mapped[str] = mapped_column(Text)
    """The table."""
    turn_id: Mapped[UUID | None]
    place: Mapped[int] = mapped_column(server_default=text("0"))
    row_key: Mapped[str] = mapped_column(Text)
    kept_at: Mapped[datetime] = mapped_column(server_default=func.now())
    keep_until: Mapped[datetime | None]
    data: Mapped[Any] = mapped_column(JSON)
    """`json_populate_record(NULL::items, data)` gives the row back, sealed columns as they were."""

    __table_args__ = (
        Index("held_rows_thread_idx", "project_id", "bucket", "thread_id", "kept_at"),
        Index("held_rows_key_idx", "project_id", "bucket", "thread_id", "source", "row_key"),
        Index("held_rows_user_idx", "project_id", "user_id", postgresql_where=text("user_id IS NOT NULL")),
        Index("held_rows_until_idx", "keep_until", postgresql_where=text("keep_until IS NOT NULL")),
    )
