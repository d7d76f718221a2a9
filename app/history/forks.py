"""Forks: threads that share another thread's history up to a turn, and go their own way from there."""

from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.errors import Conflict, NotFound
from app.threads import store
from app.threads.names import Names
from app.threads.tables import Thread
from app.trail.append import append
from app.trail.records import Actor
from app.turns.tables import Turn

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


async def fork(
    session: AsyncSession,
    names: Names,
    actor: Actor,
    source: Thread,
    turn_id: UUID | None,
    values: dict[str, Any],
) -> Thread:
    """A new thread that goes on from a turn of another.

    A long history is shared, and not copied: the fork lies in its source's bucket then. A short one is copied.

    Args:
        source: its row is locked, so that it is not deleted meanwhile.
        turn_id: the last turn of the fork's history; None for the source's head.

    Raises:
        APIError: the turn is not in the source's history, or is in progress.
    """
    at = turn_id or source.head_turn_id
    seq = 0
    if at is not None:
        found = select(Turn.status, Turn.seq).where(
            Turn.project_id == source.project_id, Turn.bucket == source.bucket, Turn.id == at
        )
        row = (await session.execute(found)).one_or_none()
        shared = await session.scalar(
            text("SELECT in_history(:project_id, CAST(:bucket AS smallint), :thread_id, :turn_id)"),
            {"project_id": source.project_id, "bucket": source.bucket, "thread_id": source.id, "turn_id": at},
        )
        if row is None or not shared:
            raise NotFound("'turn_id' must be the id of a turn of this thread.", param="turn_id", code="turn_not_found")
        if row.status == "in_progress":
            raise Conflict(
                "This turn is still in progress. Wait for its end, or cancel it.", param="turn_id", code="thread_busy"
            )
        seq = row.seq
    inherited: dict[str, Any] = {
        "title": source.title,
        "user_id": source.user_id,
        "metadata_": source.metadata_,
        "bucket": source.bucket,
        "last_seq": seq,
    }
    if "user_id" not in values:
        inherited["trail_key"] = source.trail_key
    made = await store.add(session, names, actor, source.project_id, {**inherited, **values, "forked_turn_id": at})
    # The head after the fork's point: the check of a head looks that up.
    made.head_turn_id = at
    await session.flush()
    await append(
        session,
        actor,
        source.project_id,
        "thread.forked",
        thread_id=source.id,
        turn_id=at,
        detail=ids.thread_id(made.id),
    )
    return made


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


async def leave_to_forks(session: AsyncSession, thread: Thread) -> dict[UUID, list[UUID]]:
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
        await session.execute(REFER_TO_THEM, {**to_fork, **last})
    return inherited
