"""Sums of the usage of turns, made in the background once a report or a limit has asked for a project's usage.

No turn writes to a sum. The turns of a thread are added in the order of their numbers, up to the first that still runs,
in one transaction with the thread's new `counted_seq`: a killed process leaves the sums as they were, and reports read
the turns that no sum has from their own rows.
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
"""The thread is locked meanwhile: some 30 ms."""

THREADS_AT_ONCE = 500

SQL = statements_of(__file__)

BEGINNING = datetime(1, 1, 1, tzinfo=UTC), UUID(int=0)


class UsageSums(Background):
    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database
        self._wanted: set[UUID] = set()
        self._due = asyncio.Event()

    def wanted(self, project_id: UUID) -> None:
        """Bring a project's sums up to date soon."""
        self._wanted.add(project_id)
        self._due.set()

    async def run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            while self._wanted:
                project_id = self._wanted.pop()
                try:
                    await self._count(project_id)
                except DatabaseUnavailable:
                    log.warning("Postgres is unavailable; usage is summed later")

    async def _count(self, project_id: UUID) -> None:
        after, after_thread = BEGINNING
        while True:
            rows = await self._database.fetch(
                *SQL.uncounted_threads(
                    project_id=project_id, after=after, after_thread=after_thread, limit=THREADS_AT_ONCE
                )
            )
            for row in rows:
                await self._count_thread(project_id, row["bucket"], row["thread_id"])
                after, after_thread = row["active_at"], row["thread_id"]
            if len(rows) < THREADS_AT_ONCE:
                return

    async def _count_thread(self, project_id: UUID, bucket: int, thread_id: UUID) -> None:
        try:
            while await self._count_some(project_id, bucket, thread_id):
                pass
        except (SQLAlchemyError, asyncpg.PostgresError) as error:
            # It holds up no other thread.
            log.error("a thread's usage is not summed; reports read its turns", error=type(error).__name__)

    async def _count_some(self, project_id: UUID, bucket: int, thread_id: UUID) -> bool:
        """Add some turns of a thread to its sums. Return True if there may be more."""
        here = {"project_id": project_id, "bucket": bucket, "thread_id": thread_id}
        async with self._database.session() as session:
            counted = await session.scalar(SQL.take_thread.clause, here)
            if counted is None:
                return False
            # A statement of its own: it sees all that was written before the lock.
            turns = {**here, "counted": counted, "most": TURNS_AT_ONCE}
            return await session.scalar(SQL.count_turns.clause, turns) is not None


async def count_again(session: AsyncSession, project_id: UUID, bucket: int, thread_id: UUID) -> None:
    """Discard the sums of a thread that gets turns of another. They are made again from all its turns."""
    here = {"project_id": project_id, "bucket": bucket, "thread_id": thread_id}
    await session.execute(SQL.count_again.clause, here)
    await session.execute(SQL.delete_sums.clause, here)
