"""Purges of contents older than a project's retention, and of all data of one end user."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import func

from app.audit.merkle import Tree, leaf_data
from app.chain.live_ids import LiveIds
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.history.edits import erase_turns
from app.history.erase import Erased, counted, counts_of, erase
from app.limits import charges
from app.projects.tables import Project
from app.retention.tables import PurgeRecords, UserPurge
from app.sealing.content_keys import ContentKeys
from app.threads import store as threads
from app.threads.address import ById
from app.threads.names import Names
from app.threads.tables import Thread, ThreadActivity
from app.trail.append import append_record
from app.trail.records import SERVICE, Actor
from app.trail.users import UserKeys
from app.turns.cancel_signals import CancelSignals
from app.turns.event_log import EventLog
from app.turns.tables import Turn

LEASE_SECONDS = 60
TURNS_AT_ONCE = 500
THREADS_AT_ONCE = 100
RECORDS_AT_ONCE = 5_000

SQL = statements_of(__file__)

BEGINNING = datetime.fromtimestamp(0, UTC)


class Purge:
    def __init__(
        self,
        database: Database,
        names: Names,
        users: UserKeys,
        live_ids: LiveIds,
        event_log: EventLog,
        signals: CancelSignals,
        content_keys: ContentKeys,
    ) -> None:
        self._content_keys = content_keys
        self._database = database
        self._names = names
        self._users = users
        self._live_ids = live_ids
        self._event_log = event_log
        self._signals = signals

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

    async def latest(self, project_id: UUID, limit: int) -> list[UserPurge]:
        wanted = select(UserPurge).where(UserPurge.project_id == project_id)
        async with self._database.session() as session:
            return list(await session.scalars(wanted.order_by(UserPurge.id.desc()).limit(limit)))

    async def get(self, project_id: UUID, purge_id: UUID) -> UserPurge | None:
        async with self._database.session() as session:
            return await session.get(UserPurge, (project_id, purge_id))

    async def continue_one(self) -> bool:
        """Go on with a purge that nobody is at, to its end. False if there is none."""
        for seen in await self._database.fetch(*SQL.unfinished_purges()):
            taken = await self._database.fetchrow(*SQL.take_purge(**seen, lease_seconds=LEASE_SECONDS))
            if taken is not None:
                while await self._purge_some(taken):
                    pass
                return True
        return False

    async def old_threads(self, project_id: UUID, days: int) -> int:
        """Purge threads without a turn or a change for a number of days. Returns how many they were."""
        idle = (ThreadActivity.project_id == project_id, ThreadActivity.active_at < _ago(days))
        old = select(ThreadActivity.thread_id).where(*idle).order_by(ThreadActivity.active_at)
        async with self._database.session() as session:
            thread_ids = list(await session.scalars(old.limit(THREADS_AT_ONCE)))
        for thread_id in thread_ids:
            async with self._database.session() as session:
                thread = await threads.locked(session, project_id, ById(thread_id))
                if thread is None:
                    continue
                mine = (ThreadActivity.bucket == thread.bucket, ThreadActivity.thread_id == thread_id)
                if await session.scalar(select(ThreadActivity.thread_id).where(*idle, *mine)) is None:
                    continue
                erased = await erase(session, self._names, SERVICE, thread, "thread.purged")
            await erased.forget(self._live_ids, self._event_log, self._signals)
        return len(thread_ids)

    async def expired_threads(self) -> int:
        """Purge threads whose own time is over. Returns how many there were to look at."""
        due = await self._database.fetch(*SQL.expired_threads(limit=THREADS_AT_ONCE))
        for row in due:
            await self._purge_expired(row)
        return len(due)

    async def _purge_expired(self, row: asyncpg.Record) -> None:
        await self._content_keys.try_to_load(row["project_id"])  # For what forks take over.
        async with self._database.session() as session:
            thread = await threads.locked(session, row["project_id"], ById(row["id"]))
            if thread is None or thread.expires_at is None:
                return
            if (until := await session.scalar(SQL.lives_until.clause, dict(row))) is not None:
                thread.expires_at = until
                return
            erased = await erase(session, self._names, SERVICE, thread, "thread.purged")
        await erased.forget(self._live_ids, self._event_log, self._signals)

    async def old_turns(self, project_id: UUID, days: int, since: datetime | None) -> datetime | None:
        """Purge the content of turns that are older than so many days, some at a time.

        Args:
            since: when the last turn that was looked at had arrived.

        Returns:
            When the last turn that has been looked at now had; None if there is no older one.
        """
        since = since or BEGINNING
        rows = await self._database.fetch(
            *SQL.old_turns(project_id=project_id, after=since, before=_ago(days), at_once=TURNS_AT_ONCE)
        )
        by_thread: dict[UUID, list[UUID]] = {}
        for row in rows:
            if row["whole"]:
                by_thread.setdefault(row["thread_id"], []).append(row["id"])
        for thread_id, turn_ids in by_thread.items():
            async with self._database.session() as session:
                thread = await threads.locked(session, project_id, ById(thread_id))
                if thread is None:
                    continue
                erased = Erased(project_id, turn_ids=turn_ids)
                erased.thread_ids |= await erase_turns(session, SERVICE, thread, turn_ids, "turn.purged")
            await erased.forget(self._live_ids, self._event_log, self._signals)
        if not rows:
            return None
        last: datetime = max(row["arrived_at"] for row in rows)
        async with self._database.session() as session:
            await session.execute(update(Project).where(Project.project_id == project_id).values(purged_until=last))
        return last

    async def _purge_some(self, taken: asyncpg.Record) -> bool:
        """Purge a few threads of a user. False when none is left, and the purge is complete."""
        project_id, user = taken["project_id"], taken["user_id"]
        await self._content_keys.try_to_load(project_id)
        actor = Actor(taken["key_id"], taken["address"])
        this = (UserPurge.project_id == project_id, UserPurge.id == taken["id"])
        mine = select(Thread.id).where(Thread.project_id == project_id, Thread.user_id == user)
        named = await self._users.digest(project_id, user)
        async with self._database.session() as session:
            thread_ids = list(await session.scalars(mine.order_by(Thread.id).limit(THREADS_AT_ONCE)))
            if not thread_ids:
                await charges.rename_user(session, project_id, user, None)
                ended = update(UserPurge).where(*this, UserPurge.completed_at.is_(None)).values(completed_at=func.now())
                purge = (await session.execute(ended.returning(UserPurge))).scalar_one_or_none()
                if purge is not None:
                    counts, root = await _keep_records(session, purge, named)
                    detail = counted(counts, ids.purge_id(purge.id))
                    await append_record(
                        session, actor, project_id, "user.purged", user_digest=named, detail=detail, content=root
                    )
        if not thread_ids:
            await self._users.forget(project_id, user)
            return False
        for thread_id in thread_ids:
            async with self._database.session() as session:
                thread = await threads.locked(session, project_id, ById(thread_id))
                if thread is None or thread.user_id != user:
                    continue
                purge_id = ids.purge_id(taken["id"])
                erased = await erase(session, self._names, actor, thread, "thread.purged", purge=purge_id)
                # What other users' forks share of it is this user's content all the same.
                for heir_id, turn_ids in erased.inherited.items():
                    heir = await threads.locked(session, project_id, ById(heir_id))
                    if heir is not None and heir.user_id != user:
                        erased.thread_ids |= await erase_turns(
                            session, actor, heir, turn_ids, "turn.purged", purge=purge_id
                        )
                        erased.turn_ids += turn_ids
                await self._purge_copies(session, actor, thread, user, erased, purge_id)
                progress = {
                    "threads_done": UserPurge.threads_done + 1,
                    "lease_expires_at": func.now() + timedelta(seconds=LEASE_SECONDS),
                }
                await session.execute(update(UserPurge).where(*this).values(progress))
            await erased.forget(self._live_ids, self._event_log, self._signals)
        return True

    async def _purge_copies(
        self, session: AsyncSession, actor: Actor, thread: Thread, user: str, erased: Erased, purge_id: str
    ) -> None:
        """Purge what other users' forks have copied of a thread: it is the content of the thread's user."""
        project_id = thread.project_id
        of_turns = (Turn.project_id == project_id, Turn.copied_from_id.in_(erased.turn_ids), Turn.deleted_at.is_(None))
        copies: dict[UUID, list[UUID]] = {}
        for thread_id, turn_id in (await session.execute(select(Turn.thread_id, Turn.id).where(*of_turns))).all():
            copies.setdefault(thread_id, []).append(turn_id)
        for thread_id, turn_ids in copies.items():
            fork = await threads.locked(session, project_id, ById(thread_id))
            if fork is not None and fork.user_id != user:
                erased.thread_ids |= await erase_turns(session, actor, fork, turn_ids, "turn.purged", purge=purge_id)
                erased.turn_ids += turn_ids


async def _keep_records(session: AsyncSession, purge: UserPurge, named: bytes | None) -> tuple[Counter[str], bytes]:
    """Store which records tell of a purge. Returns the sums of what was deleted, and the records' Merkle root."""
    tree, leaves, counts = Tree(), bytearray(), Counter(threads=0)
    of_purge = {"project_id": purge.project_id, "since": purge.created_at, "purge": ids.purge_id(purge.id)}
    after: dict[str, Any] = {"at": BEGINNING, "chain_id": UUID(int=0), "seq": 0}
    while rows := (
        await session.execute(
            SQL.records_of_purge.clause, {**of_purge, **after, "named": named, "limit": RECORDS_AT_ONCE}
        )
    ).all():
        for row in rows:
            leaf = leaf_data(row.chain_id, row.seq, row.hash)
            tree.add(leaf)
            leaves += leaf
            if row.action == "turn.purged":
                counts["turns_of_forks"] += 1
            else:
                counts["threads"] += 1
                counts.update(counts_of(row.detail))
        after = {"at": rows[-1].at, "chain_id": rows[-1].chain_id, "seq": rows[-1].seq}
    counts.pop("inherited", None)  # By the user's own threads, which are deleted; of others', they are purged.
    session.add(PurgeRecords(project_id=purge.project_id, purge_id=purge.id, leaves=bytes(leaves)))
    await session.flush()
    return counts, tree.root()


def _ago(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)
