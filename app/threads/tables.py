"""Named threads. What a row must be is checked by the triggers threads_guard and threads_ttl_guard
(migrations/schema.sql)."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.sealing.columns import SealedDocument, SealedMetadata, SealedSalt, SealedTitle


class Thread(Base):
    __tablename__ = "threads"
    __bound_by__ = ("id",)

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    """Bucket, one of 1024 parts of its project, of the thread and of all its rows: see `db/buckets.py`."""
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str | None] = mapped_column(Text)
    title: Mapped[str | None] = mapped_column(SealedTitle)
    user_id: Mapped[str | None] = mapped_column(Text)
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata", SealedMetadata, server_default=text("'{}'"))
    head_turn_id: Mapped[UUID | None]
    """The turn that the next one continues."""
    forked_turn_id: Mapped[UUID | None]
    """The last turn that it shares with the thread it was forked from; the turns before that one are shared too."""
    turn_count: Mapped[int] = mapped_column(server_default=text("0"))
    last_seq: Mapped[int] = mapped_column(server_default=text("0"))
    """The number of its last turn. A fork's begins with that of the turn that it was forked at."""
    counted_seq: Mapped[int] = mapped_column(server_default=text("0"))
    """`seq` of the last turn in the usage sums, see `usage/sums.py`."""
    chain_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    """The number of the last record of its audit chain, and its hash."""
    chain_hash: Mapped[bytes] = mapped_column(LargeBinary, server_default=text("decode(repeat('00', 32), 'hex')"))
    trail_key: Mapped[bytes] = mapped_column(LargeBinary)
    """Key that names its user and their addresses in the audit trail: its user's key, else its project's."""
    salt: Mapped[bytes | None] = mapped_column(SealedSalt)
    """The salt of the digests in its audit records."""
    ttl_seconds: Mapped[int | None]
    """It is purged when nobody has touched it for so long."""
    expires_at: Mapped[datetime | None]
    """Time of the next check for expiry. It is postponed if the thread was used meanwhile."""
    preset: Mapped[dict[str, Any] | None] = mapped_column(SealedDocument, deferred=True)
    """See `projects/presets.py`. It is read where a request needs it."""
    archived_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """As it is shown. One that was imported keeps the moment that it had."""
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    arrived_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    """The database's moment: what threads are listed by."""

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "forked_turn_id"],
            ["turns.project_id", "turns.bucket", "turns.id"],
            name="threads_forked_turn_fkey",
            use_alter=True,
        ),
        Index("threads_expires_idx", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
        Index("threads_arrived_idx", "project_id", "arrived_at", "id"),
        Index(
            "threads_of_user_idx",
            "project_id",
            "user_id",
            "arrived_at",
            "id",
            postgresql_ops={"user_id": "text_pattern_ops"},
            postgresql_where=text("user_id IS NOT NULL"),
        ),
        Index(
            "threads_forked_turn_idx",
            "project_id",
            "bucket",
            "forked_turn_id",
            postgresql_where=text("forked_turn_id IS NOT NULL"),
        ),
        Index(
            "threads_metadata_idx",
            "metadata",
            postgresql_using="gin",
            postgresql_ops={"metadata": "jsonb_path_ops"},
            postgresql_where=text("metadata <> '{}'"),
        ),
        Index(
            "threads_title_lexemes_idx",
            text("title_lexemes_v1(project_id, title)"),
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": 128},
            postgresql_where=text("title IS NOT NULL"),
        ),
    )


class ThreadName(Base):
    """A name that is taken, by a bucket that is made from it: its uniqueness is decided in one place."""

    __tablename__ = "thread_names"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    name: Mapped[str] = mapped_column(Text, primary_key=True)
    thread_id: Mapped[UUID]

    __table_args__ = (
        Index("thread_names_prefix_idx", "project_id", "name", postgresql_ops={"name": "text_pattern_ops"}),
    )


class ThreadActivity(Base):
    """When a thread was last spoken in. Apart, so that a turn need not touch an index of the thread's row."""

    __tablename__ = "thread_activity"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    thread_id: Mapped[UUID] = mapped_column(primary_key=True)
    active_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "thread_id"],
            ["threads.project_id", "threads.bucket", "threads.id"],
            name="thread_activity_thread_fkey",
            ondelete="CASCADE",
        ),
        Index("thread_activity_idx", "project_id", "active_at", "thread_id"),
    )
