"""The rows that leave the store of turns, as their statements in turns.sql make them."""

from datetime import datetime
from typing import Any, Literal, NotRequired, TypedDict
from uuid import UUID

from app.items.shapes import Item
from app.turns.closing import Status


class TurnRow(TypedDict):
    id: UUID
    thread_id: UUID
    parent_id: UUID | None
    status: Status
    continuation: str | None
    continuation_reason: str | None
    model: str
    params: dict[str, Any]
    metadata: dict[str, str]
    ignored: list[str]
    created_at: datetime
    completed_at: datetime | None
    response: dict[str, Any] | None
    usage: dict[str, Any] | None
    cost: dict[str, Any] | None
    error: dict[str, Any] | None
    error_status: int | None
    incomplete_details: dict[str, Any] | None
    context: dict[str, Any] | None
    """None for turns without an answer."""
    binding: str | None
    seq: int
    first_word_ms: int | None
    """Milliseconds until the first word of a stream."""
    pace: NotRequired[dict[str, Any] | None]
    """Present in turns that are read by their ids."""
    unreadable: NotRequired[list[str]]
    """The columns that cannot be opened."""


class TurnPageRow(TurnRow):
    """A turn on a page that may have no room for all of its candidates."""

    candidates: int
    size: int
    """Bytes of its documents; `bytes`, with those of the turns before it."""
    bytes: int


class ItemRow(TypedDict):
    turn_id: UUID
    position: int
    type: str
    item_id: str
    data: Item
    candidates: NotRequired[int]
    """Present on a page: the number of the items that it might hold."""
    origin: NotRequired[Literal["input", "output"]]
    """Present in items that are read by their turns."""


class ThreadRow(TypedDict):
    id: UUID
    head_turn_id: UUID | None
    title: str | None


class LinkRow(TypedDict):
    """A turn's continuation, and its response id as far as it can be chained."""

    id: UUID
    seq: int
    parent_id: UUID | None
    created_at: datetime
    status: Status
    continuation: str | None
    continuation_reason: str | None
    model: str
    binding: str | None
    response_id: str | None
    response_created_at: datetime | None
    response_expires_at: datetime | None
    response_unknown_at: datetime | None
    context: dict[str, Any] | None


class ParentRow(TypedDict):
    """A turn's response id. If `lost` has the reason why it has none, the other columns may be null."""

    lost: str | None
    response_id: str
    binding: str
    model: str
    expires_at: float
    context: dict[str, Any] | None
    total_tokens: int
    """Input and output tokens by the provider's count: the context of a turn that has none of its own."""
    open_calls: list[str]


class KeyRow(TypedDict):
    """The turn of an Idempotency-Key."""

    id: UUID
    body_hash: bytes | None
    status: Status
    error_status: int | None
    old: bool
    """True if it is older than the lifetime of a key."""


class BranchRow(TypedDict):
    """The end of a branch."""

    id: UUID
    status: Status
    created_at: datetime


class LeaseRow(TypedDict):
    id: UUID
    cancel: bool


class ExpiredRow(LeaseRow):
    """A turn that was taken over."""

    project_id: UUID
    thread_id: UUID
    salt: bytes | None


class ReferencedRow(TypedDict):
    turn_id: UUID
    position: int
    type: str
    item_id: str
    data: Item
    within: bool
