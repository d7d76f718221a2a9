"""Legal holds in Postgres, and what they keep."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.sql import statements_of
from app.holds.tables import Hold

SQL = statements_of(__file__)


async def holds_on_thread(
    session: AsyncSession, project_id: UUID, thread_id: UUID, user_id: str | None
) -> Sequence[UUID]:
    """Return the active holds that cover a thread, the oldest first."""
    where = {"project_id": project_id, "thread_id": thread_id, "user_id": user_id}
    return (await session.scalars(SQL.holds_on_thread.clause, where)).all()


async def holds_on_user(session: AsyncSession, project_id: UUID, user_id: str) -> Sequence[UUID]:
    """Return the active holds that cover any contents of a user, oldest first."""
    where = {"project_id": project_id, "user_id": user_id}
    return (await session.scalars(SQL.holds_on_user.clause, where)).all()


async def holds_on_turn(session: AsyncSession, project_id: UUID, turn_id: UUID) -> Sequence[UUID]:
    """Return the active holds that cover a turn, in its thread or in a fork that shares it, the oldest first."""
    where = {"project_id": project_id, "bucket": ids.bucket_of(turn_id), "turn_id": turn_id}
    return (await session.scalars(SQL.holds_on_turn.clause, where)).all()


async def active(session: AsyncSession, project_id: UUID) -> list[Hold]:
    """Return the active holds of a project, the oldest first."""
    wanted = select(Hold).where(Hold.project_id == project_id, Hold.released_at.is_(None))
    return list(await session.scalars(wanted.order_by(Hold.id)))


async def minimum_ends(session: AsyncSession, project_id: UUID) -> datetime | None:
    """Return the latest end of a minimum retention in a project; None if all have ended."""
    until: datetime | None = await session.scalar(SQL.minimum_of_project.clause, {"project_id": project_id})
    return until


async def minimum_of_user(session: AsyncSession, project_id: UUID, user_id: str) -> datetime | None:
    """Return the end of the minimum retention of a user's turns; None if it is over, or if the project has none."""
    where = {"project_id": project_id, "user_id": user_id}
    until: datetime | None = await session.scalar(SQL.minimum_of_user.clause, where)
    return until


async def kept_of(
    session: AsyncSession, project_id: UUID, *, thread_ids: Sequence[UUID] = (), user_id: str | None = None
) -> dict[UUID, int]:
    """Return the numbers of rows of threads and of a user that active holds keep, by hold."""
    where = {
        "project_id": project_id,
        "buckets": [ids.bucket_of(each) for each in thread_ids],
        "thread_ids": list(thread_ids),
        "user_id": user_id,
    }
    return {row.hold_id: row.rows for row in await session.execute(SQL.kept_of.clause, where)}
