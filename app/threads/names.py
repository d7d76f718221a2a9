"""Names of threads. They lie apart from the threads, by a bucket of their own, so that each is decided in one place.

A name's row is written and deleted in its thread's transaction. Where the two do not agree, the thread's row is right.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.buckets import Buckets
from app.db.engine import Database

CACHED = 10_000

FIND = "SELECT thread_id FROM thread_names WHERE project_id = $1 AND bucket = $2 AND name = $3"

TAKE = text(
    """INSERT INTO thread_names (project_id, bucket, name, thread_id) VALUES (:project_id, :bucket, :name, :thread_id)
    ON CONFLICT (project_id, bucket, name) DO NOTHING RETURNING thread_id"""
)

HOLDER = text("SELECT thread_id FROM thread_names WHERE project_id = :project_id AND bucket = :bucket AND name = :name")

HAS = text(
    """SELECT EXISTS (
        SELECT FROM threads WHERE project_id = :project_id AND bucket = :bucket AND id = :thread_id AND name = :name
    )"""
)

TAKE_OVER = text(
    """UPDATE thread_names SET thread_id = :thread_id
    WHERE project_id = :project_id AND bucket = :bucket AND name = :name AND thread_id = :stale RETURNING thread_id"""
)

GIVE_UP = text(
    """DELETE FROM thread_names
    WHERE project_id = :project_id AND bucket = :bucket AND name = :name AND thread_id = :thread_id"""
)


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
        row = await self._database.fetchrow(FIND, project_id, self.bucket(project_id, name), name)
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
        if await session.scalar(TAKE, {**at, "thread_id": thread_id}) is not None:
            return True
        holder: UUID | None = await session.scalar(HOLDER, at)
        if holder is None or holder == thread_id:
            return holder is not None
        if await session.scalar(HAS, {**at, "bucket": ids.bucket_of(holder), "thread_id": holder}):
            return False
        # The thread that it is written for has another name now, or is gone: whoever finds that first takes it.
        over = {**at, "thread_id": thread_id, "stale": holder}
        return await session.scalar(TAKE_OVER, over) is not None

    async def give_up(self, session: AsyncSession, project_id: UUID, name: str, thread_id: UUID) -> None:
        """Let others have a name that a thread has had."""
        self.forget(project_id, name)
        at = {"project_id": project_id, "bucket": self.bucket(project_id, name), "name": name}
        await session.execute(GIVE_UP, {**at, "thread_id": thread_id})

    def new_thread_id(self, project_id: UUID, idempotency_key: str | None) -> UUID:
        """An id for a thread that a request makes: in the bucket of its Idempotency-Key, which is looked for there."""
        if idempotency_key is None:
            return ids.new_id(ids.new_bucket())
        return ids.new_id(self.buckets.of("idempotency-key", project_id, idempotency_key))
