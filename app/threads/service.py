"""What can be done with a thread."""

from typing import Any
from uuid import UUID

from sqlalchemy.sql import func

from app.chain.live_ids import LiveIds
from app.db import ids
from app.db.engine import Database
from app.db.pagination import Page, list_object
from app.errors import BadRequest
from app.projects.auth import Caller
from app.threads import store
from app.threads.address import Address
from app.threads.erase import erase
from app.threads.forks import fork
from app.threads.schemas import ThreadCreate, ThreadFork, ThreadPatch, ThreadPut, thread_object
from app.threads.store import Filters
from app.turns.event_log import EventLog
from app.turns.history import append
from app.turns.input import items_of


class Threads:
    def __init__(self, database: Database, live_ids: LiveIds, event_log: EventLog) -> None:
        self._database = database
        self._event_log = event_log
        self._live_ids = live_ids

    async def create(self, caller: Caller, sent: ThreadCreate) -> dict[str, Any]:
        items = items_of(sent.messages, "messages") if sent.messages else []
        async with self._database.session() as session:
            thread = await store.add(session, caller.actor, caller.project_id, _values(sent))
            if items:
                await append(session, caller.actor, thread, items)
                await session.flush()
                await session.refresh(thread)
            return thread_object(thread)

    async def get_or_create(self, caller: Caller, name: str, sent: ThreadPut) -> tuple[dict[str, Any], bool]:
        """The thread of this name, and whether it was made now."""
        values = {"name": name, **_values(sent)}
        async with self._database.session() as session:
            thread, made = await store.get_or_add(session, caller.actor, caller.project_id, values)
            return thread_object(thread), made

    async def list_page(self, caller: Caller, filters: Filters, page: Page) -> dict[str, Any]:
        async with self._database.session() as session:
            rows, has_more = await store.list_page(session, caller.project_id, filters, page)
        return list_object(rows, thread_object, has_more=has_more)

    async def get(self, caller: Caller, address: Address) -> dict[str, Any]:
        async with self._database.session() as session:
            thread = await store.get(session, caller.project_id, address)
        if thread is None:
            raise address.unknown()
        return thread_object(thread)

    async def patch(self, caller: Caller, address: Address, sent: ThreadPatch) -> dict[str, Any]:
        values = _values(sent)
        if "head_id" in sent.model_fields_set:
            values["head_turn_id"] = _turn("head_id", sent.head_id)
        if "archived" in sent.model_fields_set:
            values["archived_at"] = func.now() if sent.archived else None
        async with self._database.session() as session:
            thread = await store.change(session, caller.actor, caller.project_id, address, values)
            if thread is None:
                raise address.unknown()
            return thread_object(thread)

    async def delete(self, caller: Caller, address: Address) -> dict[str, Any]:
        async with self._database.session() as session:
            thread = await store.locked(session, caller.project_id, address)
            if thread is None:
                raise address.unknown()
            erased = await erase(session, caller.actor, thread)
        await erased.forget(self._live_ids, self._event_log)
        return {"id": ids.thread_id(thread.id), "object": "thread.deleted", "deleted": True}

    async def fork(self, caller: Caller, address: Address, sent: ThreadFork) -> dict[str, Any]:
        """A new thread that shares this one's history up to a turn."""
        turn_id = None if sent.turn_id is None else _turn("turn_id", sent.turn_id)
        async with self._database.session() as session:
            source = await store.locked(session, caller.project_id, address)
            if source is None:
                raise address.unknown()
            return thread_object(await fork(session, caller.actor, source, turn_id, _values(sent)))


def _turn(param: str, value: str | None) -> UUID:
    found = None if value is None else ids.parse(value, ids.TURN_PREFIXES)
    if found is None:
        raise BadRequest(f"'{param}' must be the id of a turn of this thread.", param=param)
    return found


def _values(sent: ThreadCreate | ThreadPut | ThreadPatch | ThreadFork) -> dict[str, Any]:
    """The columns that a request sets. Metadata set to null is empty metadata."""
    given = sent.model_dump(include=sent.model_fields_set, exclude={"archived", "messages", "head_id", "turn_id"})
    if "user" in given:
        given["user_id"] = given.pop("user")
    if "metadata" in given:
        given["metadata_"] = given.pop("metadata") or {}
    return given
