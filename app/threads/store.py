"""Threads in Postgres. Every statement names the project."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import func

from app.db import ids
from app.db.pagination import Page
from app.errors import Conflict, NotFound
from app.search.lexemes import document
from app.threads.address import Address
from app.threads.tables import Thread
from app.trail import contents
from app.trail.append import append
from app.trail.records import Action, Actor

CHANGED_AS = {"metadata_": "metadata", "user_id": "user", "head_turn_id": "head_id", "archived_at": "archived"}
"""What columns are called on the wire."""


@dataclass(frozen=True, slots=True)
class Filters:
    user: str | None = None
    name: str | None = None
    """The beginning of the name."""
    metadata: dict[str, str] = field(default_factory=dict)
    archived: bool | None = None
    created_after: datetime | None = None
    created_before: datetime | None = None
    updated_after: datetime | None = None
    updated_before: datetime | None = None


async def add(session: AsyncSession, actor: Actor, project_id: UUID, values: dict[str, Any]) -> Thread:
    """Insert a thread.

    Raises:
        Conflict: the project has a thread of this name.
    """
    made = {"project_id": project_id, "id": ids.new_uuid(), "salt": contents.new_salt(), **_searchable(values)}
    try:
        thread = (await session.execute(insert(Thread).values(**made).returning(Thread))).scalar_one()
    except IntegrityError as error:
        raise _meaning(error, values.get("name")) from error
    await tell(session, actor, thread, "thread.created")
    return thread


async def get_or_add(
    session: AsyncSession, actor: Actor, project_id: UUID, values: dict[str, Any]
) -> tuple[Thread, bool]:
    """The thread of this name, and whether it was made now. Of two at once, one makes it and both get it."""
    statement = (
        insert(Thread)
        .values(project_id=project_id, id=ids.new_uuid(), salt=contents.new_salt(), **_searchable(values))
        .on_conflict_do_nothing(index_elements=["project_id", "name"], index_where=Thread.name.is_not(None))
        .returning(Thread)
    )
    address = Address(name=values["name"])
    while True:
        # Looked up first: an insert that conflicts burns a dead row each time.
        found = await get(session, project_id, address)
        if found is not None:
            return found, False
        made = (await session.execute(statement)).scalar_one_or_none()
        if made is not None:
            await tell(session, actor, made, "thread.created")
            return made, True


async def get(session: AsyncSession, project_id: UUID, address: Address) -> Thread | None:
    return (await session.execute(select(Thread).where(*_at(project_id, address)))).scalar_one_or_none()


async def change(
    session: AsyncSession, actor: Actor, project_id: UUID, address: Address, values: dict[str, Any]
) -> Thread | None:
    """Change a thread in one statement, so that two changes of different fields both hold.

    Raises:
        APIError: the new name belongs to another thread, or the new head is no turn of this one.
    """
    statement = (
        update(Thread)
        .where(*_at(project_id, address))
        .values(**_searchable(values), updated_at=func.now())
        .returning(Thread)
        .execution_options(synchronize_session=False)
    )
    try:
        thread = (await session.execute(statement)).scalar_one_or_none()
    except IntegrityError as error:
        raise _meaning(error, values.get("name")) from error
    if thread is not None:
        fields = sorted(CHANGED_AS.get(name, name) for name in values)
        await tell(session, actor, thread, "thread.changed", ", ".join(fields))
    return thread


async def locked(session: AsyncSession, project_id: UUID, address: Address) -> Thread | None:
    """The thread, its row locked until the transaction ends."""
    return (
        await session.execute(select(Thread).where(*_at(project_id, address)).with_for_update())
    ).scalar_one_or_none()


async def remove(session: AsyncSession, actor: Actor, thread: Thread, action: Action = "thread.deleted") -> None:
    """Delete a thread with its turns, items, calls and texts."""
    gone = delete(Thread).where(Thread.project_id == thread.project_id, Thread.id == thread.id)
    await session.execute(gone.execution_options(synchronize_session=False))
    await append(session, actor, thread.project_id, action, thread_id=thread.id, user_id=thread.user_id)


async def tell(session: AsyncSession, actor: Actor, thread: Thread, action: Action, detail: str | None = None) -> None:
    """Append what a thread is now to the audit trail."""
    content = None
    if thread.salt is not None:  # As it is in threads that are older than the audit trail.
        content = contents.thread(
            thread.salt,
            thread.name,
            thread.title,
            thread.user_id,
            thread.metadata_,
            archived=thread.archived_at is not None,
        )
    await append(
        session,
        actor,
        thread.project_id,
        action,
        thread_id=thread.id,
        user_id=thread.user_id,
        detail=detail,
        content=content,
    )


async def list_page(
    session: AsyncSession, project_id: UUID, filters: Filters, page: Page
) -> tuple[Sequence[Thread], bool]:
    """One page, and whether more rows follow it."""
    cursor, descending = page.scan(ids.THREAD_PREFIXES)
    where = [Thread.project_id == project_id, *_filters(filters)]
    if cursor is not None:
        where.append(Thread.id < cursor if descending else Thread.id > cursor)
    by_id = Thread.id.desc() if descending else Thread.id.asc()
    rows = (await session.scalars(select(Thread).where(*where).order_by(by_id).limit(page.limit + 1))).all()
    return page.cut(rows)


def _searchable(values: dict[str, Any]) -> dict[str, Any]:
    """With the document of a title that is set."""
    return {**values, "title_document": document(values["title"] or "")} if "title" in values else values


def _at(project_id: UUID, address: Address) -> tuple[ColumnElement[bool], ...]:
    same = Thread.id == address.id if address.id is not None else Thread.name == address.name
    return Thread.project_id == project_id, same


def _filters(filters: Filters) -> list[ColumnElement[bool]]:
    where: list[ColumnElement[bool]] = []
    if filters.user is not None:
        where.append(Thread.user_id == filters.user)
    if filters.name is not None:
        where.append(Thread.name.startswith(filters.name, autoescape=True))
    if filters.metadata:
        where.append(Thread.metadata_.contains(filters.metadata))
    if filters.archived is not None:
        where.append(Thread.archived_at.is_not(None) if filters.archived else Thread.archived_at.is_(None))
    if filters.created_after is not None:
        where.append(Thread.created_at > filters.created_after)
    if filters.created_before is not None:
        where.append(Thread.created_at < filters.created_before)
    if filters.updated_after is not None:
        where.append(Thread.updated_at > filters.updated_after)
    if filters.updated_before is not None:
        where.append(Thread.updated_at < filters.updated_before)
    return where


def _meaning(error: IntegrityError, name: Any) -> Exception:
    if "threads_head_turn_fkey" in str(error.orig):
        return NotFound("'head_id' must be the id of a turn of this thread.", param="head_id", code="turn_not_found")
    if "threads_name_key" not in str(error.orig):
        return error
    return Conflict(
        f"There is a thread named {name!r} already. Use it with PUT /v1/threads/by-name/NAME, or choose another name.",
        param="name",
        code="name_taken",
    )
