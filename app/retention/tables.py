"""Users whose data is being purged, and the certificates of purges."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, Index, LargeBinary, Text, func, text
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


class PurgeRecords(Base):
    """The records by which a user's data was purged. Takes inserts only: triggers refuse all else."""

    __tablename__ = "purge_records"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    purge_id: Mapped[UUID] = mapped_column(primary_key=True)
    leaves: Mapped[bytes] = mapped_column(LargeBinary)
    """`leaf_data` of each record, one after the other. The record of the purge's end has their Merkle root."""

    __table_args__ = (CheckConstraint("octet_length(leaves) % 56 = 0", name="leaves"),)


class PurgeCertificate(Base):
    """A signed certificate. Takes inserts only, too."""

    __tablename__ = "purge_certificates"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    purge_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    """Number of the record that ends the purge: a thread that was imported again can be deleted again."""
    note: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
