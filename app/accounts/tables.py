"""Provider accounts."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ARRAY, CheckConstraint, ForeignKey, Index, LargeBinary, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Account(Base):
    """A key at an endpoint of the provider's, that turns of a project may be answered with."""

    __tablename__ = "accounts"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    position: Mapped[int]
    """The least is asked first; of equals, each as often as it weighs."""
    weight: Mapped[int]
    base_url: Mapped[str] = mapped_column(Text)
    binding: Mapped[str] = mapped_column(Text)
    """Binding that its response ids belong to: see `provider/account.py`."""
    api_key: Mapped[bytes] = mapped_column(LargeBinary)
    """Sealed for the project."""
    hint: Mapped[str] = mapped_column(Text)
    """First characters of the key, to tell keys apart."""
    models: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """Models that the account serves; empty: all. A `*` at the end matches any suffix."""
    shared: Mapped[bool] = mapped_column(server_default=text("false"))
    """True if it serves every project that has no accounts of its own."""
    disabled: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("project_id", "name", name="accounts_name_key"),
        CheckConstraint("weight BETWEEN 1 AND 1000", name="weight"),
        Index("accounts_shared_idx", "position", postgresql_where=text("shared")),
        Index("accounts_binding_idx", "binding"),
    )
