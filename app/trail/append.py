"""Appending to the audit trail, in the transaction of the change that it tells of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.trail.records import Action, Actor

SQL = statements_of(__file__)

CHARACTERS = 500
"""Approximate size of a record."""


@dataclass(frozen=True, slots=True)
class Record:
    """Content of a record to append, apart from its actor and its chain."""

    action: Action
    turn_id: UUID | None = None
    detail: str | None = None
    content: bytes | None = None
    """The digest of the content: see `contents.py`."""


async def append_record(
    session: AsyncSession,
    actor: Actor,
    project_id: UUID,
    action: Action,
    *,
    thread_id: UUID | None = None,
    turn_id: UUID | None = None,
    user_digest: bytes | None = None,
    detail: str | None = None,
    content: bytes | None = None,
) -> None:
    """Write a record. What concerns a thread is written while the thread's row is there, and locks it.

    Args:
        thread_id: None for what concerns the project as a whole.
        user_digest: the end user that a project's record is about: see `users.py`. A thread's row tells it itself.
    """
    one = [Record(action, turn_id, detail, content)]
    await append_records(session, actor, project_id, thread_id, one, user_digest=user_digest)


async def append_records(
    session: AsyncSession,
    actor: Actor,
    project_id: UUID,
    thread_id: UUID | None,
    records: Sequence[Record],
    *,
    user_digest: bytes | None = None,
) -> None:
    """Write records of one chain in their order."""
    await session.execute(SQL.append.clause, _arguments(actor, project_id, thread_id, records, user_digest))


async def append_alone(
    database: Database, actor: Actor, project_id: UUID, thread_id: UUID | None, record: Record
) -> None:
    """Write a record without a change, in a transaction that it may share with other such records.

    Raises:
        DatabaseUnavailable: Postgres is unavailable, or the thread stays locked. The record is not written.
    """
    chain_id = thread_id or project_id
    arguments = SQL.append(**_arguments(actor, project_id, thread_id, [record], None))
    await database.fetchrow_in_group(ids.bucket_of(chain_id), CHARACTERS, *arguments, key=chain_id)


def _arguments(
    actor: Actor, project_id: UUID, thread_id: UUID | None, records: Sequence[Record], user_digest: bytes | None
) -> dict[str, Any]:
    chain_id = thread_id or project_id
    return {
        "project_id": project_id,
        "bucket": ids.bucket_of(chain_id),
        "chain_id": chain_id,
        "user_digest": user_digest,
        "key_id": actor.key_id,
        "address": actor.address,
        "actions": [record.action for record in records],
        "turns": [record.turn_id for record in records],
        "details": [record.detail for record in records],
        "contents": [record.content for record in records],
    }
