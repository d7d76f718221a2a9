"""Forks: threads that have another thread's history up to a turn, and go their own way from there."""

import secrets
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.ids import BUCKETS
from app.history import recorded
from app.history.fork_copy import copied
from app.http.errors import Conflict, NotFound
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

# Turns that a fork shares become its own: the thread that they were made in is about to go. They keep their numbers:
# those of the fork's own turns begin above them.
TAKE_OVER = text(
    """WITH RECURSIVE shared AS (
        SELECT t.id, t.parent_id FROM turns t
        WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :forked_turn_id
        UNION ALL
        SELECT t.id, t.parent_id FROM shared JOIN turns t
            ON t.project_id = :project_id AND t.bucket = :bucket AND t.id = shared.parent_id
    )
    UPDATE turns SET thread_id = :fork_id
    WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id AND id IN (SELECT id FROM shared)
    RETURNING id"""
)


# A branch from its first turn on, as far as it is short enough to be copied, and one turn more.
SHORT_BRANCH = text(
    """WITH RECURSIVE branch AS (
        SELECT t.id, t.parent_id, 1 AS depth FROM turns t
        WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.id = :turn_id
        UNION ALL
        SELECT t.id, t.parent_id, branch.depth + 1 FROM branch JOIN turns t
            ON t.project_id = :project_id AND t.bucket = :bucket AND t.id = branch.parent_id
        WHERE branch.depth <= :most
    )
    SELECT id FROM branch ORDER BY depth DESC"""
)


@dataclass(frozen=True, slots=True)
class Forks:
    """How threads are forked: a short history is copied, and a long one shared."""

    names: Names
    copies_turns: int
    """How long a history may be to be copied: its fork lies in a bucket of its own then."""

    async def fork(
        self, session: AsyncSession, actor: Actor, source: Thread, turn_id: UUID | None, values: dict[str, Any]
    ) -> Thread:
        """A new thread that goes on from a turn of another.

        Args:
            source: its row is locked, so that it is not deleted meanwhile.
            turn_id: the last turn of the fork's history; None for the source's head.

        Raises:
            APIError: the turn is not in the source's history, or is in progress.
        """
        at = turn_id or source.head_turn_id
        seq = 0 if at is None else await _forkable(session, source, at)
        inherited: dict[str, Any] = {"title": source.title, "user_id": source.user_id, "metadata_": source.metadata_}
        if "user_id" not in values:
            inherited["trail_key"] = source.trail_key
        values = {**inherited, **values}
        branch: list[UUID] = []
        if at is not None:
            where = {"project_id": source.project_id, "bucket": source.bucket, "turn_id": at}
            branch = list(await session.scalars(SHORT_BRANCH, {**where, "most": self.copies_turns}))
        if len(branch) <= self.copies_turns:
            bucket = (source.bucket + 1 + secrets.randbelow(BUCKETS - 1)) % BUCKETS
            made = await store.add(session, self.names, actor, source.project_id, {**values, "bucket": bucket})
            await copied(session, actor, made, source.bucket, branch)
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


# The calls of such turns refer to pieces of the thread's: those go along, behind the fork's own.
LAST_PIECE = text(
    """SELECT coalesce(max(number), 0) FROM pieces
    WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :fork_id"""
)
TAKE_PIECES = text(
    """INSERT INTO pieces (project_id, bucket, thread_id, number, digest, sources, data)
    SELECT project_id, bucket, :fork_id, number + CAST(:last_piece AS integer), digest, sources, data FROM pieces
    WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :thread_id"""
)
# Their ciphertexts are bound to the thread that they were written for.
SEALED_PIECES = text(
    """SELECT number, digest, data FROM pieces
    WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :fork_id AND number > :last_piece
        AND starts_with(data, :mark)"""
)
REWRITE_PIECE = text(
    """UPDATE pieces SET data = :data, sources = CASE WHEN CAST(:data AS text) IS NULL THEN '{}' ELSE sources END
    WHERE project_id = :project_id AND bucket = :bucket AND thread_id = :fork_id AND number = :number"""
)
REFER_TO_THEM = text(
    """UPDATE calls SET refs = ARRAY(
        SELECT CASE WHEN first.ref = 0 THEN r.ref ELSE r.ref + CAST(:last_piece AS integer) END
        FROM unnest(refs) WITH ORDINALITY AS r (ref, place)
        JOIN unnest(refs) WITH ORDINALITY AS first (ref, place) ON first.place = r.place - (r.place - 1) % 2
        ORDER BY r.place
    )
    WHERE project_id = :project_id AND bucket = :bucket AND turn_id = ANY(:turn_ids)"""
)


# Who goes on from a thread's turns: forks of it, and what was forked before some of its turns became its own.
HEIRS = text(
    """SELECT heir, turn_id FROM (
        SELECT th.id AS heir, th.forked_turn_id AS turn_id FROM turns t
        JOIN threads th ON th.project_id = :project_id AND th.bucket = :bucket AND th.forked_turn_id = t.id
        WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = :thread_id
        UNION
        SELECT c.thread_id, t.id FROM turns t
        JOIN turns c ON c.project_id = :project_id AND c.bucket = :bucket AND c.parent_id = t.id
        WHERE t.project_id = :project_id AND t.bucket = :bucket AND t.thread_id = :thread_id
    ) AS heirs WHERE heir <> :thread_id ORDER BY heir, turn_id"""
)


async def _seal_anew(session: AsyncSession, thread: Thread, fork_id: UUID, taken: dict[str, Any]) -> None:
    """Seal the pieces that a fork has taken over for their new place. One that cannot be opened is erased."""
    pieces = rows_of(SentPiece)
    for row in (await session.execute(SEALED_PIECES, {**taken, "mark": MARK})).all():
        source, target = (pieces.at(thread.project_id, owner, row.digest) for owner in (thread.id, fork_id))
        try:
            data = MARK + ciphertext.moved(row.data.removeprefix(MARK), source, target, "data")
        except CannotOpen:
            data = None
        await session.execute(REWRITE_PIECE, {**taken, "number": row.number, "data": data})


async def leave_to_forks(session: AsyncSession, actor: Actor, thread: Thread) -> dict[UUID, list[UUID]]:
    """Give the turns that forks share to them, the oldest fork first. The thread's row is locked.

    Returns:
        The turns that each fork got.
    """
    inherited: dict[UUID, list[UUID]] = {}
    of_thread = {"project_id": thread.project_id, "bucket": thread.bucket, "thread_id": thread.id}
    for heir, turn_id in (await session.execute(HEIRS, of_thread)).all():
        taken = await session.scalars(TAKE_OVER, {**of_thread, "fork_id": heir, "forked_turn_id": turn_id})
        inherited.setdefault(heir, []).extend(taken)
    for heir, turn_ids in inherited.items():
        to_fork = {**of_thread, "fork_id": heir, "turn_ids": turn_ids}
        last = {"last_piece": await session.scalar(LAST_PIECE, to_fork)}
        await session.execute(TAKE_PIECES, {**to_fork, **last})
        await _seal_anew(session, thread, heir, {**to_fork, **last})
        await session.execute(REFER_TO_THEM, {**to_fork, **last})
        detail = ids.thread_id(thread.id)
        records = await recorded.left(
            session, "turn.inherited", thread.project_id, thread.bucket, turn_ids, detail=detail
        )
        await append_records(session, actor, thread.project_id, heir, records)
    return inherited
