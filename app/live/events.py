"""The threads of a project or an end user as one stream: a snapshot, and what changes since."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any
from uuid import UUID
from weakref import WeakValueDictionary

import orjson

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import BadRequest, DatabaseUnavailable, Forbidden, NotFound
from app.http.pages import Page
from app.projects.auth import Caller
from app.threads.address import ById
from app.threads.schemas import Head
from app.threads.service import Threads, as_seen
from app.threads.store import Filters
from app.threads.tables import Thread
from app.trail.feed import BORN, GONE, Batch, Entry, Place, Reader, TrailFeed

AWAY_SECONDS = 2.0

MOST_THREADS = 50
"""Threads in a snapshot."""

MOST_RUNNING = 1000
"""Turns in progress in a snapshot."""

BEGINNING_AT_ONCE = 4
"""Streams for which a worker reads the state at once. When all clients connect again, other requests get their turn."""

FRAME_BYTES = 65536
"""Events of this size are sent before further ones are made."""

SQL = statements_of(__file__)

Event = tuple[str, dict[str, Any]]


class ThreadEvents:
    def __init__(self, database: Database, feed: TrailFeed, threads: Threads) -> None:
        self._database = database
        self._feed = feed
        self._threads = threads
        self._beginning = asyncio.Semaphore(BEGINNING_AT_ONCE)
        self._of_reader: WeakValueDictionary[tuple[UUID, str | None], asyncio.Lock] = WeakValueDictionary()

    def frames(self, caller: Caller, user: str | None, last_id: str | None) -> AsyncIterator[bytes]:
        """Return the stream.

        Args:
            user: only this end user's threads; a user's token has no other.
            last_id: the id of the last event that was read.

        Raises:
            APIError: the id does not belong to this stream, or the user is not the token's.
        """
        own = caller.grant.user
        if own is not None and user not in (None, own):
            raise Forbidden("This token does not list these threads.", param="user", code="not_for_users")
        place = None if last_id is None else Place.parse(last_id)
        if last_id is not None and place is None:
            raise BadRequest("'Last-Event-ID' must be the id of an event of this stream.", param="Last-Event-ID")
        return self._follow(caller, user if own is None else own, place)

    async def _follow(self, caller: Caller, user: str | None, place: Place | None) -> AsyncIterator[bytes]:
        project_id, thread_id = caller.project_id, caller.grant.thread_id
        reader: Reader | None = None
        seen: set[tuple[UUID, int]] = set()
        async with AsyncExitStack() as stack:
            while reader is None or not reader.ended:
                try:
                    if reader is None or reader.lost:
                        snapshot: dict[str, Any] | None = None
                        async with self._turn_of(project_id, user):
                            if reader is None:
                                reading = self._feed.reading(project_id, user=user, thread_id=thread_id)
                                reader = await stack.enter_async_context(reading)
                            restarted = reader.restart()
                            missed = None if place is None else await self._feed.since(project_id, place, reader)
                            if missed is None:
                                snapshot = await self._snapshot(caller, user)
                                place, missed = restarted, []
                        if snapshot is not None:
                            yield _frame("snapshot", snapshot, restarted)
                        entries = missed
                        seen = {_key(entry) for entry in entries}
                    else:
                        entries = [entry for entry in await reader.take() if _key(entry) not in seen]
                    assert place is not None
                    async for frames, reached in self._frames(caller, user, entries, place):
                        if frames:
                            yield frames
                        place = reached
                except DatabaseUnavailable:
                    if reader is not None:
                        # Records that were taken have not been sent: read them again from the place.
                        reader.lost = True
                    await asyncio.sleep(AWAY_SECONDS)

    @asynccontextmanager
    async def _turn_of(self, project_id: UUID, user: str | None) -> AsyncIterator[None]:
        """Wait until a stream may read the state. Each user has one turn at a time, however many streams it opens."""
        lock = self._of_reader.setdefault((project_id, user), asyncio.Lock())
        async with lock, self._beginning:
            yield

    async def _snapshot(self, caller: Caller, user: str | None) -> dict[str, Any]:
        thread_id = caller.grant.thread_id
        if thread_id is None:
            by_activity = Filters(user, by="activity")
            page = await self._threads.list_page(caller, by_activity, Page(MOST_THREADS, "desc", None, None))
        else:
            try:
                page = {"data": [await self._threads.get(caller, ById(thread_id, user))], "has_more": False}
            except NotFound:
                page = {"data": [], "has_more": False}
        running = await self._database.fetch(
            *SQL.running(project_id=caller.project_id, of_user=user, thread_id=thread_id, limit=MOST_RUNNING)
        )
        return {
            "threads": page["data"],
            "has_more": page["has_more"],
            "running": [
                {"thread_id": ids.thread_id(row["thread_id"]), "turn_id": ids.turn_id(row["id"])} for row in running
            ],
        }

    async def _frames(
        self, caller: Caller, user: str | None, entries: Sequence[Entry], place: Place
    ) -> AsyncIterator[tuple[bytes, Place]]:
        """Yield the events of records, as many at a time as `FRAME_BYTES` hold, with the place behind them."""

        async def load(batch: Batch) -> dict[UUID, tuple[Thread, Head]]:
            return await self._threads.rows(caller.project_id, list(batch.thread_ids))

        last = {entry.row["chain_id"]: entry for entry in entries if entry.row["action"] not in WITHOUT_UPDATE}
        frames = b""
        for entry in entries:
            thread_id = entry.row["chain_id"]
            events = _events(entry, is_last=last.get(thread_id) is entry)
            if any(fields is OBJECT for _, fields in events):
                row = (await entry.batch.once(load)).get(thread_id)
                if row is None or (user is not None and row[0].user_id != user):
                    events = []  # It has been deleted, or given to another user: a later record reports it.
                else:
                    seen = {"thread": as_seen(caller, *row)}
                    events = [(kind, seen if fields is OBJECT else fields) for kind, fields in events]
            for number, (kind, fields) in enumerate(events, 1):
                # A reader that got only the first of two gets both again.
                behind = entry.place if number == len(events) else place
                frames += _frame(kind, {"thread_id": ids.thread_id(thread_id), **fields}, behind)
            place = entry.place
            if len(frames) >= FRAME_BYTES:
                yield frames, place
                frames = b""
        yield frames, place


WITHOUT_UPDATE = (*BORN, *GONE, "turn.opened")
"""Records that are reported without a `thread.updated`."""

OBJECT: dict[str, Any] = {}
"""Stands for the thread itself in the fields of an event."""


def _events(entry: Entry, *, is_last: bool) -> list[Event]:
    """Return the events that report a record.

    Args:
        is_last: True for the last change of its thread in a batch, which reports the thread's present state.
    """
    row, updated = entry.row, [("thread.updated", OBJECT)] if is_last else []
    if row["action"] in GONE:
        return [("thread.deleted", {})]
    if not entry.exists:
        return []
    turn_id = ids.optional_turn_id(row["turn_id"])
    if row["action"] in BORN:
        return [("thread.created", OBJECT)]
    if row["action"] == "turn.opened":
        return [("thread.turn.created", {"turn_id": turn_id})]
    if row["action"] == "turn.closed":
        return [("thread.turn.finished", {"turn_id": turn_id, "status": row["detail"]}), *updated]
    return updated


def _key(entry: Entry) -> tuple[UUID, int]:
    return entry.row["chain_id"], entry.row["seq"]


def _frame(kind: str, fields: dict[str, Any], place: Place) -> bytes:
    data = orjson.dumps({"type": kind, **fields})
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(place).encode(), kind.encode(), data)
