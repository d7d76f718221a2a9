"""Turns, their items, and the calls that were made for them."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    CheckConstraint,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    SmallInteger,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base

DOCUMENT = JSON(none_as_null=True)
"""As it came, key order and all; `json` and not `jsonb`."""


class Turn(Base):
    """One request to the model with its answer."""

    __tablename__ = "turns"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    thread_id: Mapped[UUID]
    parent_id: Mapped[UUID | None]
    status: Mapped[str] = mapped_column(Text)
    continuation: Mapped[str | None] = mapped_column(Text)
    """None until the turn is closed, and for items that were added outside any call to the model."""
    model: Mapped[str] = mapped_column(Text)
    params: Mapped[dict[str, Any]] = mapped_column(DOCUMENT)
    """The request as the client sent it, without its input and metadata."""
    metadata_: Mapped[dict[str, str]] = mapped_column("metadata", JSONB, server_default=text("'{}'"))
    ignored: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    """What was asked for and the provider passes over."""
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    completed_at: Mapped[datetime | None]
    worker_id: Mapped[UUID | None]
    lease_expires_at: Mapped[datetime | None]
    """Renewed by the worker. A turn whose lease has run out is closed by any other."""
    cancel_requested_at: Mapped[datetime | None]
    api_key_id: Mapped[UUID | None]
    idempotency_key: Mapped[str | None] = mapped_column(Text)
    key_scope: Mapped[UUID | None]
    """Where its Idempotency-Key holds: its thread, or the project where its request made the thread."""
    client_left_at: Mapped[datetime | None]
    """Since when its client is known to have gone before the first byte of an answer, and no retry has claimed it."""
    body_hash: Mapped[bytes | None] = mapped_column(LargeBinary)
    """SHA-256 of the request's body: tells a client's retry."""
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    """Of the digests in its audit records. It goes with the content; older turns have none."""
    error_status: Mapped[int | None] = mapped_column(SmallInteger)
    """The HTTP status that a failed turn was answered with; None where its client had been answered before."""

    response: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    """The provider's response object without its output and usage."""
    usage: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    error: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    incomplete_details: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    pace: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    """When each delta of a streamed answer came, and how long it was: see `turns/pace.py`."""

    binding: Mapped[str | None] = mapped_column(Text)
    response_id: Mapped[str | None] = mapped_column(Text)
    response_created_at: Mapped[datetime | None]
    response_expires_at: Mapped[datetime | None]
    """None where the provider did not store the response."""
    deleted_at: Mapped[datetime | None]
    """When its content was deleted. The row stays: later turns continue it."""
    response_unknown_at: Mapped[datetime | None]
    """Since when the id is of no use: the provider does not know it, or the history that it stands for was changed."""

    __table_args__ = (
        ForeignKeyConstraint(["project_id", "thread_id"], ["threads.project_id", "threads.id"], ondelete="CASCADE"),
        ForeignKeyConstraint(
            ["project_id", "parent_id"],
            ["turns.project_id", "turns.id"],
            name="turns_parent_fkey",
        ),
        CheckConstraint("status IN ('in_progress', 'completed', 'incomplete', 'failed', 'cancelled')", name="status"),
        CheckConstraint("continuation IN ('new', 'chained', 'rebuilt')", name="continuation"),
        CheckConstraint("parent_id <> id", name="parent"),
        CheckConstraint("(status = 'in_progress') = (completed_at IS NULL)", name="completed_at"),
        CheckConstraint("(status = 'in_progress') = (lease_expires_at IS NOT NULL)", name="lease"),
        CheckConstraint("(status = 'failed') = (error IS NOT NULL)", name="error"),
        CheckConstraint("status <> 'incomplete' OR incomplete_details IS NOT NULL", name="incomplete_details"),
        CheckConstraint("status <> 'completed' OR continuation IS NULL OR response_id IS NOT NULL", name="response_id"),
        CheckConstraint("response_id IS NOT NULL OR response_expires_at IS NULL", name="response_expires_at"),
        CheckConstraint("(idempotency_key IS NULL) = (key_scope IS NULL)", name="key_scope"),
        Index(
            "turns_one_active_per_thread",
            "project_id",
            "thread_id",
            unique=True,
            postgresql_where=text("status = 'in_progress'"),
        ),
        Index(
            "turns_idempotency_key",
            "project_id",
            "key_scope",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key IS NOT NULL"),
        ),
        # Only keys begin with the project: on a table without statistics it looks as selective as a whole key.
        Index("turns_child_idx", "parent_id", "project_id"),
        Index("turns_thread_idx", "thread_id", "project_id", "id"),
    )


class Item(Base):
    """One element of a turn's input or output, in the Responses API's own types."""

    __tablename__ = "items"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    turn_id: Mapped[UUID] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    """From 0: first the input's items, then the output's."""
    origin: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(Text)
    """`malformed` for what the provider gave and has not the shape of its own type."""
    item_id: Mapped[str] = mapped_column(Text)
    """The id on the wire: the provider's for its output, where a key can be made of it; else ours."""
    data: Mapped[dict[str, Any]] = mapped_column(DOCUMENT)

    __table_args__ = (
        ForeignKeyConstraint(["project_id", "turn_id"], ["turns.project_id", "turns.id"], ondelete="CASCADE"),
        Index("items_item_id_key", "item_id", "project_id", unique=True),
        CheckConstraint("origin IN ('input', 'output')", name="origin"),
        CheckConstraint("position >= 0", name="position"),
    )


class Call(Base):
    """One HTTP attempt towards the provider."""

    __tablename__ = "calls"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    turn_id: Mapped[UUID] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    continuation: Mapped[str] = mapped_column(Text)
    url: Mapped[str] = mapped_column(Text)
    body: Mapped[dict[str, Any]] = mapped_column(DOCUMENT)
    """The exact text that was sent."""
    dropped_items: Mapped[int] = mapped_column(server_default=text("0"))
    """How many of the oldest items a rebuilt history left out to fit the model's window."""
    status: Mapped[int | None]
    """The HTTP status; None where no answer came."""
    response_id: Mapped[str | None] = mapped_column(Text)
    error: Mapped[dict[str, Any] | None] = mapped_column(DOCUMENT)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime]

    __table_args__ = (
        ForeignKeyConstraint(["project_id", "turn_id"], ["turns.project_id", "turns.id"], ondelete="CASCADE"),
        CheckConstraint("continuation IN ('new', 'chained', 'rebuilt')", name="continuation"),
        CheckConstraint("attempt >= 1", name="attempt"),
    )


class Waiter(Base):
    """A request that waits for its turn in a busy thread. The oldest goes first."""

    __tablename__ = "waiters"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    thread_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    expires_at: Mapped[datetime]

    __table_args__ = (
        ForeignKeyConstraint(["project_id", "thread_id"], ["threads.project_id", "threads.id"], ondelete="CASCADE"),
    )
