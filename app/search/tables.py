"""What can be searched for: the texts of turns, as lexemes. Titles lie with their threads."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKeyConstraint, Index, SmallInteger, Text, func
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, domain


class SearchText(Base):
    """What one side said in a turn. The text itself is in its items."""

    __tablename__ = "texts"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    turn_id: Mapped[UUID] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(domain("text_role", Text()), primary_key=True)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """The turn's."""
    document: Mapped[Any] = mapped_column(TSVECTOR)

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "turn_id"],
            ["turns.project_id", "turns.bucket", "turns.id"],
            name="texts_turn_fkey",
            ondelete="CASCADE",
        ),
        Index("texts_document_idx", "document", postgresql_using="gin"),
    )
