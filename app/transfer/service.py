"""Threads out of and into a project, whole: every turn of every branch, under the ids that they have."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import func, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.history.tables import Share
from app.http.errors import BadRequest
from app.items.stored import imported_type
from app.items.unreadable import is_unreadable
from app.media import store as media
from app.memory.tables import Compaction
from app.projects.auth import Caller
from app.sealing import at_rest
from app.sealing.columns import rows_of
from app.threads import store as threads
from app.threads.address import ById, ByName, ThreadAddress, unknown
from app.threads.names import Names
from app.threads.schemas import ThreadObject, thread_object
from app.threads.tables import Thread
from app.trail import contents
from app.trail.append import Record, append_records
from app.trail.users import UserKeys
from app.transfer.schemas import FORMAT, ThreadRecord, TurnRecord
from app.turns.store import TurnStore
from app.turns.tables import Item, Turn

SQL = statements_of(__file__)

TURNS_AT_ONCE = 100

BYTES_AT_ONCE = 1_000_000
"""Parts of an export are sent together up to this size."""


class Transfer:
    def __init__(self, database: Database, names: Names, users: UserKeys, turns: TurnStore) -> None:
        self._turns = turns
        self._database = database
        self._names = names
        self._users = users

    async def export(self, caller: Caller, address: ThreadAddress) -> AsyncIterator[bytes]:
        """Return a thread with all of its turns that have ended, as a JSON document in parts.

        Raises:
            NotFound: there is no such thread.
        """
        async with self._database.session() as session:
            thread = await threads.get(session, caller.project_id, address)
            if thread is None:
                raise unknown(address)
            here = (Turn.project_id == caller.project_id, Turn.bucket == thread.bucket)
            shared = await _shared(session, caller.project_id, thread.forked_turn_id)
            ended = (*here, or_(Turn.thread_id == thread.id, Turn.id.in_(shared)), Turn.status != "in_progress")
            turn_ids = (await session.scalars(select(Turn.id).where(*ended).order_by(Turn.seq))).all()
            compactions = select(Compaction).where(
                Compaction.project_id == caller.project_id,
                Compaction.bucket == thread.bucket,
                Compaction.turn_id.in_(select(Turn.id).where(*ended)),
                Compaction.status == "ready",
            )
            compacted = (await session.scalars(compactions.order_by(Compaction.id))).all()
            links = select(Share).where(
                Share.project_id == caller.project_id, Share.bucket == thread.bucket, Share.thread_id == thread.id
            )
            shares = (await session.scalars(links.order_by(Share.id))).all()
            await threads.record_change(session, caller.actor, thread, "thread.exported")
        head = {
            "format": FORMAT,
            "id": ids.thread_id(thread.id),
            "name": thread.name,
            "title": thread.title,
            "user": thread.user_id,
            "metadata": thread.metadata_,
            "archived": thread.archived_at is not None,
            "created_at": thread.created_at.timestamp(),
            "updated_at": thread.updated_at.timestamp(),
            "head_id": ids.optional_turn_id(thread.head_turn_id),
            "forked_turn_id": ids.optional_turn_id(thread.forked_turn_id),
        }
        tail = {
            "compactions": [_exported_compaction(each) for each in compacted],
            "shares": [_exported_share(each) for each in shares],
        }
        parts = [
            *(f"compactions[{n}].{name}" for n, each in enumerate(compacted) for name in each.unreadable),
            *(f"shares[{n}].{name}" for n, each in enumerate(shares) for name in each.unreadable),
        ]
        return self._parts(caller.project_id, turn_ids, head, tail, list(thread.unreadable), parts)

    async def _parts(
        self,
        project_id: UUID,
        turn_ids: Sequence[UUID],
        head: dict[str, Any],
        tail: dict[str, Any],
        unreadable: list[str],
        unreadable_in_tail: list[str],
    ) -> AsyncIterator[bytes]:
        """Yield an exported thread. A short one is a single part."""
        ready, start, number = orjson.dumps(head)[:-1] + b',"turns":[', 0, 0
        while start < len(turn_ids):
            some = await self._turns.on_a_page(project_id, turn_ids[start : start + TURNS_AT_ONCE], documents=True)
            start += len(some)
            async for turn, parts in self._exported_turns(project_id, some):
                ready += (b"," if number else b"") + turn
                unreadable += [f"turns[{number}].{part}" for part in parts]
                number += 1
                if len(ready) > BYTES_AT_ONCE:
                    yield ready
                    ready = b""
        unreadable += unreadable_in_tail
        end = {**tail, **({"unreadable": unreadable} if unreadable else {})}
        yield ready + b"]," + orjson.dumps(end)[1:]

    async def _exported_turns(
        self, project_id: UUID, turn_ids: Sequence[UUID]
    ) -> AsyncIterator[tuple[bytes, list[str]]]:
        """Yield turns as JSON, each with the names of its parts that cannot be opened."""
        mine = (Turn.project_id == project_id, Turn.bucket == ids.bucket_of(turn_ids[0]), Turn.id.in_(turn_ids))
        async with self._database.session() as session:
            turns = (await session.scalars(select(Turn).where(*mine).order_by(Turn.seq))).all()
        items = await self._turns.items(project_id, turn_ids)
        for turn in turns:
            rows = items.pop(turn.id)
            said = [{"origin": row["origin"], "item_id": row["item_id"], "data": row["data"]} for row in rows]
            of_items = [f"items[{n}].data" for n, row in enumerate(rows) if is_unreadable(row["data"])]
            yield orjson.dumps(_exported(turn, said)), [*turn.unreadable, *of_items]

    async def take(self, caller: Caller, given: ThreadRecord) -> tuple[ThreadObject, bool]:
        """Write an exported thread. One that is there already, by its id or its name, stays as it is.

        Returns:
            The thread, and whether it was written now.
        """
        _check_references(given)
        places: list[ThreadAddress] = [ById(given.id)]
        if given.name is not None and (named := await self._names.find(caller.project_id, given.name)) is not None:
            places.append(ByName(named, given.name))
        user = given.user
        key = None if user is None else await self._users.get_or_make(caller.project_id, user)
        try:
            async with self._database.session() as session:
                for place in places:
                    if (found := await threads.get(session, caller.project_id, place)) is not None:
                        return thread_object(found), False
                return thread_object(await _write(session, self._names, caller, given, key)), True
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
    if forked_turn_id is None:
        return []
    at = {"project_id": project_id, "bucket": ids.bucket_of(forked_turn_id), "turn_id": forked_turn_id}
    return list(await session.scalars(SQL.branch.clause, at))


async def _write(
    session: AsyncSession, names: Names, caller: Caller, given: ThreadRecord, trail_key: bytes | None
) -> Thread:
    project_id, id_ = caller.project_id, given.id
    # A fork comes back as a fork where the thread that it was forked from is, and whole where it is not.
    shared = await _shared(session, project_id, given.forked_turn_id)
    turns = [turn for turn in given.turns if turn.id not in shared]
    highest = 0
    if shared:
        last = select(func.max(Turn.seq)).where(
            Turn.project_id == project_id, Turn.bucket == ids.bucket_of(id_), Turn.id.in_(shared)
        )
        highest = await session.scalar(last) or 0
    values: dict[str, Any] = {
        "id": id_,
        "name": given.name,
        "title": given.title,
        "user_id": given.user,
        "metadata_": given.metadata,
        "forked_turn_id": given.forked_turn_id if shared else None,
        "turn_count": len(turns),
        "last_seq": highest + len(turns),
        "archived_at": _moment(given.updated_at) if given.archived else None,
        "created_at": _moment(given.created_at),
        "updated_at": _moment(given.updated_at),
    }
    if trail_key is not None:
        values["trail_key"] = trail_key
    thread = await threads.add(session, names, caller.actor, project_id, values, head=given.head_id)
    if turns:
        rows = [_turn_row(project_id, id_, turn, highest + place) for place, turn in enumerate(turns, 1)]
        sealer = at_rest.sealer()
        sealed = [rows_of(Turn).written(sealer, row) for row in rows]
        written = await session.execute(insert(Turn).returning(Turn.id, Turn.arrived_at), sealed)
        arrived = {row.id: row.arrived_at for row in written}
        items_of = [_item_rows(project_id, turn) for turn in turns]
        records = [
            Record(
                "turn.imported",
                row["id"],
                row["status"],
                contents.turn(row["salt"], {**row, "arrived_at": arrived[row["id"]]}, mine),
            )
            for row, mine in zip(rows, items_of, strict=True)
        ]
        await append_records(session, caller.actor, project_id, id_, records)
        items = [row for mine in items_of for row in mine]
        if items:
            await media.insert_items(session, Item, sealer, id_, items)
        await _write_compactions(session, caller, id_, given, {row["id"] for row in rows})
    await session.refresh(thread)  # The end of its audit chain has moved.
    thread.head_turn_id = given.head_id
    await session.flush()
    return thread


async def _write_compactions(
    session: AsyncSession, caller: Caller, thread_id: UUID, given: ThreadRecord, written: set[UUID]
) -> None:
    """Write the compactions of the turns that are written now; a fork has the others from the thread that it shares."""
    rows: list[dict[str, Any]] = []
    records: list[Record] = []
    for each in given.compactions:
        turn_id, salt, id_ = each.turn_id, contents.new_salt(), ids.new_uuid()
        if turn_id not in written:
            continue
        row = {
            **each.model_dump(
                include={"model", "text", "kept_items", "covered_turns", "covered_tokens", "tokens", "usage"}
            ),
            "project_id": caller.project_id,
            "bucket": ids.bucket_of(turn_id),
            "id": id_,
            "turn_id": turn_id,
            "status": "ready",
            "calls": [],
            "salt": salt,
            "created_at": _moment(each.created_at),
            "completed_at": _moment(each.created_at),
        }
        rows.append(row)
        records.append(Record("compaction.made", turn_id, ids.compaction_id(id_), contents.compacted(salt, row)))
    if rows:
        sealer = at_rest.sealer()
        await session.execute(insert(Compaction), [rows_of(Compaction).written(sealer, row) for row in rows])
        await append_records(session, caller.actor, caller.project_id, thread_id, records)


def _exported_compaction(made: Compaction) -> dict[str, Any]:
    return {
        "turn_id": ids.turn_id(made.turn_id),
        "model": made.model,
        "text": made.text,
        "kept_items": made.kept_items,
        "covered_turns": made.covered_turns,
        "covered_tokens": made.covered_tokens,
        "tokens": made.tokens,
        "usage": made.usage,
        "created_at": made.created_at.timestamp(),
    }


def _exported(turn: Turn, items: list[dict[str, Any]]) -> dict[str, Any]:
    assert turn.completed_at is not None
    return {
        "id": ids.turn_id(turn.id),
        "parent_id": ids.optional_turn_id(turn.parent_id),
        "status": turn.status,
        "continuation": turn.continuation,
        "continuation_reason": turn.continuation_reason,
        "model": turn.model,
        "params": turn.params,
        "metadata": turn.metadata_,
        "ignored": turn.ignored,
        "created_at": turn.created_at.timestamp(),
        "completed_at": turn.completed_at.timestamp(),
        "response": turn.response,
        "usage": turn.usage,
        "cost": turn.cost,
        "error": turn.error,
        "incomplete_details": turn.incomplete_details,
        "response_id": turn.response_id,
        "items": items,
    }


def _exported_share(share: Share) -> dict[str, Any]:
    return {
        "turn_id": ids.turn_id(share.turn_id),
        "title": share.title,
        "expires_at": None if share.expires_at is None else share.expires_at.timestamp(),
        "created_at": share.created_at.timestamp(),
    }


def _turn_row(project_id: UUID, thread_id: UUID, turn: TurnRecord, seq: int) -> dict[str, Any]:
    """A turn's row. Its response id is kept to be seen; with no expiry it is not live, and is never chained on."""
    return {
        "project_id": project_id,
        "bucket": ids.bucket_of(thread_id),
        "id": turn.id,
        "thread_id": thread_id,
        "seq": seq,
        "parent_id": turn.parent_id,
        "created_at": _moment(turn.created_at),
        "completed_at": _moment(turn.completed_at),
        "metadata_": turn.metadata,
        "salt": contents.new_salt(),
        **turn.model_dump(
            include={
                "status", "continuation", "continuation_reason", "model", "params", "ignored", "response", "usage",
                "cost", "error", "incomplete_details", "response_id",
            }
        ),
    }  # fmt: skip


def _item_rows(project_id: UUID, turn: TurnRecord) -> list[dict[str, Any]]:
    return [
        {
            "project_id": project_id,
            "bucket": ids.bucket_of(turn.id),
            "turn_id": turn.id,
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
    bucket = ids.bucket_of(record.id)
    for index, turn in enumerate(record.turns):
        if ids.bucket_of(turn.id) != bucket:
            raise BadRequest(
                f"'turns[{index}].id' does not belong to this thread: the ids of a thread and of its turns end alike, "
                "in the ten bits of their bucket. Import threads as they were exported.",
                param=f"turns[{index}].id",
            )
        if turn.parent_id is not None and turn.parent_id not in seen:
            raise BadRequest(
                f"'turns[{index}].parent_id' must be the id of a turn that stands before it.",
                param=f"turns[{index}].parent_id",
            )
        if turn.id in seen:
            raise BadRequest(f"'turns[{index}].id' stands there twice.", param=f"turns[{index}].id")
        seen.add(turn.id)
    covered: set[UUID] = set()
    for index, compaction in enumerate(record.compactions):
        if compaction.turn_id not in seen or compaction.turn_id in covered:
            raise BadRequest(
                f"'compactions[{index}].turn_id' must be the id of one of the turns, and stand there once.",
                param=f"compactions[{index}].turn_id",
            )
        covered.add(compaction.turn_id)
    for param, value in (("head_id", record.head_id), ("forked_turn_id", record.forked_turn_id)):
        if value is not None and value not in seen:
            raise BadRequest(f"'{param}' must be the id of one of the turns.", param=param)


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
