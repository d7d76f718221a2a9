"""Webhooks, and their deliveries."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, JSON, BigInteger, CheckConstraint, ForeignKeyConstraint, Index, Text, func, text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.base import Base


class Webhook(Base):
    """A URL that receives the events of a project."""

    __tablename__ = "webhooks"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(ARRAY(Text))
    description: Mapped[str | None] = mapped_column(Text)
    secret: Mapped[str] = mapped_column(Text)
    """Secret that signs deliveries, sealed."""
    former_secret: Mapped[str | None] = mapped_column(Text)
    """The one before, which they are signed with too for a while."""
    former_until: Mapped[datetime | None]
    paused: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    read_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """Up to which record of the trail deliveries have been written: its moment, chain and number."""
    read_chain: Mapped[UUID] = mapped_column(server_default=text("'00000000-0000-0000-0000-000000000000'"))
    read_seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (
        CheckConstraint("cardinality(events) > 0", name="events"),
        CheckConstraint("(former_secret IS NULL) = (former_until IS NULL)", name="former"),
    )


class WebhookDelivery(Base):
    """One record of the trail, for one webhook."""

    __tablename__ = "webhook_deliveries"

    project_id: Mapped[UUID] = mapped_column(primary_key=True)
    webhook_id: Mapped[UUID] = mapped_column(primary_key=True)
    chain_id: Mapped[UUID] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    type: Mapped[str] = mapped_column(Text)
    at: Mapped[datetime]
    """When it happened."""
    data: Mapped[dict[str, Any]] = mapped_column(JSON)
    status: Mapped[str] = mapped_column(Text, server_default=text("'pending'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    """When it is tried next; while a worker tries it, when another one may."""
    last_status: Mapped[int | None]
    """The HTTP status of the last answer."""
    last_error: Mapped[str | None] = mapped_column(Text)
    delivered_at: Mapped[datetime | None]

    __table_args__ = (
        ForeignKeyConstraint(
            ["project_id", "webhook_id"],
            ["webhooks.project_id", "webhooks.id"],
            name="webhook_deliveries_webhook_fkey",
            ondelete="CASCADE",
        ),
        CheckConstraint("status IN ('pending', 'delivered', 'failed')", name="status"),
        CheckConstraint("attempts >= 0", name="attempts"),
        CheckConstraint("(status = 'delivered') = (delivered_at IS NOT NULL)", name="delivered"),
        Index(
            "webhook_deliveries_next_idx",
            "project_id",
            "webhook_id",
            "next_at",
            postgresql_where=text("status = 'pending'"),
        ),
        Index("webhook_deliveries_at_idx", "project_id", "webhook_id", "at"),
    )
