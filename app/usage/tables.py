"""Outcomes of turns, in hourly sums."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, CheckConstraint, ForeignKey, Text
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
