"""The provider's copies of what is deleted here: queued in the transaction that deletes, deleted there afterwards."""

import random
from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import Database
from app.db.sql import statements_of

SQL = statements_of(__file__)


class Copy(NamedTuple):
    project_id: UUID
    bucket: int
    response_id: str
    binding: str


async def queue(session: AsyncSession, project_id: UUID, bucket: int, turn_ids: Sequence[UUID]) -> None:
    """Have the provider's copies of a thread's turns deleted. To be called while the turns are still there."""
    await session.execute(
        SQL.queue_deletions.clause, {"project_id": project_id, "bucket": bucket, "turn_ids": list(turn_ids)}
    )


async def take(database: Database, binding: str, limit: int) -> list[Copy]:
    """Copies to delete now, at the accounts that there are. One that is not reported as done comes again later.

    Args:
        binding: of the account that is in no table.
    """
    await database.fetch(*SQL.forget_expired_deletions())
    bindings = await database.fetch(*SQL.bindings(binding=binding))
    random.shuffle(bindings)  # A random order, so that a binding with very many deletions does not block the others.
    taken: list[Copy] = []
    for at in bindings:
        for due in await database.fetch(*SQL.due_deletions(binding=at["binding"], limit=limit - len(taken))):
            row = await database.fetchrow(*SQL.take_deletion(**due))
            if row is not None:
                taken.append(Copy(*row))
        if len(taken) == limit:
            break
    return taken


async def done(database: Database, taken: Copy) -> None:
    await database.fetch(
        *SQL.deletion_done(project_id=taken.project_id, bucket=taken.bucket, response_id=taken.response_id)
    )
