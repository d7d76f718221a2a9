"""Rows as they leave the store."""

from datetime import datetime
from typing import Any, Literal, TypedDict
from uuid import UUID


class WebhookRow(TypedDict):
    project_id: UUID
    id: UUID
    url: str
    events: list[str]
    description: str | None
    secret: str
    former_secret: str | None
    former_until: datetime | None
    paused: bool
    created_at: datetime
    read_at: datetime
    read_chain: UUID
    read_seq: int


class DeliveryRow(TypedDict):
    project_id: UUID
    webhook_id: UUID
    chain_id: UUID
    seq: int
    type: str
    at: datetime
    data: dict[str, Any]
    status: Literal["pending", "delivered", "failed"]
    attempts: int
    next_at: datetime
    last_status: int | None
    last_error: str | None
    delivered_at: datetime | None


class RecordRow(TypedDict):
    """A record of the trail, as far as an event is made of it."""

    chain_id: UUID
    seq: int
    at: datetime
    action: str
    turn_id: UUID | None
    user_digest: bytes | None
    detail: str | None
