"""Names of threads. They lie apart from the threads, by a bucket of their own, so that each is decided in one place.

A name's row is written and deleted in its thread's transaction. Where the two do not agree, the thread's row is right.
"""

from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.buckets import Buckets
from app.db.engine import Database
from app.db.sql import statements_of

CACHED = 10_000

SQL = statements_of(__file__)


class Names:
    def __init__(self, database: Database, buckets: Buckets) -> None:
        self._database = database
        self.buckets = buckets
        self._known: dict[tuple[UUID, str], UUID] = {}
        """Hits, and no misses: a name that nobody has may be taken at any moment."""

    def known(self, project_id: UUID, name: str) -> UUID | None:
        """The thread that had a name when it was last looked for in this worker."""
        return self._known.get((project_id, name))

    def forget(self, project_id: UUID, name: str) -> None:
        self._known.pop((project_id, name), None)

    async def find(self, project_id: UUID, name: str) -> UUID | None:
        """The thread that a name is written for."""
        row = await self._database.fetchrow(
            *SQL.find_name(project_id=project_id, bucket=self.bucket(project_id, name), name=name)
        )
        if row is None:
            self.forget(project_id, name)
            return None
        if len(self._known) >= CACHED:
            self._known.clear()
        found: UUID = row["thread_id"]
        self._known[project_id, name] = found
        return found

    def bucket(self, project_id: UUID, name: str) -> int:
        """The bucket that a name lies in."""
        return self.buckets.of("name", project_id, name)

    async def take(self, session: AsyncSession, project_id: UUID, name: str, thread_id: UUID) -> bool:
        """Take a name for a thread. False if another has it."""
        at: dict[str, Any] = {"project_id": project_id, "bucket": self.bucket(project_id, name), "name": name}
        if await session.scalar(SQL.take_name.clause, {**at, "thread_id": thread_id}) is not None:
            return True
        holder: UUID | None = await session.scalar(SQL.find_name.clause, at)
        if holder is None or holder == thread_id:
            return holder is not None
        if await session.scalar(SQL.has_name.clause, {**at, "bucket": ids.bucket_of(holder), "thread_id": holder}):
            return False
        # The thread that it is written for has another name now, or is gone: whoever finds that first takes it.
        over = {**at, "thread_id": thread_id, "stale": holder}
        return await session.scalar(SQL.take_over_name.clause, over) is not None

    async def give_up(self, session: AsyncSession, project_id: UUID, name: str, thread_id: UUID) -> None:
        """Let others have a name that a thread has had."""
        self.forget(project_id, name)
        at = {"project_id": project_id, "bucket": self.bucket(project_id, name), "name": name}
        await session.execute(SQL.give_up_name.clause, {**at, "thread_id": thread_id})

    def new_thread_id(self, project_id: UUID, idempotency_key: str | None) -> UUID:
        """An id for a thread that a request makes: in the bucket of its Idempotency-Key, which is looked for there."""
        if idempotency_key is None:
            return ids.new_id(ids.new_bucket())
        return ids.new_id(self.buckets.of("idempotency-key", project_id, idempotency_key))
