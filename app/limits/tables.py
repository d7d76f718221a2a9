"""Usage outside stored turns."""

from datetime import datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, SmallInteger, Text
from sqlalchemy import text as sql
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Charge(Base):
    """One answer of the provider, or several for one purpose, that no turn's row counts."""

    __tablename__ = "charges"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    kind: Mapped[str] = mapped_column(Text)
    """See `charges.Kind`."""
    model: Mapped[str] = mapped_column(Text)
    binding: Mapped[str | None] = mapped_column(Text)
    """The binding of the account that was asked."""
    api_key_id: Mapped[UUID | None]
    """The key that caused it."""
    user_id: Mapped[str | None] = mapped_column(Text)
    """The end user who caused it; null once the user's data was purged."""
    thread_id: Mapped[UUID | None]
    """The thread that it was spent for. The row outlives the thread: what was spent stays spent."""
    input_tokens: Mapped[int] = mapped_column(BigInteger)
    cached_tokens: Mapped[int] = mapped_column(BigInteger)
    cache_write_tokens: Mapped[int] = mapped_column(BigInteger)
    output_tokens: Mapped[int] = mapped_column(BigInteger)
    reasoning_tokens: Mapped[int] = mapped_column(BigInteger)
    total_tokens: Mapped[int] = mapped_column(BigInteger)
    tool_calls: Mapped[int] = mapped_column(BigInteger)
    estimated: Mapped[bool] = mapped_column(server_default=sql("false"))
    """True if the counts are not the provider's."""
    currency: Mapped[str | None] = mapped_column(Text)
    """None if no price was known, see `spent.Cost`."""
    cost: Mapped[Decimal | None]
    """By the prices of its day."""
    saved: Mapped[Decimal | None]

    __table_args__ = (
        CheckConstraint("kind IN ('chat', 'response', 'compaction', 'title', 'cut')", name="kind"),
        Index("charges_at_idx", "project_id", "at"),
        Index("charges_user_idx", "project_id", "user_id", postgresql_where=sql("user_id IS NOT NULL")),
    )
