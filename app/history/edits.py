"""Changes to a thread's history from outside a turn: items added or deleted, turns deleted.

Each takes the thread's row first and refuses a busy thread, so that no running turn continues
from a changed history. A changed history cannot be chained on: its response ids are dropped.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, case, delete, func, insert, select, type_coerce, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.chain import provider_deletions
from app.chain.continuation import ContinuationReason
from app.chain.live_ids import LiveIds
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.history import turn_digests
from app.history.tables import Share
from app.holds.doors import check_turn
from app.http.errors import Conflict
from app.items.input_item import with_facts
from app.items.stored import columns, stored_input
from app.media import store as media
from app.projects.auth import Caller
from app.sealing import at_rest
from app.sealing.columns import Written, rows_of
from app.threads import store as threads
from app.threads.address import ById, OfTurn, ThreadAddress, unknown
from app.threads.tables import Thread
from app.trail import contents
from app.trail.append import Record, append_record, append_records
from app.trail.records import UNREADABLE_REST, Action, Actor
from app.turns.event_log import EventLog
from app.turns.tables import DOCUMENT, Call, Item, SentPiece, Turn

SQL = statements_of(__file__)


class Edits:
    def __init__(self, database: Database, live_ids: LiveIds, event_log: EventLog) -> None:
        self._database = database
        self._event_log = event_log
        self._live_ids = live_ids

    async def add_items(
        self, actor: Actor, project_id: UUID, address: ThreadAddress, items: Sequence[dict[str, Any]]
    ) -> list[str]:
        """Append items outside any call to the model: a turn that holds nothing else. Returns their ids."""
        async with self._database.session() as session:
            thread = await _idle_thread(session, project_id, address)
            added = await append_items(session, actor, thread, items)
        await self._live_ids.forget(project_id, thread.id)
        return added

    async def delete_item(self, caller: Caller, address: ThreadAddress, item_id: str) -> bool:
        actor, project_id = caller.actor, caller.project_id
        async with self._database.session() as session:
            thread = await _idle_thread(session, project_id, address)
            mine = (Turn.project_id == project_id, Turn.bucket == thread.bucket, Turn.thread_id == thread.id)
            of_id = (Item.project_id == project_id, Item.bucket == thread.bucket, Item.item_id == item_id)
            within = (*of_id, Item.turn_id.in_(select(Turn.id).where(*mine)))
            turn_ids = set(await session.scalars(select(Item.turn_id).where(*within)))
            for turn_id in turn_ids:
                await check_turn(session, caller, turn_id)
            async with media.released(session, project_id, thread.bucket, list(turn_ids)):
                await session.execute(delete(Item).where(*within).execution_options(synchronize_session=False))
            deleted = bool(turn_ids)
            for turn_id in turn_ids:
                await session.execute(update(Call).where(*at(Call.turn_id, project_id, turn_id)).values(frames=None))
                # The salt of the digests so far goes. The record has one of what is left, under another.
                content, detail = await turn_digests.renew_digest(session, project_id, turn_id, thread.bucket), item_id
                if content is None:
                    detail = item_id + UNREADABLE_REST
                    place = (project_id, thread.bucket, [turn_id])
                    (record,) = await turn_digests.record_emptied(
                        session, "item.deleted", *place, {"salt": None}, detail=detail
                    )
                    content = record.content
                await record_turn(session, actor, thread, "item.deleted", turn_id, detail, content=content)
            thread_ids = await _give_up_chains(session, thread) if deleted else []
            compactions = (
                await _delete_compactions(session, actor, thread, thread_ids, list(turn_ids)) if deleted else []
            )
            await _erase_pieces(session, actor, thread, thread_ids, [item_id, *compactions])
        for thread_id in thread_ids:
            await self._live_ids.forget(project_id, thread_id)
        return deleted

    async def delete_turn(self, caller: Caller, address: OfTurn) -> None:
        """Delete what a turn holds. Its row stays without content, for the turns that continue it."""
        actor, project_id, turn_id = caller.actor, caller.project_id, address.turn
        async with self._database.session() as session:
            thread = await _idle_thread(session, project_id, address)
            await check_turn(session, caller, turn_id)
            if thread.head_turn_id == turn_id:
                parent = select(Turn.parent_id).where(*at(Turn.id, project_id, turn_id))
                thread.head_turn_id = await session.scalar(parent)
                await session.flush()
            thread_ids = await erase_turns(session, actor, thread, [turn_id], "turn.deleted")
        for thread_id in thread_ids:
            await self._live_ids.forget(project_id, thread_id)
        await self._event_log.forget(project_id, [turn_id])


async def erase_turns(
    session: AsyncSession,
    actor: Actor,
    thread: Thread,
    turn_ids: Sequence[UUID],
    action: Action,
    *,
    purge: str | None = None,
) -> set[UUID]:
    """Delete what turns of a thread hold. Their rows stay without content, for the turns that continue them.

    Args:
        purge: the id of the purge that they are deleted for.

    Returns:
        The threads whose live ids are to be forgotten: their history has changed.
    """
    project_id, bucket = thread.project_id, thread.bucket
    await provider_deletions.queue(session, project_id, bucket, turn_ids)
    mine = (Item.project_id == project_id, Item.bucket == bucket, Item.turn_id.in_(turn_ids))
    item_ids = list(await session.scalars(select(Item.item_id).where(*mine)))
    async with media.released(session, project_id, bucket, turn_ids):
        for table in (Item, Call):
            await session.execute(
                delete(table)
                .where(table.project_id == project_id, table.bucket == bucket, table.turn_id.in_(turn_ids))
                .execution_options(synchronize_session=False)
            )
    # The provider's message may quote what was sent.
    said = {"code": "deleted", "message": "The content of this turn was deleted."}
    emptied: dict[str, Any] = {
        "deleted_at": func.now(), "params": {}, "metadata_": {}, "response": None, "pace": None, "context": None,
        "salt": None, "body_hash": None, "idempotency_key": None, "key_scope": None, "client_left_at": None,
        "error": case((Turn.status == "failed", type_coerce(said, DOCUMENT))),
    }  # fmt: skip
    await _erase_titles(session, actor, project_id, bucket, turn_ids)
    records = await turn_digests.record_emptied(session, action, project_id, bucket, turn_ids, emptied, detail=purge)
    await append_records(session, actor, project_id, thread.id, records)
    thread_ids = await _give_up_chains(session, thread)
    compactions = await _delete_compactions(session, actor, thread, thread_ids, turn_ids)
    await _erase_pieces(session, actor, thread, thread_ids, [*item_ids, *compactions])
    return set(thread_ids)


async def _erase_titles(
    session: AsyncSession, actor: Actor, project_id: UUID, bucket: int, turn_ids: Sequence[UUID]
) -> None:
    """Delete the titles of the links to turns. The new salt is not sealed: its digest covers no content."""
    salt, fields = contents.new_salt(), contents.FIELDS["share", contents.VERSION]
    emptied = (
        update(Share)
        .where(Share.project_id == project_id, Share.bucket == bucket, Share.turn_id.in_(turn_ids))
        .values(title=None, salt=Written(salt))
        .returning(Share.id, *(getattr(Share, name) for name in fields if name != "title"))
        .execution_options(synchronize_session=False)
    )
    records: dict[UUID, list[Record]] = {}
    for row in (await session.execute(emptied)).mappings():
        content = contents.digest("share", salt, {**row, "title": None})
        changed = Record("share.changed", row["turn_id"], f"share_{row['id'].hex}", content)
        records.setdefault(row["thread_id"], []).append(changed)
    for thread_id, of_thread in records.items():
        await append_records(session, actor, project_id, thread_id, of_thread)


async def _delete_compactions(
    session: AsyncSession, actor: Actor, thread: Thread, thread_ids: Sequence[UUID], turn_ids: Sequence[UUID]
) -> list[str]:
    """Delete the compactions that cover turns of a thread, for all threads that use them. Returns their ids."""
    if not turn_ids:
        return []
    where = {"project_id": thread.project_id, "bucket": thread.bucket, "thread_id": thread.id}
    covered = {"thread_ids": list(thread_ids), "turn_ids": list(turn_ids)}
    gone = (await session.execute(SQL.delete_compactions.clause, {**where, **covered})).all()
    for of_thread in dict.fromkeys(row.thread_id for row in gone):
        records = [
            Record("compaction.deleted", row.turn_id, ids.compaction_id(row.id))
            for row in gone
            if row.thread_id == of_thread
        ]
        await append_records(session, actor, thread.project_id, of_thread, records)
    return [ids.compaction_id(row.id) for row in gone]


async def _erase_pieces(
    session: AsyncSession,
    actor: Actor,
    thread: Thread,
    thread_ids: Sequence[UUID],
    item_ids: Sequence[str],
) -> None:
    """Take what items held out of every call of these threads that has sent it, and the digest that it could be guessed
    from.

    A fork that continues from the thread has a record of it. Its row is locked by that: a turn of it that still runs is
    closed later, without what is gone.
    """
    if not thread_ids or not item_ids:
        return
    for fork_id in sorted(set(thread_ids) - {thread.id}):
        record = Record("history.erased", None, ids.thread_id(thread.id))
        await append_records(session, actor, thread.project_id, fork_id, [record])
    await session.execute(
        update(SentPiece)
        .where(
            SentPiece.project_id == thread.project_id,
            SentPiece.bucket == thread.bucket,
            SentPiece.thread_id.in_(thread_ids),
            SentPiece.sources.overlap(item_ids),
        )
        .values(data=None, media_id=None, sources=[], digest=b"")
        .execution_options(synchronize_session=False)
    )


async def append_items(
    session: AsyncSession, actor: Actor, thread: Thread, items: Sequence[dict[str, Any]]
) -> list[str]:
    """A turn with these items as the thread's new head. Returns the items' ids."""
    turn_id, salt = ids.new_id(thread.bucket), contents.new_salt()
    kept = stored_input(with_facts(items))
    types, item_ids, _ = columns(kept)
    turn: dict[str, Any] = {
        "project_id": thread.project_id,
        "bucket": thread.bucket,
        "id": turn_id,
        "thread_id": thread.id,
        "seq": thread.last_seq + 1,
        "parent_id": thread.head_turn_id,
        "status": "completed",
        "model": "",
        "params": {},
        "completed_at": func.now(),
        "salt": salt,
    }
    sealer, moments = at_rest.sealer(), (Turn.created_at, Turn.arrived_at, Turn.completed_at)
    inserted = insert(Turn).values(rows_of(Turn).written(sealer, turn)).returning(*moments)
    made = (await session.execute(inserted)).mappings().one()
    item_rows: list[dict[str, Any]] = [
        {
            "project_id": thread.project_id,
            "bucket": thread.bucket,
            "turn_id": turn_id,
            "position": position,
            "origin": "input",
            "type": types[position],
            "item_id": item_ids[position],
            "data": item,
        }
        for position, item in enumerate(items)
    ]
    await media.insert_items(session, Item, sealer, thread.id, item_rows)
    thread.head_turn_id = turn_id
    thread.last_seq += 1
    thread.turn_count += 1
    thread.updated_at = func.now()
    await session.flush()
    await threads.touch(session, thread)
    content = contents.turn(salt, {**turn, **made}, item_rows)
    await record_turn(session, actor, thread, "items.added", turn_id, content=content)
    return item_ids


async def record_turn(
    session: AsyncSession,
    actor: Actor,
    thread: Thread,
    action: Action,
    turn_id: UUID,
    detail: str | None = None,
    *,
    content: bytes | None = None,
) -> None:
    """Append a change of a turn to the audit trail."""
    await append_record(
        session,
        actor,
        thread.project_id,
        action,
        thread_id=thread.id,
        turn_id=turn_id,
        detail=detail,
        content=content,
    )


async def _idle_thread(session: AsyncSession, project_id: UUID, address: ThreadAddress | OfTurn) -> Thread:
    """The thread, its row locked and no turn of it in progress.

    Raises:
        APIError: it is unknown, or busy.
    """
    place: ThreadAddress | None = None
    if isinstance(address, OfTurn):
        of_turn = select(Turn.thread_id).where(*at(Turn.id, project_id, address.turn), Turn.deleted_at.is_(None))
        if (thread_id := await session.scalar(of_turn)) is not None:
            place = ById(thread_id, address.user)
    else:
        place = address
    thread = None if place is None else await threads.locked(session, project_id, place)
    if thread is None:
        raise unknown(address)
    active = select(Turn.id).where(
        Turn.project_id == project_id,
        Turn.bucket == thread.bucket,
        Turn.thread_id == thread.id,
        Turn.status == "in_progress",
    )
    running = await session.scalar(active)
    if running is not None:
        raise Conflict(
            f"The thread is busy: its turn {ids.turn_id(running)} is in progress. Wait for its end, or cancel it.",
            code="thread_busy",
        )
    return thread


async def _give_up_chains(session: AsyncSession, thread: Thread) -> list[UUID]:
    """Make the next turns after a changed history rebuild it: the thread's, and those of its forks. Returns their
    ids."""
    where = {"project_id": thread.project_id, "bucket": thread.bucket, "thread_id": thread.id}
    return list(
        await session.scalars(SQL.give_up_chains.clause, {**where, "reason": ContinuationReason.HISTORY_CHANGED})
    )


def at(column: Any, project_id: UUID, turn_id: UUID) -> tuple[ColumnElement[bool], ...]:
    """Return the condition for a turn's rows in the table of the column that holds its id."""
    table = column.class_
    return table.project_id == project_id, table.bucket == ids.bucket_of(turn_id), column == turn_id
