"""Tables of feedback on turns, and of links to conversations."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Double, ForeignKeyConstraint, Index, LargeBinary, SmallInteger, Text, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.sealing.columns import SealedSalt, SealedText

_TURN = ["turns.project_id", "turns.bucket", "turns.id"]


class Feedback(Base):
    __tablename__ = "feedback"
    __bound_by__ = ("turn_id", "id")

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    turn_id: Mapped[UUID]
    score: Mapped[float | None] = mapped_column(Double)
    """From -1 to 1."""
    label: Mapped[str | None] = mapped_column(Text)
    comment: Mapped[str | None] = mapped_column(SealedText)
    user_id: Mapped[str | None] = mapped_column(Text)
    """End user who gives the feedback, as the app names its users."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    salt: Mapped[bytes | None] = mapped_column(SealedSalt)
    """The salt of the digest in its audit record."""

    __table_args__ = (
        ForeignKeyConstraint(["project_id", "bucket", "turn_id"], _TURN, name="feedback_turn_fkey", ondelete="CASCADE"),
        CheckConstraint("score BETWEEN -1 AND 1", name="score"),
        CheckConstraint("char_length(label) BETWEEN 1 AND 64", name="label"),
        CheckConstraint("char_length(comment) BETWEEN 1 AND 4000 OR starts_with(comment, E'\\x01')", name="comment"),
        CheckConstraint("num_nonnulls(score, label, comment) > 0", name="something"),
        Index("feedback_turn_idx", "project_id", "bucket", "turn_id"),
        Index("feedback_created_idx", "project_id", "created_at", "id"),
    )


class Share(Base):
    """A link that shows a conversation up to a turn, to whoever has it."""

    __tablename__ = "shares"
    __bound_by__ = ("thread_id", "turn_id", "id")

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    thread_id: Mapped[UUID]
    turn_id: Mapped[UUID]
    """The last one that is shown."""
    title: Mapped[str | None] = mapped_column(SealedText)
    """The title that the thread had when it was shared."""
    token_hash: Mapped[bytes] = mapped_column(LargeBinary)
    """Hash of the token in the link: the link itself is not stored."""
    expires_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    salt: Mapped[bytes | None] = mapped_column(SealedSalt)
    """The salt of the digest in its audit record."""

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "thread_id"],
            ["threads.project_id", "threads.bucket", "threads.id"],
            name="shares_thread_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(["project_id", "bucket", "turn_id"], _TURN, name="shares_turn_fkey", ondelete="CASCADE"),
        CheckConstraint("octet_length(token_hash) = 32", name="token_hash"),
        Index("shares_thread_idx", "project_id", "bucket", "thread_id"),
        Index("shares_turn_idx", "project_id", "bucket", "turn_id"),
        Index("shares_token_idx", "bucket", "token_hash"),
    )
