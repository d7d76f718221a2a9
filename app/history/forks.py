"""Forks: threads that have another thread's history up to a turn, and go their own way from there."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.ids import BUCKETS
from app.db.sql import statements_of
from app.history import turn_digests
from app.history.fork_copy import copy_turns
from app.http.errors import Conflict, NotFound
from app.http.pages import PAGE_BYTES
from app.projects.preset_store import preset_of
from app.sealing import ciphertext
from app.sealing.at_rest import MARK
from app.sealing.ciphertext import CannotOpen
from app.sealing.columns import rows_of
from app.threads import store
from app.threads.names import Names
from app.threads.tables import Thread
from app.trail.append import append_record, append_records
from app.trail.records import Actor
from app.turns.tables import SentPiece, Turn
from app.usage.sums import reset_sums

SQL = statements_of(__file__)


@dataclass(frozen=True, slots=True)
class Forks:
    """Forks of threads: a short history is copied, and a long one shared."""

    names: Names
    copies_turns: int
    """Largest number of turns that a fork copies. A fork with a copy has a bucket of its own."""

    async def fork(
        self, session: AsyncSession, actor: Actor, source: Thread, turn_id: UUID | None, values: dict[str, Any]
    ) -> Thread:
        """Create a thread that continues from a turn of another.

        Args:
            source: its row is locked, so that it is not deleted meanwhile.
            turn_id: the last turn of the fork's history; None for the source's head.

        Raises:
            APIError: the turn is not in the source's history, or is in progress.
        """
        at = turn_id or source.head_turn_id
        seq = 0 if at is None else await _forkable(session, source, at)
        inherited: dict[str, Any] = {"title": source.title, "user_id": source.user_id, "metadata_": source.metadata_}
        await session.refresh(source, ["preset"])
        if "preset" not in values and source.preset is not None:
            inherited["preset"] = preset_of(source.preset, unreadable="preset" in source.unreadable).stored()
        if "user_id" not in values:
            inherited["trail_key"] = source.trail_key
        values = {**inherited, **values}
        branch: Sequence[Any] = []
        if at is not None:
            where = {"project_id": source.project_id, "bucket": source.bucket, "turn_id": at}
            branch = (await session.execute(SQL.short_branch.clause, {**where, "most": self.copies_turns})).all()
        if len(branch) <= self.copies_turns and sum(row.size for row in branch) <= PAGE_BYTES:
            bucket = (source.bucket + 1 + secrets.randbelow(BUCKETS - 1)) % BUCKETS
            made = await store.add(session, self.names, actor, source.project_id, {**values, "bucket": bucket})
            await copy_turns(session, actor, made, source.bucket, [row.id for row in branch])
        else:
            place = {"bucket": source.bucket, "last_seq": seq, "forked_turn_id": at}
            made = await store.add(session, self.names, actor, source.project_id, {**values, **place}, head=at)
            # The head after the fork's point: the check of a head looks that up.
            made.head_turn_id = at
        await session.flush()
        await append_record(
            session,
            actor,
            source.project_id,
            "thread.forked",
            thread_id=source.id,
            turn_id=at,
            detail=ids.thread_id(made.id),
        )
        return made


async def _forkable(session: AsyncSession, source: Thread, turn_id: UUID) -> int:
    """The number of a turn that a thread can be forked at."""
    here = (Turn.project_id == source.project_id, Turn.bucket == source.bucket, Turn.id == turn_id)
    row = (await session.execute(select(Turn.status, Turn.seq).where(*here))).one_or_none()
    where = {"project_id": source.project_id, "bucket": source.bucket, "thread_id": source.id, "turn_id": turn_id}
    if row is None or not await session.scalar(store.SQL.in_history.clause, where):
        raise NotFound("'turn_id' must be the id of a turn of this thread.", param="turn_id", code="turn_not_found")
    if row.status == "in_progress":
        raise Conflict(
            "This turn is still in progress. Wait for its end, or cancel it.", param="turn_id", code="thread_busy"
        )
    seq: int = row.seq
    return seq


async def _seal_anew(session: AsyncSession, thread: Thread, fork_id: UUID, taken: dict[str, Any]) -> None:
    """Seal the pieces that a fork has taken over for their new place. One that cannot be opened is erased."""
    pieces = rows_of(SentPiece)
    for row in (await session.execute(SQL.sealed_pieces.clause, {**taken, "mark": MARK})).all():
        source, target = (pieces.at(thread.project_id, owner, row.digest) for owner in (thread.id, fork_id))
        try:
            data = MARK + ciphertext.moved(row.data.removeprefix(MARK), source, target, "data")
        except CannotOpen:
            data = None
        await session.execute(SQL.rewrite_piece.clause, {**taken, "number": row.number, "data": data})


async def _locked_heirs(session: AsyncSession, of_thread: dict[str, Any]) -> list[tuple[UUID, UUID]]:
    """Return the threads that continue from a thread's turns, and where. Their rows are locked: none is deleted
    meanwhile. Where one was, its own heirs are looked up."""
    while True:
        heirs = [(row.heir, row.turn_id) for row in await session.execute(SQL.heirs.clause, of_thread)]
        wanted = {heir for heir, _ in heirs}
        here = (Thread.project_id == of_thread["project_id"], Thread.bucket == of_thread["bucket"])
        rows = select(Thread.id).where(*here, Thread.id.in_(wanted)).order_by(Thread.id)
        if wanted == set(await session.scalars(rows.with_for_update(key_share=True))):
            return heirs


async def leave_to_forks(session: AsyncSession, actor: Actor, thread: Thread) -> dict[UUID, list[UUID]]:
    """Give the turns that forks share to them, the oldest fork first. The thread's row is locked.

    Returns:
        The turns that each fork got.
    """
    inherited: dict[UUID, list[UUID]] = {}
    of_thread = {"project_id": thread.project_id, "bucket": thread.bucket, "thread_id": thread.id}
    for heir, turn_id in await _locked_heirs(session, of_thread):
        taken = await session.scalars(SQL.take_over.clause, {**of_thread, "fork_id": heir, "turn_id": turn_id})
        inherited.setdefault(heir, []).extend(taken)
    for heir, turn_ids in inherited.items():
        await reset_sums(session, thread.project_id, thread.bucket, heir)
        to_fork = {**of_thread, "fork_id": heir, "turn_ids": turn_ids}
        last = {"last_piece": await session.scalar(SQL.last_piece.clause, to_fork)}
        await session.execute(SQL.take_pieces.clause, {**to_fork, **last})
        await _seal_anew(session, thread, heir, {**to_fork, **last})
        await session.execute(SQL.refer_to_pieces.clause, {**to_fork, **last})
        detail = ids.thread_id(thread.id)
        records = await turn_digests.record_emptied(
            session, "turn.inherited", thread.project_id, thread.bucket, turn_ids, detail=detail
        )
        await append_records(session, actor, thread.project_id, heir, records)
    return inherited
