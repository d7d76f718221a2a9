"""Purging: what is older than a project keeps it, and everything of one end user."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import insert, select, update
from sqlalchemy.sql import func

from app.chain.live_ids import LiveIds
from app.db import ids
from app.db.engine import Database
from app.history.edits import erase_turns
from app.history.erase import Erased, erase
from app.projects.tables import Project
from app.retention.tables import UserPurge
from app.threads import store as threads
from app.threads.address import Address
from app.threads.tables import Thread
from app.trail.append import append
from app.trail.records import SERVICE, Actor
from app.turns.event_log import EventLog

LEASE_SECONDS = 60
TURNS_AT_ONCE = 500
THREADS_AT_ONCE = 100

TAKE = """
UPDATE user_purges p SET lease_expires_at = now() + $1::float8 * interval '1 second'
FROM (
    SELECT project_id, id FROM user_purges WHERE completed_at IS NULL AND lease_expires_at < now()
    ORDER BY lease_expires_at LIMIT 1 FOR UPDATE SKIP LOCKED
) taken
WHERE p.project_id = taken.project_id AND p.id = taken.id
RETURNING p.project_id, p.id, p.user_id, p.key_id, p.address
"""

OLD_TURNS = """
SELECT t.id, t.thread_id, t.deleted_at IS NULL AND t.status <> 'in_progress' AS whole FROM turns t
WHERE t.project_id = $1 AND t.id > $2 AND t.id < $3 ORDER BY t.id LIMIT $4
"""


class Purge:
    def __init__(self, database: Database, live_ids: LiveIds, event_log: EventLog) -> None:
        self._database = database
        self._live_ids = live_ids
        self._event_log = event_log

    async def begin_user(self, actor: Actor, project_id: UUID, user: str) -> UUID:
        """Write down that everything of a user is to be purged. Whatever happens then, some worker does it."""
        purge_id = ids.new_uuid()
        count = select(func.count()).select_from(Thread).where(Thread.project_id == project_id, Thread.user_id == user)
        async with self._database.session() as session:
            found = await session.scalar(count)
            await session.execute(
                insert(UserPurge).values(
                    project_id=project_id,
                    id=purge_id,
                    user_id=user,
                    key_id=actor.key_id,
                    address=actor.address,
                    threads=found,
                )
            )
        return purge_id

    async def get(self, project_id: UUID, purge_id: UUID) -> UserPurge | None:
        async with self._database.session() as session:
            return await session.get(UserPurge, (project_id, purge_id))

    async def continue_one(self) -> bool:
        """Go on with a purge that nobody is at, to its end. False if there is none."""
        taken = await self._database.fetchrow(TAKE, LEASE_SECONDS)
        if taken is None:
            return False
        while await self._purge_some(taken):
            pass
        return True

    async def old_threads(self, project_id: UUID, days: int) -> int:
        """Purge threads that nobody has touched for so many days. Returns how many that were."""
        old = select(Thread.id).where(
            Thread.project_id == project_id, Thread.updated_at < datetime.now(UTC) - timedelta(days=days)
        )
        async with self._database.session() as session:
            thread_ids = list(await session.scalars(old.order_by(Thread.updated_at).limit(THREADS_AT_ONCE)))
        for thread_id in thread_ids:
            async with self._database.session() as session:
                thread = await threads.locked(session, project_id, Address(id=thread_id))
                if thread is None or thread.updated_at >= datetime.now(UTC) - timedelta(days=days):
                    continue
                erased = await erase(session, SERVICE, thread, "thread.purged")
            await erased.forget(self._live_ids, self._event_log)
        return len(thread_ids)

    async def old_turns(self, project_id: UUID, days: int, since: UUID | None) -> UUID | None:
        """Purge the content of turns that are older than so many days, some at a time.

        Args:
            since: the last turn that was looked at.

        Returns:
            The last turn that has been looked at now; None if there is no older one.
        """
        until = ids.first_uuid(datetime.now(UTC) - timedelta(days=days))
        rows = await self._database.fetch(OLD_TURNS, project_id, since or UUID(int=0), until, TURNS_AT_ONCE)
        by_thread: dict[UUID, list[UUID]] = {}
        for row in rows:
            if row["whole"]:
                by_thread.setdefault(row["thread_id"], []).append(row["id"])
        for thread_id, turn_ids in by_thread.items():
            async with self._database.session() as session:
                thread = await threads.locked(session, project_id, Address(id=thread_id))
                if thread is None:
                    continue
                erased = Erased(project_id, turn_ids=turn_ids)
                erased.thread_ids |= await erase_turns(session, SERVICE, thread, turn_ids, "turn.purged")
            await erased.forget(self._live_ids, self._event_log)
        if not rows:
            return None
        last: UUID = rows[-1]["id"]
        async with self._database.session() as session:
            await session.execute(update(Project).where(Project.project_id == project_id).values(purged_until=last))
        return last

    async def _purge_some(self, taken: asyncpg.Record) -> bool:
        """Purge a few threads of a user. False when none is left, and the purge is complete."""
        project_id, user = taken["project_id"], taken["user_id"]
        actor = Actor(taken["key_id"], taken["address"])
        this = (UserPurge.project_id == project_id, UserPurge.id == taken["id"])
        mine = select(Thread.id).where(Thread.project_id == project_id, Thread.user_id == user)
        async with self._database.session() as session:
            thread_ids = list(await session.scalars(mine.order_by(Thread.id).limit(THREADS_AT_ONCE)))
            if not thread_ids:
                ended = update(UserPurge).where(*this, UserPurge.completed_at.is_(None)).values(completed_at=func.now())
                done = (await session.execute(ended.returning(UserPurge.threads_done))).scalar_one_or_none()
                if done is not None:
                    await append(session, actor, project_id, "user.purged", user_id=user, detail=f"{done} threads")
                return False
        for thread_id in thread_ids:
            async with self._database.session() as session:
                thread = await threads.locked(session, project_id, Address(id=thread_id))
                if thread is None or thread.user_id != user:
                    continue
                erased = await erase(session, actor, thread, "thread.purged")
                # What other users' forks share of it is this user's content all the same.
                for heir_id, turn_ids in erased.inherited.items():
                    heir = await threads.locked(session, project_id, Address(id=heir_id))
                    if heir is not None and heir.user_id != user:
                        erased.thread_ids |= await erase_turns(session, actor, heir, turn_ids, "turn.purged")
                        erased.turn_ids += turn_ids
                counted = {
                    "threads_done": UserPurge.threads_done + 1,
                    "lease_expires_at": func.now() + timedelta(seconds=LEASE_SECONDS),
                }
                await session.execute(update(UserPurge).where(*this).values(counted))
            await erased.forget(self._live_ids, self._event_log)
        return True


def purge_object(purge: UserPurge) -> dict[str, Any]:
    return {
        "id": f"purge_{purge.id.hex}",
        "object": "user.purge",
        "user": purge.user_id,
        "status": "in_progress" if purge.completed_at is None else "completed",
        "threads": purge.threads,
        "threads_done": purge.threads_done,
        "created_at": int(purge.created_at.timestamp()),
        "completed_at": None if purge.completed_at is None else int(purge.completed_at.timestamp()),
    }
