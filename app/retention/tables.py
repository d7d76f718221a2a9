"""Work that forgetting leaves to be done: users to purge, and copies to delete at the provider."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, Index, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class ProviderDeletion(Base):
    """A response that was deleted here, and not yet at the provider."""

    __tablename__ = "provider_deletions"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    response_id: Mapped[str] = mapped_column(Text, primary_key=True)
    binding: Mapped[str] = mapped_column(Text)
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    """When the provider forgets it by itself."""

    __table_args__ = (Index("provider_deletions_next_idx", "binding", "next_at"),)


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
