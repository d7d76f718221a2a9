"""Projects and their API keys."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, LargeBinary, Text, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Project(Base):
    __tablename__ = "projects"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    trail_key: Mapped[bytes] = mapped_column(LargeBinary)
    """What the audit trail names addresses with, where no end user's key does."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retention_days: Mapped[int | None]
    """After so many days the content of a turn is purged. None: it is kept."""
    purged_until: Mapped[datetime | None]
    """Turns that arrived up to then have been purged."""
    session_cache: Mapped[str | None] = mapped_column(Text)
    """Whether the provider is asked to cache its contexts: off, on or auto. None: as the service is set."""

    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("retention_days BETWEEN 1 AND 36500", name="retention_days"),
        CheckConstraint("session_cache IN ('off', 'on', 'auto')", name="session_cache"),
    )


class ApiKey(Base):
    __tablename__ = "api_keys"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    key_hash: Mapped[bytes] = mapped_column(LargeBinary)
    hint: Mapped[str] = mapped_column(Text)
    """The key's first characters, to tell keys apart in a list."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    revoked_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]
    """To the hour."""

    # The one index that does not begin with the project: a key is what tells the project.
    __table_args__ = (UniqueConstraint("key_hash"),)
