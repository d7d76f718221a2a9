"""What a client may send about a thread's memory, and how a compaction is shown."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.db import ids
from app.memory.store import CompactionRow


class Compact(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    model: str | None = Field(None, min_length=1, max_length=256)
    """That makes it; the service's, or the thread's own, if left out."""
    instructions: str | None = Field(None, min_length=1, max_length=20_000)
    keep_turns: int = Field(2, ge=0, le=1000)
    """How many of the last turns stay as they are."""


def compaction_object(row: CompactionRow) -> dict[str, Any]:
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
    }
