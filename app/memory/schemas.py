"""Request bodies about a thread's memory, and how a compaction is shown."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from app.db import ids
from app.http.bodies import WHOLE, Body
from app.items.unreadable import marked
from app.memory.rows import CompactionRow


class Compact(Body):
    model: str | None = Field(None, min_length=1, max_length=256)
    """Model that makes the summary; by default the service's, or the thread's own."""
    instructions: str | None = Field(None, min_length=1, max_length=20_000)
    keep_turns: Annotated[int, Field(ge=0, le=1000), WHOLE] = 2
    """Number of last turns that stay as they are."""


class CompactionObject(TypedDict):
    id: str
    object: Literal["compaction"]
    turn_id: str
    """The last one that it stands for."""
    previous_id: str | None
    status: str
    model: str
    text: str | None
    kept_items: Any
    covered_turns: int
    covered_tokens: int
    tokens: int | None
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    attempts: int
    created_at: int
    completed_at: int | None
    unreadable: NotRequired[list[str]]
    """The fields that cannot be opened. Left out where there are none."""


def compaction_object(row: CompactionRow) -> CompactionObject:
    return {
        "id": ids.compaction_id(row["id"]),
        "object": "compaction",
        "turn_id": ids.turn_id(row["turn_id"]),
        "previous_id": None if row["previous_id"] is None else ids.compaction_id(row["previous_id"]),
        "status": row["status"],
        "model": row["model"],
        "text": row["text"],
        "kept_items": row["kept_items"],
        "covered_turns": row["covered_turns"],
        "covered_tokens": row["covered_tokens"],
        "tokens": row["tokens"],
        "usage": row["usage"],
        "error": row["error"],
        "attempts": row["attempts"],
        "created_at": int(row["created_at"].timestamp()),
        "completed_at": None if row["completed_at"] is None else int(row["completed_at"].timestamp()),
        **marked(row),
    }
