"""Compactions, and what was learnt of models."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKeyConstraint,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy import (
    text as sql,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.sealing.columns import SealedDocument, SealedSalt, SealedText


class Compaction(Base):
    """The beginning of a branch in few words: from its first turn to `turn_id`, for all branches that go through it."""

    __tablename__ = "compactions"
    __bound_by__ = ("turn_id", "id")

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    turn_id: Mapped[UUID]
    """The last turn that it covers."""
    previous_id: Mapped[UUID | None]
    """The compaction that it builds on."""
    status: Mapped[str] = mapped_column(Text)
    worker_id: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    """Renewed by the worker that makes it. One whose lease has run out is made by any other."""
    attempts: Mapped[int] = mapped_column(server_default=sql("1"))
    model: Mapped[str] = mapped_column(Text)
    """Model that makes the summary."""
    text: Mapped[str | None] = mapped_column(SealedText)
    kept_items: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=sql("'{}'"))
    """The ids of the items it covers that stay as they are: system messages and pinned ones."""
    covered_turns: Mapped[int]
    covered_tokens: Mapped[int] = mapped_column(BigInteger)
    tokens: Mapped[int | None]
    """Tokens of the summary."""
    calls: Mapped[list[dict[str, Any]] | None] = mapped_column(SealedDocument)
    """Calls that were sent to the model for it."""
    usage: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    error: Mapped[dict[str, Any] | None] = mapped_column(SealedDocument)
    salt: Mapped[bytes | None] = mapped_column(SealedSalt)
    """The salt of the digest in its audit record."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    completed_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("project_id", "bucket", "turn_id", name="compactions_turn_key"),
        ForeignKeyConstraint(
            ["project_id", "bucket", "turn_id"],
            ["turns.project_id", "turns.bucket", "turns.id"],
            name="compactions_turn_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint("status IN ('running', 'ready', 'failed')", name="status"),
        CheckConstraint("attempts >= 1", name="attempts"),
        CheckConstraint("covered_turns >= 1", name="covered_turns"),
        CheckConstraint("(status = 'ready') = (text IS NOT NULL)", name="text"),
        CheckConstraint("(status = 'running') = (lease_expires_at IS NOT NULL)", name="lease"),
        CheckConstraint("status <> 'failed' OR error IS NOT NULL", name="error"),
        Index("compactions_running_idx", "lease_expires_at", postgresql_where=sql("status = 'running'")),
    )


class ObservedModel(Base):
    """Observations of a model in the provider's answers."""

    __tablename__ = "learnt_models"

    binding: Mapped[str] = mapped_column(Text, primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    window_tokens: Mapped[int | None] = mapped_column(BigInteger)
    """Less than what is known of its family."""
    tokens_per_counted: Mapped[float | None] = mapped_column(Double)
    """The model's count for one token of Qwen's older vocabulary."""
    learnt_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        CheckConstraint("window_tokens > 0", name="window_tokens"),
        CheckConstraint("tokens_per_counted > 0", name="tokens_per_counted"),
    )
