"""Users whose data is being purged."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class UserPurge(Base):
    """Everything of one end user is being purged, or has been."""

    __tablename__ = "user_purges"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(Text)
    key_id: Mapped[UUID | None]
    address: Mapped[str | None] = mapped_column(Text)
    threads: Mapped[int]
    threads_done: Mapped[int] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    lease_expires_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """Until then a worker is at it. One that has died leaves it to another."""
    completed_at: Mapped[datetime | None]

    __table_args__ = (
        CheckConstraint("threads_done >= 0", name="threads_done"),
        Index("user_purges_unfinished_idx", "lease_expires_at", postgresql_where=text("completed_at IS NULL")),
    )
