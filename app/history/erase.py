"""Deleting a thread: its content is gone from every table when the transaction ends."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.chain import provider_deletions
from app.chain.live_ids import LiveIds
from app.db.sql import statements_of
from app.history.forks import leave_to_forks
from app.media import store as media
from app.threads import store
from app.threads.names import Names
from app.threads.tables import Thread
from app.trail.records import Action, Actor
from app.turns.cancel_signals import CancelSignals
from app.turns.event_log import EventLog
from app.turns.tables import Turn

SQL = statements_of(__file__)

COUNT = re.compile("([0-9]{1,18}) ([a-z_]+)")


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
    session: AsyncSession,
    names: Names,
    actor: Actor,
    thread: Thread,
    action: Action = "thread.deleted",
    *,
    purge: str | None = None,
) -> Erased:
    """Delete a thread whose row is locked. What its forks share becomes theirs; its running turn is stopped.

    The record tells how many rows are deleted, and how many turns forks have inherited.

    Args:
        purge: the id of the purge that the thread is deleted for.
    """
    inherited = await leave_to_forks(session, actor, thread)
    mine = (Turn.project_id == thread.project_id, Turn.bucket == thread.bucket, Turn.thread_id == thread.id)
    turns = (await session.execute(select(Turn.id, Turn.status).where(*mine))).all()
    turn_ids = [turn.id for turn in turns]
    running = [turn.id for turn in turns if turn.status == "in_progress"]
    of_turns = {"project_id": thread.project_id, "bucket": thread.bucket, "turn_ids": turn_ids}
    counts = (await session.execute(SQL.erased_counts.clause, of_turns)).mappings().one()
    heirs = {"inherited": sum(map(len, inherited.values()))} if inherited else {}
    detail = counted({"turns": len(turn_ids), **counts, **heirs}, purge)
    await provider_deletions.queue(session, thread.project_id, thread.bucket, turn_ids)
    async with media.released(session, thread.project_id, thread.bucket, turn_ids):
        await store.remove(session, names, actor, thread, action, detail)
    return Erased(thread.project_id, {thread.id}, turn_ids, running, inherited)


def counted(counts: Mapping[str, int], purge: str | None = None) -> str:
    """Return the detail of a record of what was erased: `3 turns, 12 items; purge_…`."""
    detail = ", ".join(f"{count} {name}" for name, count in counts.items())
    return detail if purge is None else f"{detail}; {purge}"


def counts_of(detail: str | None) -> dict[str, int]:
    """Return the counts that such a detail tells; of a record of an earlier release, none or some of them."""
    return {name: int(count) for count, name in COUNT.findall((detail or "").partition(";")[0])}
