"""The records of the audit trail. Their table takes inserts only: triggers refuse UPDATE, DELETE and TRUNCATE."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, LargeBinary, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class AuditRecord(Base):
    """One change. No foreign key leads out of here: a record outlives what it tells of."""

    __tablename__ = "audit_records"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    """The thread; or the project itself, for what concerns no thread."""
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """From 1. Set by the trigger, like `at`, `previous` and `hash`."""
    id: Mapped[UUID]
    at: Mapped[datetime]
    action: Mapped[str] = mapped_column(Text)
    turn_id: Mapped[UUID | None]
    key_id: Mapped[UUID | None]
    """None where the service acted by itself, or somebody with a shell on its host."""
    user_id: Mapped[str | None] = mapped_column(Text)
    """The end user whose thread it is."""
    address: Mapped[str | None] = mapped_column(Text)
    detail: Mapped[str | None] = mapped_column(Text)
    content: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The salted SHA-256 of what was said; the salt lies with the content and goes with it."""
    previous: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (UniqueConstraint("project_id", "id"),)
