"""Appending to the audit trail, in the transaction of the change that it tells of."""

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.trail.records import Action, Actor

_APPEND = text(
    """INSERT INTO audit_records (project_id, chain_id, id, action, turn_id, key_id, user_id, address, detail, content)
    VALUES (:project_id, :chain_id, :id, :action, :turn_id, :key_id, :user_id, :address, :detail, :content)"""
)


async def append(
    session: AsyncSession,
    actor: Actor,
    project_id: UUID,
    action: Action,
    *,
    thread_id: UUID | None = None,
    turn_id: UUID | None = None,
    user_id: str | None = None,
    detail: str | None = None,
    content: bytes | None = None,
) -> None:
    """Write a record. What concerns a thread is written after the thread's row was: its lock comes first.

    Args:
        thread_id: None for what concerns the project as a whole.
        content: the digest of what was said: see `records.content_digest`.
    """
    await append_all(
        session,
        [record(actor, project_id, action, thread_id, turn_id, user_id=user_id, detail=detail, content=content)],
    )


async def append_all(session: AsyncSession, records: "list[dict[str, object]]") -> None:
    """Write records in their order."""
    if records:
        await session.execute(_APPEND, records)


def record(
    actor: Actor,
    project_id: UUID,
    action: Action,
    thread_id: UUID | None,
    turn_id: UUID | None = None,
    *,
    user_id: str | None = None,
    detail: str | None = None,
    content: bytes | None = None,
) -> "dict[str, object]":
    """The columns of a record that is about to be written."""
    return {
        "project_id": project_id,
        "chain_id": thread_id or project_id,
        "id": ids.new_uuid(),
        "action": action,
        "turn_id": turn_id,
        "key_id": actor.key_id,
        "user_id": user_id,
        "address": actor.address,
        "detail": detail,
        "content": content,
    }
