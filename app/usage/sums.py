"""Sums of the usage of turns, updated in the background after a report or a limit has read a project's usage.

Turns do not write sums. The turns of a thread are added in order, up to the first that still runs, in one transaction
with the thread's new `counted_seq`: a killed process leaves the sums consistent. Reports read turns that are not in a
sum from their own rows.
"""

import asyncio
from datetime import UTC, datetime
from uuid import UUID

import asyncpg
import structlog
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import DatabaseUnavailable
from app.process.background import Background

log = structlog.get_logger()

TURNS_AT_ONCE = 500
"""The thread is locked for about 30 ms per batch."""

THREADS_AT_ONCE = 500

SQL = statements_of(__file__)

BEGINNING = datetime(1, 1, 1, tzinfo=UTC), UUID(int=0)


class UsageSums(Background):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._requested: set[UUID] = set()
        self._due = asyncio.Event()

    def request_update(self, project_id: UUID) -> None:
        """Request a background update of a project's sums."""
        self._requested.add(project_id)
        self._due.set()

    async def run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            while self._requested:
                project_id = self._requested.pop()
                try:
                    await self._update(project_id)
                except DatabaseUnavailable:
                    log.warning("Postgres is unavailable; usage is summed later")

    async def _update(self, project_id: UUID) -> None:
        after, after_thread = BEGINNING
        while True:
            rows = await self._database.fetch(
                *SQL.uncounted_threads(
                    project_id=project_id, after=after, after_thread=after_thread, limit=THREADS_AT_ONCE
                )
            )
            for row in rows:
                await self._update_thread(project_id, row["bucket"], row["thread_id"])
                after, after_thread = row["active_at"], row["thread_id"]
            if len(rows) < THREADS_AT_ONCE:
                return

    async def _update_thread(self, project_id: UUID, bucket: int, thread_id: UUID) -> None:
        try:
            while await self._add_batch(project_id, bucket, thread_id):
                pass
        except (SQLAlchemyError, asyncpg.PostgresError) as error:
            # Other threads are summed all the same.
            log.error("a thread's usage is not summed; reports read its turns", error=type(error).__name__)

    async def _add_batch(self, project_id: UUID, bucket: int, thread_id: UUID) -> bool:
        """Add a batch of a thread's turns to its sums. Return True if there may be more."""
        here = {"project_id": project_id, "bucket": bucket, "thread_id": thread_id}
        async with self._database.session() as session:
            counted = await session.scalar(SQL.lock_thread.clause, here)
            if counted is None:
                return False
            # A separate statement, whose snapshot includes everything that was committed before the lock.
            turns = {**here, "counted": counted, "most": TURNS_AT_ONCE}
            return await session.scalar(SQL.add_turns.clause, turns) is not None


async def reset_sums(session: AsyncSession, project_id: UUID, bucket: int, thread_id: UUID) -> None:
    """Delete the sums of a thread that takes over turns of another. They are computed again from all its turns."""
    here = {"project_id": project_id, "bucket": bucket, "thread_id": thread_id}
    await session.execute(SQL.reset_counted.clause, here)
    await session.execute(SQL.delete_sums.clause, here)
