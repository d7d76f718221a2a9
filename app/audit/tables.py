"""Tables of the audit trail's signatures. They take inserts only: triggers refuse UPDATE, DELETE and TRUNCATE."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, LargeBinary, SmallInteger, Text, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class AuditLeaf(Base):
    """The head of a chain, as a checkpoint found it: a leaf of the project's Merkle tree."""

    __tablename__ = "audit_leaves"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    chain_id: Mapped[UUID]
    seq: Mapped[int] = mapped_column(BigInteger)
    hash: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = (UniqueConstraint("project_id", "chain_id", "seq"),)


class AuditCheckpoint(Base):
    """A signature over the Merkle tree of the project's first `size` leaves."""

    __tablename__ = "audit_checkpoints"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    at: Mapped[datetime]
    root: Mapped[bytes] = mapped_column(LargeBinary)
    public_key: Mapped[bytes] = mapped_column(LargeBinary)
    signature: Mapped[bytes] = mapped_column(LargeBinary)
    note: Mapped[str | None] = mapped_column(Text)
    """Signed note (C2SP tlog-checkpoint). NULL in checkpoints of releases before notes."""


class AuditOrigin(Base):
    """The names of a project's log. Each restore of the database begins a new generation."""

    __tablename__ = "audit_origins"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    generation: Mapped[int] = mapped_column(primary_key=True)
    origin: Mapped[str] = mapped_column(Text)
    begun_at: Mapped[datetime] = mapped_column(server_default=func.now())


class AuditCosignature(Base):
    """A witness's cosignature of a checkpoint."""

    __tablename__ = "audit_cosignatures"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    size: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    origin: Mapped[str] = mapped_column(Text)
    name: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    signature: Mapped[bytes] = mapped_column(LargeBinary)


class AuditWitness(Base):
    """The last answer of a witness about a project, and the lease of the worker that sends to the witness."""

    __tablename__ = "audit_witnesses"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    public_key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    taken_until: Mapped[datetime]
    answered_at: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)


class AuditKey(Base):
    """A key that hosts may sign with. It is no project's."""

    __tablename__ = "audit_keys"

    public_key: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    added_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retired_at: Mapped[datetime | None]

    __table_args__ = (CheckConstraint("octet_length(public_key) = 32", name="public_key"),)


class AuditPosition(Base):
    """The position of a record in its project's stream."""

    __tablename__ = "audit_positions"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger)
    chain_id: Mapped[UUID]
    seq: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (
        CheckConstraint("position > 0", name="position"),
        UniqueConstraint("project_id", "bucket", "chain_id", "seq", name="audit_positions_record_key"),
    )


class StreamPlaces(Base):
    """Progress of the searches for records without a position, see `positions.py`. The row locks the stream."""

    __tablename__ = "audit_streams"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    ahead_at: Mapped[datetime] = mapped_column(server_default=text("'epoch'"))
    ahead_chain: Mapped[UUID] = mapped_column(server_default=text("'00000000-0000-0000-0000-000000000000'"))
    ahead_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    again_at: Mapped[datetime]
    again_chain: Mapped[UUID] = mapped_column(server_default=text("'00000000-0000-0000-0000-000000000000'"))
    again_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    again_next: Mapped[datetime | None]
    """Start of the next round of `again`; None between rounds."""
    swept_bucket: Mapped[int] = mapped_column(SmallInteger, server_default=text("-1"))
    swept_chain: Mapped[UUID] = mapped_column(server_default=text("'00000000-0000-0000-0000-000000000000'"))
    swept_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
