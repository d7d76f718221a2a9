"""Threads in Postgres. Every statement names the project."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import orjson
from sqlalchemy import (
    ARRAY,
    Boolean,
    ColumnElement,
    DateTime,
    Integer,
    SmallInteger,
    TableValuedAlias,
    Text,
    Uuid,
    and_,
    cast,
    delete,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import undefer
from sqlalchemy.sql import func

from app.chain.context import Context
from app.db import ids
from app.db.read_horizon import ReadHorizon
from app.db.sql import statements_of
from app.http.errors import Conflict, NotFound
from app.http.pages import Page
from app.items.shapes import string, text_of
from app.items.unreadable import is_unreadable
from app.projects.tables import Project
from app.sealing import at_rest
from app.sealing.columns import ITEMS, rows_of
from app.threads.address import ByName, ThreadAddress, bucket_at
from app.threads.names import Names
from app.threads.schemas import Head, LastMessage, LastTurn, Status
from app.threads.tables import Thread, ThreadActivity
from app.trail import contents
from app.trail.append import append_record
from app.trail.records import Action, Actor
from app.trail.tables import AuditRecord

CHANGED_AS = {"metadata_": "metadata", "user_id": "user", "head_turn_id": "head_id", "archived_at": "archived"}
"""Names of columns on the wire."""


SQL = statements_of(__file__)

BORN = ("thread.created", "thread.imported")
"""The record of how a thread came to be here has the moment that the thread is listed by."""

GONE = ("thread.deleted", "thread.purged")


@dataclass(frozen=True, slots=True)
class Filters:
    user: str | None = None
    user_prefix: str | None = None
    name: str | None = None
    """The beginning of the name."""
    metadata: dict[str, str] = field(default_factory=dict)
    archived: bool | None = None
    status: Status | None = None
    last_turn: LastTurn | None = None
    """The status of the thread's last turn."""
    model: str | None = None
    """The model of that turn."""
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    updated_before: datetime | None = None
    active_after: datetime | None = None
    active_before: datetime | None = None
    """The time of the last turn, or of a change."""
    by: Literal["created", "activity"] = "created"
    """Order of the list: by creation in this database, or by the last turn."""

    def as_json(self) -> str:
        """Return the filters that are set, in the form of the SQL functions in migrations/schema.sql."""
        sealer = at_rest.sealer()
        given = {
            "user": self.user,
            "user_begins": _beginning(self.user_prefix),
            "name_begins": _beginning(self.name),
            "pairs": self.metadata or None,
            "sealed_pairs": sealer.pairs(self.metadata) if self.metadata and sealer.key is not None else None,
            "archived": self.archived,
            "busy": None if self.status is None else self.status == "busy",
            "last_turn": self.last_turn,
            "model": self.model,
            "created_after": self.created_after,
            "created_before": self.created_before,
            "updated_after": self.updated_after,
            "updated_before": self.updated_before,
            "active_after": self.active_after,
            "active_before": self.active_before,
        }
        return orjson.dumps({name: value for name, value in given.items() if value is not None}).decode()


def _beginning(text: str | None) -> str | None:
    """Return the LIKE pattern for texts that begin with a text."""
    return None if text is None else re.sub(r"([\\%_])", r"\\\1", text) + "%"


async def add(
    session: AsyncSession,
    names: Names,
    actor: Actor,
    project_id: UUID,
    values: dict[str, Any],
    *,
    head: UUID | None = None,
) -> Thread:
    """Insert a thread.

    Args:
        values: its columns. With `id` it comes back under an id that it has had; with `bucket` it lies there.
        head: the turn that the caller makes its head afterwards. The record names it.

    Raises:
        Conflict: the project has a thread of this name.
    """
    given = {**values}
    bucket = given.pop("bucket", None)
    id_ = given.pop("id", None) or ids.new_id(ids.new_bucket() if bucket is None else bucket)
    if (name := given.get("name")) is not None and not await names.take(session, project_id, name, id_):
        raise _name_taken(name)
    made = {"project_id": project_id, "bucket": ids.bucket_of(id_), "id": id_, "salt": contents.new_salt(), **given}
    if "trail_key" not in made:
        made["trail_key"] = await _key_of(session, project_id)
    written = rows_of(Thread).written(at_rest.sealer(), made)
    thread = (await session.execute(insert(Thread).values(written).returning(Thread))).scalar_one()
    activity = {"project_id": project_id, "bucket": thread.bucket, "thread_id": id_, "active_at": thread.arrived_at}
    await session.execute(insert(ThreadActivity).values(activity))
    action: Action = "thread.imported" if "id" in values else "thread.created"
    await record_change(session, actor, thread, action, head=head)
    return thread


async def get(
    session: AsyncSession, project_id: UUID, address: ThreadAddress, *, with_preset: bool = False
) -> Thread | None:
    wanted = select(Thread).where(*_at(project_id, address))
    wanted = wanted.options(undefer(Thread.preset)) if with_preset else wanted
    return (await session.execute(wanted)).scalar_one_or_none()


async def of_ids(session: AsyncSession, project_id: UUID, thread_ids: Sequence[UUID]) -> Sequence[Thread]:
    """Return the threads of these ids, as far as they exist."""
    buckets = {ids.bucket_of(each) for each in thread_ids}
    these = (Thread.project_id == project_id, Thread.bucket.in_(buckets), Thread.id.in_(thread_ids))
    return (await session.scalars(select(Thread).where(*these))).all()


LAST_TURNS_LOOKED_AT = 10_000
"""Threads whose last turns one request checks: no index serves filters on them."""

LAST_MESSAGE_LENGTH = 280
"""Characters that are shown of it."""


async def heads(session: AsyncSession, threads: Sequence[Thread]) -> dict[UUID, Head]:
    """Return what is shown of threads' heads, by thread."""
    if not threads:
        return {}
    project = {"project_id": threads[0].project_id, "buckets": [thread.bucket for thread in threads]}
    these = {"ids": [thread.id for thread in threads], "seqs": [thread.last_seq for thread in threads]}
    states = {row.id: row for row in await session.execute(SQL.states.clause, {**project, **these})}
    of_heads = {**project, "ids": [thread.head_turn_id for thread in threads]}
    contexts = {row.id: Context.from_json(row.context) for row in await session.execute(SQL.contexts.clause, of_heads)}
    found = (
        ITEMS.opened(threads[0].project_id, row)
        for row in (await session.execute(SQL.last_messages.clause, of_heads)).mappings()
    )
    # The last of each. A summary that a client has sent is no message.
    said = {row["turn_id"]: row["data"] for row in found if row["data"].get("pinned") is not True}
    return {
        thread.id: Head(
            None if thread.head_turn_id is None else contexts.get(thread.head_turn_id),
            None if thread.head_turn_id is None else _last_message(thread.head_turn_id, said.get(thread.head_turn_id)),
            states[thread.id].busy,
            states[thread.id].last_turn,
        )
        for thread in threads
    }


def _last_message(turn_id: UUID, item: dict[str, Any] | None) -> LastMessage | None:
    if item is None:
        return None
    if is_unreadable(item):
        return {"turn_id": ids.turn_id(turn_id), "role": "", "text": "", "unreadable": True}
    shown = text_of(item)[:LAST_MESSAGE_LENGTH]
    return {"turn_id": ids.turn_id(turn_id), "role": string(item.get("role")), "text": shown}


async def change(
    session: AsyncSession, names: Names, actor: Actor, project_id: UUID, address: ThreadAddress, values: dict[str, Any]
) -> Thread | None:
    """Change a thread in one statement, so that two changes of different fields both hold.

    Raises:
        APIError: the new name belongs to another thread, or the new head is no turn of this one.
    """
    head = values.get("head_turn_id")
    before: Thread | None = None
    if "name" in values or head is not None:
        before = await locked(session, project_id, address)
        if before is None:
            return None
    if before is not None and "name" in values:
        name = values["name"]
        if name is not None and not await names.take(session, project_id, name, before.id):
            raise _name_taken(name)
        if before.name is not None and before.name != name:
            await names.give_up(session, project_id, before.name, before.id)
    if head is not None:
        of_thread = {"project_id": project_id, "bucket": bucket_at(address), "thread_id": address.id, "turn_id": head}
        if not await session.scalar(SQL.in_history.clause, of_thread):
            raise _no_turn_of_it()
    if "user_id" in values and "trail_key" not in values:
        values["trail_key"] = await _key_of(session, project_id)
    rows = rows_of(Thread)
    # With the former salt, what the thread was called before cannot be guessed from its record any more.
    written = rows.written(at_rest.sealer(), {**values, "salt": contents.new_salt()}, rows.at(project_id, address.id))
    statement = (
        update(Thread)
        .where(*_at(project_id, address))
        .values(**written, updated_at=func.now())
        .returning(Thread)
        .execution_options(synchronize_session=False, populate_existing=True)
    )
    try:
        thread = (await session.execute(statement)).scalar_one_or_none()
    except IntegrityError as error:
        raise _meaning(error) from error
    if thread is not None:
        fields = sorted(CHANGED_AS.get(name, name) for name in values if name not in ("trail_key", "expires_at"))
        await touch(session, thread)
        await record_change(session, actor, thread, "thread.changed", ", ".join(fields), head=head)
    return thread


async def locked(session: AsyncSession, project_id: UUID, address: ThreadAddress) -> Thread | None:
    """The thread, its row locked until the transaction ends."""
    return (
        await session.execute(select(Thread).where(*_at(project_id, address)).with_for_update())
    ).scalar_one_or_none()


async def touch(session: AsyncSession, thread: Thread) -> None:
    """Write down that a thread is in use: it is kept from now on, and listed first by its activity."""
    same = (ThreadActivity.project_id == thread.project_id, ThreadActivity.bucket == thread.bucket)
    moved = update(ThreadActivity).where(*same, ThreadActivity.thread_id == thread.id)
    await session.execute(moved.values(active_at=func.now()).execution_options(synchronize_session=False))


async def remove(
    session: AsyncSession, names: Names, actor: Actor, thread: Thread, action: Action, detail: str
) -> None:
    """Delete a thread with its turns, items, calls and texts. Its row is locked."""
    await append_record(session, actor, thread.project_id, action, thread_id=thread.id, detail=detail)
    if thread.name is not None:
        await names.give_up(session, thread.project_id, thread.name, thread.id)
    gone = delete(Thread).where(
        Thread.project_id == thread.project_id, Thread.bucket == thread.bucket, Thread.id == thread.id
    )
    await session.execute(gone.execution_options(synchronize_session=False))


async def record_change(
    session: AsyncSession,
    actor: Actor,
    thread: Thread,
    action: Action,
    detail: str | None = None,
    *,
    head: UUID | None = None,
) -> None:
    """Append what a thread is now to the audit trail.

    Args:
        head: the thread's new head, where the change gives it one.
    """
    content = None
    if thread.salt is not None and not thread.unreadable:
        values = {
            "name": thread.name,
            "title": thread.title,
            "user_id": thread.user_id,
            "metadata": thread.metadata_,
            "ttl_seconds": thread.ttl_seconds,
            "archived_at": thread.archived_at,
            "created_at": thread.created_at,
            "forked_turn_id": thread.forked_turn_id,
        }
        content = contents.thread(thread.salt, values, thread.arrived_at)
    await append_record(
        session, actor, thread.project_id, action, thread_id=thread.id, turn_id=head, detail=detail, content=content
    )


async def list_page(
    session: AsyncSession, project_id: UUID, filters: Filters, page: Page, horizon: ReadHorizon
) -> tuple[Sequence[Thread], bool, UUID | None]:
    """Return a page: its threads, True if more may follow, and the last thread that was checked if that ended the page.

    Raises:
        BadRequest: the cursor is the id of no thread that was ever in the project.
    """
    cursor, descending = page.scan()
    place: tuple[datetime, UUID] | None = None
    if cursor is not None:
        place = await _place(session, project_id, cursor, by_activity=filters.by == "activity")
        if place is None:
            raise page.bad_cursor()
    until = None if descending else await horizon.until(session)
    listed = _listed(project_id, filters, page.limit + 1, downwards=descending, place=place, until=until)
    # By a statement of its own: a cluster joins what a function finds with nothing.
    in_order = select(listed.c.bucket, listed.c.id, listed.c.matches).order_by(listed.c.place)
    rows = (await session.execute(in_order)).all()
    places = {row.id: row.bucket for row in rows if row.matches}
    looked_at = next((row.id for row in rows if not row.matches), None)
    wanted = func.unnest(cast(list(places.values()), ARRAY(SmallInteger)), cast(list(places), ARRAY(Uuid)))
    these = wanted.table_valued("bucket", "id").render_derived()
    by_key = and_(Thread.project_id == project_id, Thread.bucket == these.c.bucket, Thread.id == these.c.id)
    found = {thread.id: thread for thread in await session.scalars(select(Thread).join(these, by_key))}
    if len(found) < len(places):  # One was deleted between the two.
        return await list_page(session, project_id, filters, page, horizon)
    threads, more = page.cut([found[id_] for id_ in places])
    return threads, more or looked_at is not None, None if more else looked_at


async def count(session: AsyncSession, project_id: UUID, filters: Filters, most: int) -> tuple[int, bool]:
    """Return the number of threads up to `most`, and True if there may be more."""
    matches = _listed(project_id, filters, most + 1).c.matches
    found, others = (await session.execute(select(func.count().filter(matches), func.count().filter(~matches)))).one()
    return min(found, most), found > most or others > 0


def _listed(
    project_id: UUID,
    filters: Filters,
    most: int,
    *,
    downwards: bool | None = None,
    place: tuple[datetime, UUID] | None = None,
    until: datetime | None = None,
) -> TableValuedAlias:
    """Return the threads of a list, in its order: see migrations/schema.sql."""
    moment, id_ = place or (None, None)
    return (
        func.listed_threads_v2(
            cast(project_id, Uuid),
            cast(cast(filters.as_json(), Text), JSONB),
            cast(filters.by == "activity", Boolean),
            cast(downwards, Boolean),
            cast(moment, DateTime(timezone=True)),
            cast(id_, Uuid),
            cast(until, DateTime(timezone=True)),
            cast(most, Integer),
            cast(LAST_TURNS_LOOKED_AT, Integer),
        )
        .table_valued("bucket", "id", "matches", with_ordinality="place")
        .render_derived()
    )


async def _place(
    session: AsyncSession, project_id: UUID, cursor: str, *, by_activity: bool
) -> tuple[datetime, UUID] | None:
    """Return a thread's position in the list; of a deleted one, from the audit trail. None if it never existed."""
    thread_id = ids.parse(cursor, ids.THREAD_PREFIXES)
    if thread_id is None:
        return None
    bucket = ids.bucket_of(thread_id)
    if by_activity:
        same = (ThreadActivity.project_id == project_id, ThreadActivity.bucket == bucket)
        found = select(ThreadActivity.active_at).where(*same, ThreadActivity.thread_id == thread_id)
    else:
        of_id = (Thread.project_id == project_id, Thread.bucket == bucket, Thread.id == thread_id)
        found = select(Thread.arrived_at).where(*of_id)
    moment = await session.scalar(found)
    if moment is None:
        chain = (AuditRecord.project_id == project_id, AuditRecord.bucket == bucket, AuditRecord.chain_id == thread_id)
        of_kind = AuditRecord.action.not_in(GONE) if by_activity else AuditRecord.action.in_(BORN)
        last = select(AuditRecord.at).where(*chain, of_kind).order_by(AuditRecord.seq.desc()).limit(1)
        moment = await session.scalar(last)
    return None if moment is None else (moment, thread_id)


async def _key_of(session: AsyncSession, project_id: UUID) -> bytes:
    """The project's own key: a thread of no user's."""
    return (await session.execute(select(Project.trail_key).where(Project.project_id == project_id))).scalar_one()


def _at(project_id: UUID, address: ThreadAddress) -> tuple[ColumnElement[bool], ...]:
    same = (Thread.project_id == project_id, Thread.bucket == ids.bucket_of(address.id), Thread.id == address.id)
    named = (Thread.name == address.name,) if isinstance(address, ByName) else ()
    return (*same, *named, *(() if address.user is None else (Thread.user_id == address.user,)))


def _meaning(error: IntegrityError) -> Exception:
    return _no_turn_of_it() if "threads_head_turn_fkey" in str(error.orig) else error


def _no_turn_of_it() -> NotFound:
    return NotFound("'head_id' must be the id of a turn of this thread.", param="head_id", code="turn_not_found")


def _name_taken(name: str) -> Conflict:
    return Conflict(
        f"There is a thread named {name!r} already. Use it with PUT /v1/threads/by-name/NAME, or choose another name.",
        param="name",
        code="name_taken",
    )
