"""Operations on threads."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql import func

from app.db import ids
from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.holds.doors import check_thread, knows_holds
from app.http.errors import Conflict, Forbidden
from app.http.pages import Page, list_object
from app.limits.room import check_growth, check_room
from app.limits.service import RateLimits
from app.projects.auth import Caller
from app.threads import store
from app.threads.address import ByName, ThreadAddress, name_for, name_of, unknown, unknown_name
from app.threads.app_messages import kept_for_app, lost_messages
from app.threads.names import Names
from app.threads.presets import ThreadPresets
from app.threads.schemas import (
    Head,
    OneThread,
    ThreadCount,
    ThreadCreate,
    ThreadFields,
    ThreadFork,
    ThreadObject,
    ThreadPatch,
    ThreadPut,
    thread_object,
)
from app.threads.store import Filters
from app.threads.tables import Thread
from app.trail.users import UserKeys

MOST_COUNTED = 10_000


class Threads:
    def __init__(
        self,
        database: Database,
        names: Names,
        users: UserKeys,
        horizon: ReadHorizon,
        limits: RateLimits,
        presets: ThreadPresets,
    ) -> None:
        self._limits = limits
        self._presets = presets
        self._database = database
        self._names = names
        self._users = users
        self._horizon = horizon

    async def get_or_create(self, caller: Caller, called: str, sent: ThreadPut) -> tuple[ThreadObject, bool]:
        """The thread of this name, and whether it was made now. Of two at once, one makes it and both get it."""
        name = name_of(caller, called)
        check_makes(caller)
        while True:
            if (known := await self._names.find(caller.project_id, name)) is not None:
                async with self._database.session() as session:
                    thread = await store.get(session, caller.project_id, ByName(known, name))
                    if thread is not None and caller.grant.user not in (None, thread.user_id):
                        raise unknown_name(called)
                    if thread is not None:
                        return await shown(session, caller, thread), False
            await check_room(self._limits, caller, sent.user, makes_thread=True)
            values = await with_trail_key(self._users, caller.project_id, {"name": name, **columns(sent)})
            with suppress(Conflict):
                async with self._database.session() as session:
                    thread = await store.add(session, self._names, caller.actor, caller.project_id, values)
                    return _as_called(caller, thread_object(thread)), True

    async def list_page(self, caller: Caller, filters: Filters, page: Page) -> dict[str, Any]:
        async with self._database.session() as session:
            rows, has_more, looked_at = await store.list_page(session, caller.project_id, filters, page, self._horizon)
            heads = await store.heads(session, rows)
        found = list_object(rows, lambda row: _as_called(caller, thread_object(row, heads[row.id])), has_more=has_more)
        if looked_at is not None:
            found["last_id" if page.before is None else "first_id"] = ids.thread_id(looked_at)
        return found

    async def count(self, caller: Caller, filters: Filters) -> ThreadCount:
        """Count threads: exactly up to MOST_COUNTED, and `more` beyond."""
        async with self._database.session() as session:
            found, more = await store.count(session, caller.project_id, filters, MOST_COUNTED)
        return {"object": "thread.count", "count": found, "more": more}

    async def get(self, caller: Caller, address: ThreadAddress) -> OneThread:
        async with self._database.session() as session:
            thread = await store.get(session, caller.project_id, address, with_preset=caller.grant.user is None)
            if thread is None:
                raise unknown(address)
            found = await shown(session, caller, thread)
            preset = None if caller.grant.user is not None else thread.preset
            return cast(OneThread, found if preset is None else {**found, "preset": preset})

    async def rows(self, project_id: UUID, thread_ids: Sequence[UUID]) -> dict[UUID, tuple[Thread, Head]]:
        """Return the threads of these ids, as far as they exist, for `as_seen`."""
        async with self._database.session() as session:
            found = await store.of_ids(session, project_id, thread_ids)
            heads = await store.heads(session, found)
        return {thread.id: (thread, heads[thread.id]) for thread in found}

    async def patch(self, caller: Caller, address: ThreadAddress, sent: ThreadPatch) -> ThreadObject:
        await self._check_growth(caller, address, sent)
        values = await with_trail_key(self._users, caller.project_id, columns(sent))
        if "head_id" in sent.model_fields_set:
            values["head_turn_id"] = sent.head_id
            await self._check_keeps_app_messages(caller, address, sent.head_id)
        if "archived" in sent.model_fields_set:
            values["archived_at"] = func.now() if sent.archived else None
        async with self._database.session() as session:
            await self._check_not_held(session, caller, address, values)
            thread = await store.change(session, self._names, caller.actor, caller.project_id, address, values)
            if thread is None:
                raise unknown(address)
            found = await shown(session, caller, thread)
        if "preset" in values:
            self._presets.forget(thread.id)
        return found

    async def _check_not_held(
        self, session: AsyncSession, caller: Caller, address: ThreadAddress, values: dict[str, Any]
    ) -> None:
        """Refuse a change of what a legal hold covers, if the caller may know of holds."""
        covered = values.keys() & {"name", "title", "user_id", "metadata_"}
        thread = await store.get(session, caller.project_id, address) if covered and knows_holds(caller) else None
        if thread is not None and any(getattr(thread, name) != values[name] for name in covered):
            await check_thread(session, caller, thread.id, thread.user_id)

    async def _check_keeps_app_messages(self, caller: Caller, address: ThreadAddress, head_id: UUID) -> None:
        """Refuse a user's change of head that would remove messages of the app from the model's context."""
        if caller.grant.user is None:
            return
        async with self._database.session() as session:
            thread = await store.get(session, caller.project_id, address)
        if thread and await lost_messages(self._database, caller.project_id, thread.head_turn_id, head_id):
            raise kept_for_app("head_id")

    async def _check_growth(self, caller: Caller, address: ThreadAddress, sent: ThreadPatch) -> None:
        """Raise TooManyRequests if a change makes a thread longer, and there is no room for more."""
        longer = sent.model_dump(include=sent.model_fields_set & {"title", "metadata"})
        if not any(longer.values()):
            return
        async with self._database.session() as session:
            thread = await store.get(session, caller.project_id, address)
        if thread is not None:
            before = {"title": thread.title, "metadata": thread.metadata_}
            await check_growth(self._limits, caller, thread.user_id, before, longer)


async def shown(session: AsyncSession, caller: Caller, thread: Thread) -> ThreadObject:
    """A thread as the caller sees it, with what is shown of its head."""
    return _as_called(caller, thread_object(thread, (await store.heads(session, [thread]))[thread.id]))


def as_seen(caller: Caller, thread: Thread, head: Head) -> ThreadObject:
    """Return a thread as the caller sees it, from rows that several callers share."""
    return _as_called(caller, thread_object(thread, head))


def _as_called(caller: Caller, thread: ThreadObject) -> ThreadObject:
    return {**thread, "name": name_for(caller, thread["name"])}


Fields = TypeVar("Fields", ThreadCreate, ThreadPut, ThreadPatch, ThreadFork)


def for_caller(caller: Caller, sent: Fields) -> Fields:
    """Return the fields of a thread as the caller may set them: an end user's thread has that user and names.

    Raises:
        Forbidden: it is to be somebody else's.
    """
    user = caller.grant.user
    if user is None:
        return sent
    if "user" in sent.model_fields_set and sent.user != user:
        raise Forbidden("The threads of a user's token are that user's.", param="user", code="not_for_users")
    if "preset" in sent.model_fields_set:
        raise Forbidden("Only keys set presets.", param="preset", code="not_for_users")
    values: dict[str, Any] = {} if isinstance(sent, ThreadPatch) else {"user": user}
    if not isinstance(sent, ThreadPut) and sent.name is not None:
        values["name"] = name_of(caller, sent.name)
    if not isinstance(sent, ThreadPatch):
        check_makes(caller)
    changed = sent.model_copy(update=values)
    changed.model_fields_set.update(values)
    return changed


def of_caller(caller: Caller, filters: Filters) -> Filters:
    """Return the filters for the caller: an end user lists only own threads.

    Raises:
        Forbidden: a token for one thread lists none.
    """
    user = caller.grant.user
    if user is None:
        return filters
    if caller.grant.thread_id is not None or filters.user not in (None, user):
        raise Forbidden("This token does not list these threads.", param="user", code="not_for_users")
    name = None if filters.name is None else name_of(caller, filters.name)
    return replace(filters, user=user, name=name)


def check_makes(caller: Caller) -> None:
    if caller.grant.thread_id is not None:
        raise Forbidden("This token is for one thread, which is there already.", code="not_for_users")


async def with_trail_key(users: UserKeys, project_id: UUID, values: dict[str, Any]) -> dict[str, Any]:
    """A thread's columns with the key that the audit trail names its user with, where they set the user."""
    if "user_id" not in values:
        return values
    user = values["user_id"]
    key = None if user is None else await users.get_or_make(project_id, user)
    return values if key is None else {**values, "trail_key": key}


def columns(sent: ThreadFields) -> dict[str, Any]:
    """The columns that a request sets. Metadata set to null is empty metadata."""
    given = sent.model_dump(include=sent.model_fields_set, exclude={"archived", "messages", "head_id", "turn_id"})
    if "user" in given:
        given["user_id"] = given.pop("user")
    if given.get("created_at") is None:
        given.pop("created_at", None)
    else:
        given["created_at"] = datetime.fromtimestamp(given["created_at"], UTC)
    if sent.preset is not None:
        given["preset"] = sent.preset.stored()
    if "ttl_seconds" in given:
        ttl = given["ttl_seconds"]
        given["expires_at"] = None if ttl is None else func.now() + timedelta(seconds=ttl)
    if "metadata" in given:
        given["metadata_"] = given.pop("metadata") or {}
    return given
