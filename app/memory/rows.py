"""Rows that leave the store of compactions."""

from typing import Any, NotRequired, TypedDict
from uuid import UUID


class CompactionRow(TypedDict):
    id: UUID
    turn_id: UUID
    previous_id: UUID | None
    status: str
    model: str
    text: str | None
    kept_items: list[str]
    covered_turns: int
    covered_tokens: int
    tokens: int | None
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    attempts: int
    created_at: Any
    completed_at: Any
    unreadable: NotRequired[list[str]]
    """The columns that cannot be opened."""


class Abandoned(TypedDict):
    project_id: UUID
    id: UUID
    turn_id: UUID
    model: str
