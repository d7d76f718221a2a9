"""Projects and their API keys."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base
from app.sealing.columns import SealedDocument


class Project(Base):
    __tablename__ = "projects"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)
    trail_key: Mapped[bytes] = mapped_column(LargeBinary)
    """Key of the digests with which the audit trail names addresses, where no end user's key does."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    retention_days: Mapped[int | None]
    """After so many days the content of a turn is purged. None: it is kept."""
    purged_until: Mapped[datetime | None]
    """Turns that arrived up to then have been purged."""
    session_cache: Mapped[str | None] = mapped_column(Text)
    """Session cache at the provider: off, on or auto. None: the service's setting."""

    record_reads: Mapped[str] = mapped_column(Text, server_default=text("'staff'"))
    """Readers whose reads are recorded: see `settings.RecordReads`."""
    operates: Mapped[bool] = mapped_column(server_default=text("false"))
    """True if its keys with the scope admin manage the whole service, not only their own project."""
    archived_at: Mapped[datetime | None]
    """Since then, none of its keys is taken."""
    settings: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    """See `settings.py`."""
    encrypted_at: Mapped[datetime | None]
    """Time from which its contents are written encrypted. None: they are plain."""
    key_destroyed_at: Mapped[datetime | None]
    """Time from which its contents cannot be decrypted."""
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The salt of the digests in its audit records."""
    minimum_retention_days: Mapped[int | None]
    """Contents that are deleted or changed earlier are kept until then. None: they are not."""
    minimum_retention_former: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'"))
    """Longer minimums that still hold for contents written before each was lowered. The database writes it."""

    __table_args__ = (
        UniqueConstraint("name"),
        CheckConstraint("retention_days BETWEEN 1 AND 36500", name="retention_days"),
        CheckConstraint("minimum_retention_days BETWEEN 1 AND 36500", name="minimum_retention_days"),
        CheckConstraint("retention_days >= minimum_retention_days", name="minimum_retention"),
        CheckConstraint("session_cache IN ('off', 'on', 'auto')", name="session_cache"),
        CheckConstraint("record_reads IN ('off', 'staff', 'all')", name="record_reads"),
        CheckConstraint(
            "key_destroyed_at IS NULL OR (encrypted_at IS NOT NULL AND archived_at IS NOT NULL)", name="key_destroyed"
        ),
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
    scopes: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{read,write,audit,admin}'"))
    expires_at: Mapped[datetime | None]
    limits: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=text("'{}'"))
    """Its own; empty: those of the project's keys."""
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The salt of the digests in its audit records."""
    subject: Mapped[str | None] = mapped_column(Text)
    """Issuer and subject of a person: see `people.py`. None: an API key."""

    # The one index that does not begin with the project: a key is what tells the project.
    __table_args__ = (
        UniqueConstraint("key_hash"),
        Index(
            "api_keys_subject_idx",
            "project_id",
            "subject",
            unique=True,
            postgresql_where=text("revoked_at IS NULL AND subject IS NOT NULL"),
        ),
        CheckConstraint("scopes <@ '{read,write,audit,admin}' AND scopes <> '{}'", name="scopes"),
    )


class ConsoleSession(Base):
    """A browser that is signed in to the console with a key, until the row expires."""

    __tablename__ = "console_sessions"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    key_id: Mapped[UUID]
    token_hash: Mapped[bytes] = mapped_column(LargeBinary)
    """SHA-256 of the cookie, which is not stored."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    expires_at: Mapped[datetime]

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "key_id"],
            ["api_keys.project_id", "api_keys.id"],
            name="console_sessions_key_fkey",
            ondelete="CASCADE",
        ),
        UniqueConstraint("token_hash"),
        CheckConstraint("octet_length(token_hash) = 32", name="token_hash"),
        Index("console_sessions_key_idx", "project_id", "key_id"),
        Index("console_sessions_expires_idx", "expires_at"),
    )


class UserCutoff(Base):
    """Time until which the tokens of an end user are refused: see `cutoffs.py`."""

    __tablename__ = "user_cutoffs"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    user_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    cut_at: Mapped[int] = mapped_column(BigInteger)
    """Microseconds since 1970."""
    claimed_by: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Hash of the user who has claimed the threads of this anonymous user."""

    __table_args__ = (Index("user_cutoffs_cut_idx", "project_id", "cut_at"),)


class ClaimedAudience(Base):
    """Issuer and audience of JWTs that a project accepts, or has accepted: see `identity_providers.py`."""

    __tablename__ = "claimed_audiences"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    issuer: Mapped[str] = mapped_column(Text, primary_key=True)
    audience: Mapped[str] = mapped_column(Text, primary_key=True)
    key_id: Mapped[UUID]
    """Key that carries the access of its JWTs. Nobody knows its text."""

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "key_id"],
            ["api_keys.project_id", "api_keys.id"],
            name="claimed_audiences_key_fkey",
            ondelete="CASCADE",
        ),
        UniqueConstraint("issuer", "audience"),
    )


class StreamTicket(Base):
    """A ticket that opens a stream once. The row is deleted when it is used."""

    __tablename__ = "stream_tickets"

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    """SHA-256 of the ticket, which is not stored."""
    owner_hash: Mapped[bytes] = mapped_column(LargeBinary)
    """Hash of the owner: the key and user whose tickets are counted together."""
    path_hash: Mapped[bytes] = mapped_column(LargeBinary)
    credential: Mapped[bytes] = mapped_column(LargeBinary)
    """Sealed with a key that only the ticket gives."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    expires_at: Mapped[datetime]

    __table_args__ = (
        UniqueConstraint("token_hash"),
        CheckConstraint("octet_length(token_hash) = 32", name="token_hash"),
        Index("stream_tickets_owner_idx", "project_id", "owner_hash"),
        Index("stream_tickets_expires_idx", "expires_at"),
    )


class StoredPreset(Base):
    """A preset of a project or of user tokens."""

    __tablename__ = "user_presets"
    __bound_by__ = ("id",)

    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.project_id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    preset: Mapped[dict[str, Any]] = mapped_column(SealedDocument)
    expires_at: Mapped[datetime | None]

    __table_args__ = (Index("user_presets_expires_idx", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),)
