"""The records of the audit trail, and the keys that they name end users with.

Records take inserts only, by the functions that chain them: triggers refuse all else.
"""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, Index, LargeBinary, SmallInteger, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base

ERASED = (
    "action IN ('thread.deleted', 'thread.purged', 'turn.purged', 'user.purged', 'hold.erased',"
    " 'project.key_destroyed')"
)
"""Condition of the index of erasure records."""


class AuditRecord(Base):
    """One change. The table has no foreign keys, because a record outlives its subject."""

    __tablename__ = "audit_records"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    """The thread; or the project itself, for what concerns no thread."""
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """From 1. Given by the database, like `at`, `previous` and `hash`."""
    at: Mapped[datetime]
    action: Mapped[str] = mapped_column(Text)
    turn_id: Mapped[UUID | None]
    key_id: Mapped[UUID | None]
    """None if the service acted by itself, or a command on its host."""
    user_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The end user whose thread it is, under a key of theirs that goes when they are purged."""
    address_digest: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Digest of the caller's address, under the user's key; under the project's, where there is no user."""
    detail: Mapped[str | None] = mapped_column(Text)
    content: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The salted SHA-256 of the content; the salt lies beside the content and is deleted with it."""
    previous: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    version: Mapped[int] = mapped_column(SmallInteger, server_default=text("2"))
    """The version of the lists of fields that its content is hashed by: see `contents.py`."""

    __table_args__ = (
        Index("audit_records_at_idx", "project_id", "at"),
        Index("audit_records_encrypted_idx", "project_id", "at", postgresql_where=text("action = 'project.encrypted'")),
        Index("audit_records_erased_idx", "project_id", "at", postgresql_where=text(ERASED)),
    )


class UserKey(Base):
    """Key of the digests that name an end user in the trail. Without it, records cannot be linked to the user."""

    __tablename__ = "user_keys"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    user_id: Mapped[str] = mapped_column(Text, primary_key=True)
    key: Mapped[bytes] = mapped_column(LargeBinary)
