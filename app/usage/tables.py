"""Hourly sums of the outcomes of turns, and sums of their usage per quarter of an hour."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, ForeignKey, ForeignKeyConstraint, Index, SmallInteger, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class TurnHour(Base):
    """The turns of an hour that a model has answered, and that ended in one way."""

    __tablename__ = "turn_hours"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    hour: Mapped[datetime] = mapped_column(primary_key=True)
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    outcome: Mapped[str] = mapped_column(Text, primary_key=True)
    """A turn's status; of one that has failed, the meaning of its error."""
    turns: Mapped[int] = mapped_column(BigInteger)
    durations: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    """Number of turns per duration: see `hours.BOUNDS`."""
    first_words: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))
    """Number of streams per time to the first word."""

    __table_args__ = (CheckConstraint("turns >= 0", name="turns"),)


class UsageSum(Base):
    """Usage of a thread's turns in one quarter of an hour. It includes turns up to `Thread.counted_seq`."""

    __tablename__ = "usage_sums"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    thread_id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime] = mapped_column(primary_key=True)
    """The beginning of the quarter."""
    model: Mapped[str] = mapped_column(Text, primary_key=True)
    binding: Mapped[str] = mapped_column(Text, primary_key=True)
    """Empty if no account was called."""
    api_key_id: Mapped[UUID] = mapped_column(primary_key=True)
    """The nil UUID if the key is unknown."""
    currency: Mapped[str] = mapped_column(Text, primary_key=True)
    """Empty if there was no cost, or no known price."""
    turns: Mapped[int] = mapped_column(BigInteger)
    failed_turns: Mapped[int] = mapped_column(BigInteger)
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_write_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger)
    total_tokens: Mapped[int] = mapped_column(BigInteger)
    tool_calls: Mapped[int] = mapped_column(BigInteger)
    rebuilt_turns: Mapped[int] = mapped_column(BigInteger)
    rebuilt_input_tokens: Mapped[int] = mapped_column(BigInteger)
    unpriced_turns: Mapped[int] = mapped_column(BigInteger)
    """The number of turns that have tokens and no known price."""
    cost: Mapped[Decimal]
    rebuilt_input_cost: Mapped[Decimal]
    saved: Mapped[Decimal]

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "thread_id"],
            ["threads.project_id", "threads.bucket", "threads.id"],
            name="usage_sums_thread_fkey",
            ondelete="CASCADE",
        ),
        Index("usage_sums_at_idx", "project_id", "at"),
    )
