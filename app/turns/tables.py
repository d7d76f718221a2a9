"""Turns, their items, and the calls that were made for them.

What a row must be is checked by triggers (migrations/schema.sql).
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    Computed,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base, domain
from app.sealing.columns import (
    SealedDigest,
    SealedDocument,
    SealedItem,
    SealedMetadata,
    SealedSalt,
    SealedText,
    SealedTexts,
)

DOCUMENT = JSON(none_as_null=True)
"""As it came, key order and all; `json` and not `jsonb`."""
SEALED = SealedDocument()


class Turn(Base):
    """One request to the model with its answer."""

    __tablename__ = "turns"
    __bound_by__ = ("id",)

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    thread_id: Mapped[UUID]
    seq: Mapped[int]
    """Its number in its thread, given under the lock of the thread's row: what turns are listed by."""
    parent_id: Mapped[UUID | None]
    copied_from_id: Mapped[UUID | None]
    """The turn that a fork has copied: what is purged there is purged here too."""
    status: Mapped[str] = mapped_column(Text)
    continuation: Mapped[str | None] = mapped_column(Text)
    """None until the turn is closed, and for items that were added outside any call to the model."""
    continuation_reason: Mapped[str | None] = mapped_column(Text)
    """Reason: see `chain/continuation.py`. None also for turns of releases that stored no reason."""
    model: Mapped[str] = mapped_column(Text)
    params: Mapped[dict[str, Any]] = mapped_column(SEALED)
    """The request as the client sent it, without its input and metadata."""
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata", SealedMetadata, server_default=text("'{}'"))
    ignored: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """The requested fields that the provider ignores."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """As it is shown. One that was imported keeps the moment that it had."""
    arrived_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())
    """The database's moment: what it is kept from."""
    completed_at: Mapped[datetime | None]
    worker_id: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    """Renewed by the worker. A turn whose lease has run out is closed by any other."""
    cancel_requested_at: Mapped[datetime | None]
    beside: Mapped[int] = mapped_column(server_default=text("0"))
    """0 for a turn that will move its thread's head, of which one is in progress; its number for one beside it."""
    api_key_id: Mapped[UUID | None]
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    key_scope: Mapped[UUID | None]
    """The scope of its Idempotency-Key: its thread, or the project if its request created the thread."""
    client_left_at: Mapped[datetime | None]
    """Since when its client is known to have gone before the first byte of an answer, and no retry has claimed it."""
    body_hash: Mapped[bytes | None] = mapped_column(SealedDigest("params"))
    """SHA-256 of the request's body: tells a client's retry."""
    salt: Mapped[bytes | None] = mapped_column(SealedSalt)
    """The salt of the digests in its audit records. It is deleted with the content."""
    left_salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    """The salt of the digest of its place, once its content is gone or a fork has taken it over. It is not sealed:
    nothing that was said is in that digest."""
    error_status: Mapped[int | None] = mapped_column(SmallInteger)
    """The HTTP status that a failed turn was answered with; None where its client had been answered before."""

    response: Mapped[dict[str, Any] | None] = mapped_column(SEALED)
    """The provider's response object without its output and usage."""
    usage: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    cost: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    """By the prices of its day: see `limits/spent.py`. None if there was no cost, or no known price."""
    error: Mapped[dict[str, Any] | None] = mapped_column(SEALED)
    incomplete_details: Mapped[dict[str, Any] | None] = mapped_column(SEALED)
    pace: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    """When each delta of a streamed answer came, and how long it was: see `turns/pace.py`."""
    context: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    """The tokens that the model has read, and the items left out: see `chain/context.py`."""

    binding: Mapped[str | None] = mapped_column(Text)
    response_id: Mapped[str | None] = mapped_column(Text)
    response_created_at: Mapped[datetime | None]
    response_expires_at: Mapped[datetime | None]
    """None where the provider did not store the response."""
    deleted_at: Mapped[datetime | None]
    """When its content was deleted. The row stays: later turns continue it."""
    response_unknown_at: Mapped[datetime | None]
    """Since when the id is of no use: the provider does not know it, or the history that it stands for was changed."""
    response_unknown_reason: Mapped[str | None] = mapped_column(Text)
    """Reason, as the `continuation_reason` of the turns that continue from it."""

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "thread_id"],
            ["threads.project_id", "threads.bucket", "threads.id"],
            name="turns_thread_fkey",
            ondelete="CASCADE",
        ),
        ForeignKeyConstraint(
            ["project_id", "bucket", "parent_id"],
            ["turns.project_id", "turns.bucket", "turns.id"],
            name="turns_parent_fkey",
        ),
        Index("turns_arrived_idx", "project_id", "arrived_at", postgresql_where=text("arrived_at IS NOT NULL")),
        Index("turns_copied_idx", "copied_from_id", "project_id", postgresql_where=text("copied_from_id IS NOT NULL")),
        Index(
            "turns_failed_idx",
            "project_id",
            "completed_at",
            "id",
            postgresql_where=text(
                "status IN ('failed', 'incomplete') AND copied_from_id IS NULL AND deleted_at IS NULL"
            ),
        ),
        Index("turns_child_idx", "project_id", "bucket", "parent_id", postgresql_where=text("parent_id IS NOT NULL")),
        Index(
            "turns_response_idx",
            "project_id",
            text("((arrived_at AT TIME ZONE 'UTC')::date)"),
            text("hashtext(response_id)"),
            postgresql_where=text("response_id IS NOT NULL"),
        ),
        Index("turns_seq_key", "project_id", "bucket", "thread_id", "seq", unique=True),
        Index(
            "turns_one_active_per_thread",
            "project_id",
            "bucket",
            "thread_id",
            "beside",
            unique=True,
            postgresql_where=text("status = 'in_progress'"),
        ),
        Index(
            "turns_idempotency_key",
            "project_id",
            "bucket",
            "key_scope",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
    )


class Item(Base):
    """One element of a turn's input or output, in the Responses API's own types."""

    __tablename__ = "items"
    __bound_by__ = ("turn_id", "position")

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    turn_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(domain("item_position", Integer()), primary_key=True)
    """From 0: first the input's items, then the output's."""
    origin: Mapped[str] = mapped_column(domain("item_origin", Text()))
    type: Mapped[str] = mapped_column(Text)
    """`malformed` for what the provider gave and has not the shape of its own type."""
    item_id: Mapped[str] = mapped_column(Text)
    """The id on the wire: the provider's for its output, where a key can be made of it; else ours."""
    data: Mapped[dict[str, Any]] = mapped_column(SealedItem)
    tokens: Mapped[int | None]
    """Its tokens by Qwen's vocabulary, once counted."""
    size: Mapped[int] = mapped_column(Computed("octet_length(data::text)", persisted=True))
    """Bytes of its JSON as it is stored and read, uncompressed."""

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "turn_id"],
            ["turns.project_id", "turns.bucket", "turns.id"],
            name="items_turn_fkey",
            ondelete="CASCADE",
        ),
        Index("items_item_id_key", "item_id", "project_id", "bucket", unique=True),
        Index(
            "items_lexemes_idx",
            text("message_lexemes_v1(project_id, turn_id, data)"),
            postgresql_using="gin",
            postgresql_with={"gin_pending_list_limit": 128},
            postgresql_where=text("type = 'message'"),
        ),
    )


class Call(Base):
    """One HTTP attempt towards the provider."""

    __tablename__ = "calls"
    __bound_by__ = ("turn_id", "attempt")

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    turn_id: Mapped[UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(domain("call_attempt", Integer()), primary_key=True)
    continuation: Mapped[str] = mapped_column(domain("call_continuation", Text()))
    continuation_reason: Mapped[str | None] = mapped_column(Text)
    url: Mapped[str] = mapped_column(Text)
    frames: Mapped[list[str] | None] = mapped_column(SealedTexts)
    """The exact text that was sent, except the parts that `refs` stand for: see `turns/pieces.py`. None: erased."""
    refs: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default=text("'{}'"))
    dropped_items: Mapped[int] = mapped_column(server_default=text("0"))
    """The number of oldest items that a rebuilt history left out to fit the model's window."""
    status: Mapped[int | None]
    """The HTTP status; None where no answer came."""
    response_id: Mapped[str | None] = mapped_column(Text)
    error: Mapped[dict[str, Any] | None] = mapped_column(SEALED)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "turn_id"],
            ["turns.project_id", "turns.bucket", "turns.id"],
            name="calls_turn_fkey",
            ondelete="CASCADE",
        ),
    )


class SentPiece(Base):
    """The bytes that calls of a thread have sent for items of its history: see `turns/pieces.py`."""

    __tablename__ = "pieces"
    __bound_by__ = ("thread_id", "digest")

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    thread_id: Mapped[UUID] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    digest: Mapped[bytes] = mapped_column(SealedDigest("data"))
    sources: Mapped[list[str]] = mapped_column(ARRAY(Text))
    data: Mapped[str | None] = mapped_column(SealedText)
    """None if it was erased, or refers to a medium."""
    media_id: Mapped[UUID | None]
    """The medium to which it refers."""

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "thread_id"],
            ["threads.project_id", "threads.bucket", "threads.id"],
            name="pieces_thread_fkey",
            ondelete="CASCADE",
        ),
    )


class Waiter(Base):
    """A request that waits for its turn in a busy thread. The oldest goes first."""

    __tablename__ = "waiters"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    bucket: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    thread_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "bucket", "thread_id"],
            ["threads.project_id", "threads.bucket", "threads.id"],
            name="waiters_thread_fkey",
            ondelete="CASCADE",
        ),
    )
