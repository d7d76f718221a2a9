"""The documents of a turn: what each side said in it, for its transaction to write."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from app.db.ids import bucket_of
from app.items.kinds import type_of
from app.items.shapes import text_of
from app.search.lexemes import document

ROLES = ("user", "assistant")


def documents(items: Iterable[dict[str, Any]]) -> tuple[list[str], list[str]]:
    """The roles that say something, and for each its document."""
    said: dict[str, list[str]] = {}
    for item in items:
        role = item.get("role")
        if type_of(item) == "message" and isinstance(role, str) and role in ROLES:
            said.setdefault(role, []).append(text_of(item))
    found = {role: document("\n".join(texts)) for role, texts in said.items()}
    return [role for role, text in found.items() if text], [text for text in found.values() if text]


def text_rows(
    project_id: UUID, turn_id: UUID, items: Iterable[dict[str, Any]], created_at: datetime | None = None
) -> list[dict[str, Any]]:
    """The same as rows of the table.

    Args:
        created_at: the turn's; now, if left out.
    """
    roles, found = documents(items)
    at: dict[str, Any] = {"project_id": project_id, "bucket": bucket_of(turn_id), "turn_id": turn_id}
    if created_at is not None:
        at["created_at"] = created_at
    return [{**at, "role": role, "document": text} for role, text in zip(roles, found, strict=True)]
