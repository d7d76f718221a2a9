"""Threads out of and into a project, whole: every turn of every branch, under the ids that they have."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.engine import Database
from app.errors import BadRequest
from app.items.kept import imported_type
from app.projects.auth import Caller
from app.projects.tables import Project
from app.search.lexemes import document
from app.search.tables import SearchText
from app.search.texts import text_rows
from app.threads import store as threads
from app.threads.address import Address
from app.threads.schemas import optional_turn_id, thread_object
from app.threads.tables import Thread
from app.trail import contents
from app.trail.append import append_all, record
from app.transfer.schemas import FORMAT, ThreadRecord, TurnRecord, thread_uuid, turn_uuid
from app.turns.tables import Item, Turn


class Transfer:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def export(self, caller: Caller, address: Address) -> dict[str, Any]:
        """A thread with all of its turns that have ended."""
        async with self._database.session() as session:
            thread = await threads.get(session, caller.project_id, address)
            if thread is None:
                raise address.unknown()
            shared = await _shared(session, caller.project_id, thread.forked_turn_id)
            mine = or_(Turn.thread_id == thread.id, Turn.id.in_(shared))
            ended = (Turn.project_id == caller.project_id, mine, Turn.status != "in_progress")
            turns = (await session.scalars(select(Turn).where(*ended).order_by(Turn.id))).all()
            of_turns = Item.turn_id.in_(select(Turn.id).where(*ended))
            items: dict[UUID, list[dict[str, Any]]] = {turn.id: [] for turn in turns}
            for item in await session.scalars(
                select(Item).where(Item.project_id == caller.project_id, of_turns).order_by(Item.turn_id, Item.position)
            ):
                items[item.turn_id].append({"origin": item.origin, "item_id": item.item_id, "data": item.data})
            await threads.tell(session, caller.actor, thread, "thread.exported")
        return {
            "format": FORMAT,
            "id": ids.thread_id(thread.id),
            "name": thread.name,
            "title": thread.title,
            "user": thread.user_id,
            "metadata": thread.metadata_,
            "archived": thread.archived_at is not None,
            "created_at": thread.created_at.timestamp(),
            "updated_at": thread.updated_at.timestamp(),
            "head_id": optional_turn_id(thread.head_turn_id),
            "forked_turn_id": optional_turn_id(thread.forked_turn_id),
            "turns": [_exported(turn, items[turn.id]) for turn in turns],
        }

    async def take(self, caller: Caller, given: ThreadRecord) -> tuple[dict[str, Any], bool]:
        """Write an exported thread. One that is there already, by its id or its name, stays as it is.

        Returns:
            The thread, and whether it was written now.
        """
        _check_references(given)
        id_ = thread_uuid(given.id)
        places = [Address(id=id_)] + ([Address(name=given.name)] if given.name is not None else [])
        try:
            async with self._database.session() as session:
                for place in places:
                    if (found := await threads.get(session, caller.project_id, place)) is not None:
                        return thread_object(found), False
                return thread_object(await _write(session, caller, id_, given)), True
        except IntegrityError as error:
            if "turns_pkey" not in str(error.orig):
                raise
            raise BadRequest(
                "A turn of this thread has the id of a turn of another thread in this project.",
                param="turns",
                code="id_taken",
            ) from error


async def _shared(session: AsyncSession, project_id: UUID, forked_turn_id: UUID | None) -> list[UUID]:
    """The turns that a fork shares, as far as they are in this project."""
    last = select(Turn.id, Turn.parent_id).where(Turn.project_id == project_id, Turn.id == forked_turn_id)
    branch = last.cte(recursive=True)
    before = select(Turn.id, Turn.parent_id).where(Turn.project_id == project_id, Turn.id == branch.c.parent_id)
    return list(await session.scalars(select(branch.union_all(before).c.id)))


async def _write(session: AsyncSession, caller: Caller, id_: UUID, given: ThreadRecord) -> Thread:
    project_id = caller.project_id
    forked_turn_id = None if given.forked_turn_id is None else turn_uuid(given.forked_turn_id)
    # A fork comes back as a fork where the thread that it was forked from is, and whole where it is not.
    shared = await _shared(session, project_id, forked_turn_id)
    turns = [turn for turn in given.turns if turn_uuid(turn.id) not in shared]
    thread = Thread(
        project_id=project_id,
        id=id_,
        name=given.name,
        title=given.title,
        title_document=document(given.title or ""),
        user_id=given.user,
        metadata_=given.metadata,
        forked_turn_id=forked_turn_id if shared else None,
        turn_count=len(turns),
        archived_at=_moment(given.updated_at) if given.archived else None,
        created_at=_moment(given.created_at),
        updated_at=_moment(given.updated_at),
        salt=contents.new_salt(),
    )
    session.add(thread)
    await session.flush()
    await threads.tell(session, caller.actor, thread, "thread.imported")
    if turns:
        rows = [_turn_row(project_id, id_, turn) for turn in turns]
        await session.execute(insert(Turn), rows)
        await append_all(
            session, [_told(caller, thread, turn, row["salt"]) for turn, row in zip(turns, rows, strict=True)]
        )
        items = [row for turn in turns for row in _item_rows(project_id, turn)]
        if items:
            await session.execute(insert(Item), items)
        texts = [
            row for turn in turns for row in text_rows(project_id, turn_uuid(turn.id), [i.data for i in turn.items])
        ]
        if texts:
            await session.execute(insert(SearchText), texts)
    # Its turns may be older than what has been looked at.
    await session.execute(
        update(Project)
        .where(Project.project_id == project_id, Project.purged_until.is_not(None))
        .values(purged_until=None)
    )
    thread.head_turn_id = None if given.head_id is None else turn_uuid(given.head_id)
    await session.flush()
    return thread


def _exported(turn: Turn, items: list[dict[str, Any]]) -> dict[str, Any]:
    assert turn.completed_at is not None
    return {
        "id": ids.turn_id(turn.id),
        "parent_id": optional_turn_id(turn.parent_id),
        "status": turn.status,
        "continuation": turn.continuation,
        "model": turn.model,
        "params": turn.params,
        "metadata": turn.metadata_,
        "ignored": turn.ignored,
        "created_at": turn.created_at.timestamp(),
        "completed_at": turn.completed_at.timestamp(),
        "response": turn.response,
        "usage": turn.usage,
        "error": turn.error,
        "incomplete_details": turn.incomplete_details,
        "response_id": turn.response_id,
        "items": items,
    }


def _turn_row(project_id: UUID, thread_id: UUID, turn: TurnRecord) -> dict[str, Any]:
    """A turn's row. Its response id is kept to be seen; with no expiry it is not live, and is never chained on."""
    return {
        "project_id": project_id,
        "id": turn_uuid(turn.id),
        "thread_id": thread_id,
        "parent_id": None if turn.parent_id is None else turn_uuid(turn.parent_id),
        "created_at": _moment(turn.created_at),
        "completed_at": _moment(turn.completed_at),
        "metadata_": turn.metadata,
        "salt": contents.new_salt(),
        **turn.model_dump(
            include={
                "status", "continuation", "model", "params", "ignored", "response", "usage", "error",
                "incomplete_details", "response_id",
            }
        ),
    }  # fmt: skip


def _told(caller: Caller, thread: Thread, turn: TurnRecord, salt: bytes) -> dict[str, object]:
    """The audit record of an imported turn."""
    content = contents.imported(
        salt,
        (turn.model, _text(turn.params) or "", turn.metadata),
        (turn.status, turn.continuation, *map(_text, (turn.response, turn.usage, turn.error, turn.incomplete_details))),
        turn.response_id,
        [item.item_id for item in turn.items],
        [_text(item.data) or "" for item in turn.items],
    )
    return record(
        caller.actor,
        caller.project_id,
        "turn.imported",
        thread.id,
        turn_uuid(turn.id),
        user_id=thread.user_id,
        detail=turn.status,
        content=content,
    )


def _item_rows(project_id: UUID, turn: TurnRecord) -> list[dict[str, Any]]:
    return [
        {
            "project_id": project_id,
            "turn_id": turn_uuid(turn.id),
            "position": position,
            "origin": item.origin,
            "type": imported_type(item.origin, item.data),
            "item_id": item.item_id,
            "data": item.data,
        }
        for position, item in enumerate(turn.items)
    ]


def _check_references(record: ThreadRecord) -> None:
    """A parent comes before its children, so that the tree has a root and no ring."""
    seen: set[UUID] = set()
    for index, turn in enumerate(record.turns):
        if turn.parent_id is not None and turn_uuid(turn.parent_id) not in seen:
            raise BadRequest(
                f"'turns[{index}].parent_id' must be the id of a turn that stands before it.",
                param=f"turns[{index}].parent_id",
            )
        if turn_uuid(turn.id) in seen:
            raise BadRequest(f"'turns[{index}].id' stands there twice.", param=f"turns[{index}].id")
        seen.add(turn_uuid(turn.id))
    for param, value in (("head_id", record.head_id), ("forked_turn_id", record.forked_turn_id)):
        if value is not None and turn_uuid(value) not in seen:
            raise BadRequest(f"'{param}' must be the id of one of the turns.", param=param)


def _text(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
