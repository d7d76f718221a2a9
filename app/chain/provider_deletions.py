"""The provider's copies of what is deleted here: queued in the transaction that deletes, deleted there afterwards."""

import random
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import Database

QUEUE = text(
    """INSERT INTO provider_deletions (project_id, bucket, response_id, binding, expires_at)
    SELECT project_id, bucket, response_id, binding, response_expires_at FROM turns
    WHERE project_id = :project_id AND bucket = :bucket AND id = ANY(:turn_ids) AND response_expires_at > now()
        AND length(response_id) BETWEEN 1 AND 256
    ON CONFLICT DO NOTHING"""
)

BINDINGS = "SELECT $1::text AS binding UNION SELECT binding FROM accounts"

# Those of an account whose time has come.
DUE = """
SELECT project_id, bucket, response_id, next_at, least(3600, 5 * 2 ^ tries)::float8 FROM provider_deletions
WHERE binding = $1 AND next_at <= now() ORDER BY next_at LIMIT $2
"""

# Each for one worker, as it was seen; the pause until the next try is set before the first.
TAKE = """
UPDATE provider_deletions SET tries = tries + 1, next_at = now() + $5::float8 * interval '1 second'
WHERE project_id = $1 AND bucket = $2 AND response_id = $3 AND next_at = $4
RETURNING project_id, bucket, response_id, binding
"""

DONE = "DELETE FROM provider_deletions WHERE project_id = $1 AND bucket = $2 AND response_id = $3"

# The provider has forgotten these by itself.
EXPIRED = "DELETE FROM provider_deletions WHERE expires_at < now()"


class Copy(NamedTuple):
    project_id: UUID
    bucket: int
    response_id: str
    binding: str


async def queue(session: AsyncSession, project_id: UUID, bucket: int, turn_ids: Sequence[UUID]) -> None:
    """Have the provider's copies of a thread's turns deleted. To be called while the turns are still there."""
    await session.execute(QUEUE, {"project_id": project_id, "bucket": bucket, "turn_ids": list(turn_ids)})


async def take(database: Database, binding: str, limit: int) -> list[Copy]:
    """Copies to delete now, at the accounts that there are. One that is not reported as done comes again later.

    Args:
        binding: of the account that is in no table.
    """
    await database.fetch(EXPIRED)
    bindings = await database.fetch(BINDINGS, binding)
    random.shuffle(bindings)  # One that has very many holds up no other for ever.
    taken: list[Copy] = []
    for at in bindings:
        for due in await database.fetch(DUE, at["binding"], limit - len(taken)):
            row = await database.fetchrow(TAKE, *due)
            if row is not None:
                taken.append(Copy(*row))
        if len(taken) == limit:
            break
    return taken


async def done(database: Database, taken: Copy) -> None:
    await database.fetch(DONE, taken.project_id, taken.bucket, taken.response_id)
