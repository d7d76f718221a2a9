"""Deleting a thread: its content is gone from every table when the transaction ends."""

from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.chain import provider_deletions
from app.chain.live_ids import LiveIds
from app.history.forks import leave_to_forks
from app.media import store as media
from app.threads import store
from app.threads.names import Names
from app.threads.tables import Thread
from app.trail.records import Action, Actor
from app.turns.cancel_signals import CancelSignals
from app.turns.event_log import EventLog
from app.turns.tables import Turn


@dataclass(slots=True)
class Erased:
    """Rows that Redis must forget too, after the transaction has committed."""

    project_id: UUID
    thread_ids: set[UUID] = field(default_factory=set)
    turn_ids: list[UUID] = field(default_factory=list)
    running: list[UUID] = field(default_factory=list)
    """The turns that some worker still runs."""
    inherited: dict[UUID, list[UUID]] = field(default_factory=dict)
    """The turns that went to forks instead, by fork."""

    async def forget(self, live_ids: LiveIds, event_log: EventLog, signals: CancelSignals) -> None:
        await signals.send(self.running)
        for thread_id in self.thread_ids:
            await live_ids.forget(self.project_id, thread_id)
        await event_log.forget(self.project_id, self.turn_ids)


async def erase(
    session: AsyncSession, names: Names, actor: Actor, thread: Thread, action: Action = "thread.deleted"
) -> Erased:
    """Delete a thread whose row is locked. What its forks share becomes theirs; its running turn is stopped."""
    inherited = await leave_to_forks(session, actor, thread)
    mine = (Turn.project_id == thread.project_id, Turn.bucket == thread.bucket, Turn.thread_id == thread.id)
    turn_ids = list(await session.scalars(select(Turn.id).where(*mine)))
    running = list(await session.scalars(select(Turn.id).where(*mine, Turn.status == "in_progress")))
    await provider_deletions.queue(session, thread.project_id, thread.bucket, turn_ids)
    async with media.released(session, thread.project_id, thread.bucket, turn_ids):
        await store.remove(session, names, actor, thread, action)
    return Erased(thread.project_id, {thread.id}, turn_ids, running, inherited)
