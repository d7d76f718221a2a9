"""Projects' own keys, each sealed by the service's master key; and the sealed nodes of a master key that is short."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, LargeBinary, SmallInteger, func
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class DataKey(Base):
    """Key of a project's sealed values. The newest one seals."""

    __tablename__ = "data_keys"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    """From 1."""
    master_id: Mapped[bytes] = mapped_column(LargeBinary)
    """First bytes of the SHA-256 of the master key that sealed it."""
    wrapped: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (CheckConstraint("number >= 1", name="number"),)


class MasterNodes(Base):
    """The nodes of a master key, sealed with the secret that is in the environment: see `master.py`."""

    __tablename__ = "master_nodes"

    secret_id: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    """The first bytes of a digest of the secret that seals them."""
    nodes: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
