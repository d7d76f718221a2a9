"""The life of a thread as one stream: each turn as it begins and speaks, whoever asked for it, and what changes."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import orjson

from app.db import ids
from app.db.engine import Database
from app.http.door import closing
from app.http.errors import BadRequest, DatabaseUnavailable, NotFound
from app.projects.auth import Caller
from app.projects.credential_watch import MESSAGES
from app.provider.events import data_of
from app.threads import store as threads
from app.threads.address import ById, ThreadAddress, unknown
from app.threads.schemas import ThreadObject, thread_object
from app.threads.service import shown
from app.threads.tables import Thread
from app.turns.closing import TERMINAL
from app.turns.events import ended_frame
from app.turns.replay import Replay
from app.turns.rows import TurnRow
from app.turns.show import stored_turn
from app.turns.store import TurnStore

POLL_SECONDS = 0.5
AWAY_SECONDS = 2.0
TURNS_AT_ONCE = 50
WAITING_FRAMES = 200

LAST = tuple(f"event: {kind}\n".encode() for kind in (*TERMINAL, "error"))

_PLACE = re.compile(r"[0-9]{1,9}(;[0-9]{1,9}\.[0-9]{1,9}){0,64}")

WATCHED = ("name", "title", "user", "metadata", "head_id", "archived", "ttl_seconds")
"""The fields of a thread whose changes are reported."""


class _Position:
    """The position of a listener: every turn up to a number, except those that are still running."""

    def __init__(self, place: str | None) -> None:
        begun, *speaking = (place or "0").split(";")
        self.begun = int(begun)
        self.speaking = {int(seq): int(number) for seq, _, number in (each.partition(".") for each in speaking)}
        """The number of the next event of each."""

    def place(self) -> str:
        return ";".join([str(self.begun), *(f"{seq}.{number}" for seq, number in sorted(self.speaking.items()))])


class ThreadLife:
    def __init__(self, database: Database, store: TurnStore, replay: Replay) -> None:
        self._database = database
        self._store = store
        self._replay = replay

    async def frames(self, caller: Caller, address: ThreadAddress, place: str | None) -> AsyncIterator[bytes]:
        """The stream, until the thread is deleted.

        Args:
            place: the id of the last event that was read. From now on, and what runs now, if left out.

        Raises:
            APIError: there is no such thread, or the place is none.
        """
        if place is not None and not _PLACE.fullmatch(place):
            raise BadRequest("'Last-Event-ID' must be the id of an event of this stream.", param="Last-Event-ID")
        thread = await self._thread(caller, address)
        if thread is None:
            raise unknown(address)
        position = _Position(place)
        if place is None:
            first = await self._store.first_running(caller.project_id, address.id)
            position.begun = thread.last_seq if first is None else first - 1
        return self._follow(caller, ById(address.id, address.user), thread_object(thread), position)

    async def _follow(
        self, caller: Caller, address: ById, thread: ThreadObject, position: _Position
    ) -> AsyncIterator[bytes]:
        id_ = address.id
        queue: asyncio.Queue[tuple[int, bytes | None]] = asyncio.Queue(WAITING_FRAMES)
        following: set[asyncio.Task[None]] = set()

        def begin(row: TurnRow, start: int) -> None:
            task = asyncio.create_task(self._speak(caller.project_id, row, start, queue))
            following.add(task)
            task.add_done_callback(following.discard)

        getting = asyncio.create_task(queue.get())
        looks_at = 0.0
        clock = asyncio.get_running_loop()
        try:
            for row in await self._rows(caller, id_, position):
                begin(row, position.speaking[row["seq"]])
            while not closing.is_set():
                if clock.time() >= looks_at:
                    looks_at = clock.time() + POLL_SECONDS
                    try:
                        row_now = await self._thread(caller, address)
                        moved = row_now is None and await self._has_moved(caller, address)
                        rows = await self._store.turns_after(caller.project_id, id_, position.begun, TURNS_AT_ONCE)
                    except DatabaseUnavailable:
                        looks_at += AWAY_SECONDS
                        continue
                    if moved:
                        gone = NotFound(MESSAGES["thread_not_found"], code="thread_not_found")
                        yield ended_frame(gone, position.place(), "Last-Event-ID")
                        return
                    if row_now is None:
                        yield _event("thread.deleted", {"thread_id": ids.thread_id(id_)}, None)
                        return
                    now = thread_object(row_now)
                    for row in rows:
                        items = (await self._store.items(caller.project_id, [row["id"]]))[row["id"]]
                        position.begun = row["seq"]
                        position.speaking[row["seq"]] = 0
                        yield _event("thread.turn.created", {"turn": stored_turn(row, items)}, position.place())
                        begin(row, 0)
                    if {name: now[name] for name in WATCHED} != {name: thread[name] for name in WATCHED}:  # type: ignore[literal-required]
                        yield _event("thread.updated", {"thread": await self._shown(caller, address) or now}, None)
                    thread = now
                done, _ = await asyncio.wait({getting}, timeout=max(0.0, looks_at - clock.time()))
                if not done:
                    continue
                seq, frame = getting.result()
                getting = asyncio.create_task(queue.get())
                if frame is None:
                    position.speaking.pop(seq, None)
                    continue
                position.speaking[seq] = position.speaking.get(seq, 0) + 1
                if frame.startswith(LAST):
                    del position.speaking[seq]  # Who has read it comes back to no turn that has ended.
                yield b"id: %b\n%b" % (position.place().encode(), frame)
        finally:
            for task in (getting, *following):
                task.cancel()

    async def _speak(
        self, project_id: UUID, row: TurnRow, start: int, queue: "asyncio.Queue[tuple[int, bytes | None]]"
    ) -> None:
        """Put a turn's events into the queue, and None behind them."""
        of_turn = b',"turn_id":' + orjson.dumps(ids.turn_id(row["id"])) + b"}"
        if row["status"] == "in_progress" or row["continuation"] is not None:
            async for chunk in self._replay.frames(project_id, row["id"], start):
                for frame in chunk.split(b"\n\n"):
                    if frame:
                        said = b"data: " + data_of(frame + b"\n\n")[:-1] + of_turn
                        _, _, rest = frame.partition(b"\nevent: ")
                        await queue.put((row["seq"], b"event: %b\n%b\n\n" % (rest.partition(b"\n")[0], said)))
        await queue.put((row["seq"], None))

    async def _rows(self, caller: Caller, id_: UUID, position: _Position) -> list[TurnRow]:
        """The turns that were speaking when the listener went away. Those that are gone are not told of any more."""
        found: list[TurnRow] = []
        for seq in list(position.speaking):
            rows = await self._store.turns_after(caller.project_id, id_, seq - 1, 1)
            if rows and rows[0]["seq"] == seq:
                found.append(rows[0])
            else:
                del position.speaking[seq]
        return found

    async def _thread(self, caller: Caller, address: ThreadAddress) -> Thread | None:
        """Read the thread's row alone, by one statement, because it is polled."""
        async with self._database.session() as session:
            return await threads.get(session, caller.project_id, address)

    async def _has_moved(self, caller: Caller, address: ById) -> bool:
        """Return True if the thread exists and has another user by now."""
        return address.user is not None and await self._thread(caller, ById(address.id)) is not None

    async def _shown(self, caller: Caller, address: ById) -> ThreadObject | None:
        async with self._database.session() as session:
            thread = await threads.get(session, caller.project_id, address)
            return None if thread is None else await shown(session, caller, thread)


def _event(kind: str, fields: dict[str, Any], place: str | None) -> bytes:
    id_ = b"" if place is None else b"id: %b\n" % place.encode()
    return b"%bevent: %b\ndata: %b\n\n" % (id_, kind.encode(), orjson.dumps({"type": kind, **fields}))
