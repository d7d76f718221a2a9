"""The provider's copies of what is deleted here: queued in the transaction that deletes, deleted there afterwards."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import Database

QUEUE = text(
    """INSERT INTO provider_deletions (project_id, response_id, binding, expires_at)
    SELECT project_id, response_id, binding, response_expires_at FROM turns
    WHERE project_id = :project_id AND id = ANY(:turn_ids) AND response_expires_at > now()
        AND length(response_id) BETWEEN 1 AND 256
    ON CONFLICT DO NOTHING"""
)

# Those whose time has come, each for one worker; the pause until the next try is set before the first.
TAKE = """
UPDATE provider_deletions d SET tries = tries + 1, next_at = now() + least(3600, 5 * 2 ^ tries) * interval '1 second'
FROM (
    SELECT project_id, response_id FROM provider_deletions
    WHERE binding = $1 AND next_at <= now() ORDER BY next_at LIMIT $2 FOR UPDATE SKIP LOCKED
) taken
WHERE d.project_id = taken.project_id AND d.response_id = taken.response_id
RETURNING d.project_id, d.response_id
"""

DONE = "DELETE FROM provider_deletions WHERE project_id = $1 AND response_id = $2"

# The provider has forgotten these by itself.
EXPIRED = "DELETE FROM provider_deletions WHERE expires_at < now()"


async def queue(session: AsyncSession, project_id: UUID, turn_ids: Sequence[UUID]) -> None:
    """Have the provider's copies of turns deleted. To be called while the turns are still there."""
    await session.execute(QUEUE, {"project_id": project_id, "turn_ids": list(turn_ids)})


async def take(database: Database, binding: str, limit: int) -> list[asyncpg.Record]:
    """Copies to delete now, as (project, response id). One that is not reported as done comes again later."""
    await database.fetch(EXPIRED)
    return await database.fetch(TAKE, binding, limit)


async def done(database: Database, project_id: UUID, response_id: str) -> None:
    await database.fetch(DONE, project_id, response_id)
