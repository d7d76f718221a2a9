"""The provider's copies that are still to be deleted."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, SmallInteger, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class ProviderDeletion(Base):
    """A response that was deleted here, and not yet at the provider."""

    __tablename__ = "provider_deletions"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    response_id: Mapped[str] = mapped_column(Text, primary_key=True)
    binding: Mapped[str] = mapped_column(Text)
    tries: Mapped[int] = mapped_column(server_default=text("0"))
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]
    """When the provider forgets it by itself."""

    __table_args__ = (Index("provider_deletions_next_idx", "binding", "next_at"),)
