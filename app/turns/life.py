"""The life of a thread as one stream: each turn as it begins and speaks, whoever asked for it, and what changes."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson

from app.db import ids
from app.db.engine import Database
from app.http.errors import BadRequest, DatabaseUnavailable, NotFound
from app.projects.auth import Caller
from app.projects.credential_watch import MESSAGES
from app.provider.events import data_of
from app.threads import store as threads
from app.threads.address import ById, ThreadAddress, unknown
from app.threads.schemas import ThreadObject, thread_object
from app.threads.service import shown
from app.threads.tables import Thread
from app.trail.feed import Reader, TrailFeed
from app.turns.closing import TERMINAL
from app.turns.events import ended_frame
from app.turns.replay import Replay
from app.turns.rows import TurnRow
from app.turns.show import stored_turn
from app.turns.store import TurnStore

AWAY_SECONDS = 2.0
TURNS_AT_ONCE = 50
DELETIONS_AT_ONCE = 500
WAITING_FRAMES = 200

LAST = tuple(f"event: {kind}\n".encode() for kind in (*TERMINAL, "error"))

_PLACE = re.compile(r"([0-9]{1,9})@([0-9]{1,18})((?:;[0-9]{1,9}\.[0-9]{1,9}){0,64})")

WATCHED = ("name", "title", "user", "metadata", "head_id", "archived", "ttl_seconds")
"""The fields of a thread whose changes are reported."""


class _Position:
    """The position of a listener: every turn up to a number, except those that are still running, and every deletion
    up to a number in the thread's audit chain."""

    def __init__(self, begun: int, recorded: int, speaking: dict[int, int]) -> None:
        self.begun = begun
        self.recorded = recorded
        self.speaking = speaking
        """The number of the next event of each running turn."""

    @classmethod
    def parse(cls, place: str) -> "_Position | None":
        match = _PLACE.fullmatch(place)
        if match is None:
            return None
        pairs = [each.partition(".") for each in match[3].split(";") if each]
        return cls(int(match[1]), int(match[2]), {int(seq): int(number) for seq, _, number in pairs})

    def place(self) -> str:
        begun = f"{self.begun}@{self.recorded}"
        return ";".join([begun, *(f"{seq}.{number}" for seq, number in sorted(self.speaking.items()))])


class ThreadLife:
    def __init__(self, database: Database, store: TurnStore, replay: Replay, feed: TrailFeed) -> None:
        self._database = database
        self._store = store
        self._replay = replay
        self._feed = feed

    async def frames(self, caller: Caller, address: ThreadAddress, place: str | None) -> AsyncIterator[bytes]:
        """The stream, until the thread is deleted.

        Args:
            place: the id of the last event that was read. From now on, and what runs now, if left out.

        Raises:
            APIError: there is no such thread, or the place is none.
        """
        position = _Position(0, 0, {}) if place is None else _Position.parse(place)
        if position is None:
            raise BadRequest("'Last-Event-ID' must be the id of an event of this stream.", param="Last-Event-ID")
        thread = await self._thread(caller, address)
        if thread is None:
            raise unknown(address)
        if place is None:
            first = await self._store.first_running(caller.project_id, address.id)
            position.begun = thread.last_seq if first is None else first - 1
            position.recorded = thread.chain_seq
        return self._follow(caller, ById(address.id, address.user), position)

    async def _follow(self, caller: Caller, address: ById, position: _Position) -> AsyncIterator[bytes]:
        """Look at the thread whenever the trail has a new record of it, and pass on what its turns say."""
        queue: asyncio.Queue[tuple[int, bytes | None]] = asyncio.Queue(WAITING_FRAMES)
        following: set[asyncio.Task[None]] = set()

        def begin(row: TurnRow, start: int) -> None:
            task = asyncio.create_task(self._speak(caller.project_id, row, start, queue))
            following.add(task)
            task.add_done_callback(following.discard)

        getting = asyncio.create_task(queue.get())
        waiting: asyncio.Task[Any] | None = None
        reader: Reader | None = None
        thread: ThreadObject | None = None
        try:
            async with AsyncExitStack() as stack:
                while reader is None or not reader.ended:
                    if waiting is None:
                        try:
                            if reader is None:
                                running = await self._rows(caller, address.id, position)
                                reading = self._feed.reading(caller.project_id, thread_id=address.id)
                                reader = await stack.enter_async_context(reading)
                            reader.restart()
                            look = await self._look(caller, address, position, thread)
                        except DatabaseUnavailable:
                            waiting = asyncio.create_task(asyncio.sleep(AWAY_SECONDS))
                            continue
                        if look.moved:
                            gone = NotFound(MESSAGES["thread_not_found"], code="thread_not_found")
                            yield ended_frame(gone, position.place(), "Last-Event-ID")
                            return
                        if look.thread is None:
                            yield _event("thread.deleted", address, {}, None)
                            return
                        if thread is None:
                            yield _event("snapshot", address, _snapshot(look, running), position.place())
                            for row in running:
                                begin(row, position.speaking[row["seq"]])
                        for seq, turn_id in look.deletions:
                            position.recorded = seq
                            deleted = {"turn_id": ids.turn_id(turn_id)}
                            yield _event("thread.turn.deleted", address, deleted, position.place())
                        for row in look.rows:
                            items = (await self._store.items(caller.project_id, [row["id"]]))[row["id"]]
                            position.begun = row["seq"]
                            position.speaking[row["seq"]] = 0
                            turn = {"turn": stored_turn(row, items)}
                            yield _event("thread.turn.created", address, turn, position.place())
                            begin(row, 0)
                        if thread is not None and look.shown is not None:
                            yield _event("thread.updated", address, {"thread": look.shown}, None)
                        thread = look.thread
                        if look.rows or look.deletions:
                            continue  # There may be more of them.
                        waiting = asyncio.create_task(reader.take())
                    await asyncio.wait({getting, waiting}, return_when=asyncio.FIRST_COMPLETED)
                    if waiting.done():
                        waiting = None
                    if not getting.done():
                        continue
                    seq, frame = getting.result()
                    getting = asyncio.create_task(queue.get())
                    if frame is None:
                        position.speaking.pop(seq, None)
                        continue
                    position.speaking[seq] = position.speaking.get(seq, 0) + 1
                    if frame.startswith(LAST):
                        del position.speaking[seq]  # A client that has read it does not resume this turn.
                    yield b"id: %b\n%b" % (position.place().encode(), frame)
        finally:
            for task in (getting, waiting, *following):
                if task is not None:
                    task.cancel()

    async def _look(self, caller: Caller, address: ById, position: _Position, before: ThreadObject | None) -> "_Look":
        """Read what is new behind a position. Args: before: the thread as it was last read."""
        row = await self._thread(caller, address)
        if row is None:
            return _Look(None, moved=await self._has_moved(caller, address))
        thread = thread_object(row)
        rows = await self._store.turns_after(caller.project_id, address.id, position.begun, TURNS_AT_ONCE)
        deletions: list[tuple[int, UUID]] = []
        if row.chain_seq > position.recorded:
            deletions = await self._store.deleted_turns(
                caller.project_id, address.id, position.recorded, DELETIONS_AT_ONCE
            )
            if not deletions:
                position.recorded = row.chain_seq
        shown: ThreadObject | None = None
        if before is None or any(thread[name] != before[name] for name in WATCHED):  # type: ignore[literal-required]
            shown = await self._shown(caller, row)
        return _Look(thread, rows=rows, deletions=deletions, shown=shown)

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
        """Read the thread's row alone, by one statement, because it is read for each record."""
        async with self._database.session() as session:
            return await threads.get(session, caller.project_id, address)

    async def _has_moved(self, caller: Caller, address: ById) -> bool:
        """Return True if the thread exists and has another user by now."""
        return address.user is not None and await self._thread(caller, ById(address.id)) is not None

    async def _shown(self, caller: Caller, thread: Thread) -> ThreadObject:
        async with self._database.session() as session:
            return await shown(session, caller, thread)


@dataclass(frozen=True, slots=True)
class _Look:
    """News behind a position."""

    thread: ThreadObject | None
    """The thread, for comparison; None if it does not exist for the listener any more."""
    moved: bool = False
    """True if it exists, and has another user."""
    rows: Sequence[TurnRow] = ()
    deletions: Sequence[tuple[int, UUID]] = ()
    """Deleted turns, by the numbers of their records."""
    shown: ThreadObject | None = None
    """The thread as the listener sees it, if it has changed."""


def _snapshot(look: _Look, running: Sequence[TurnRow]) -> dict[str, Any]:
    now = [row for row in (*running, *look.rows) if row["status"] == "in_progress"]
    at = [{"thread_id": ids.thread_id(row["thread_id"]), "turn_id": ids.turn_id(row["id"])} for row in now]
    return {"thread": look.shown, "running": at}


def _event(kind: str, address: ById, fields: dict[str, Any], place: str | None) -> bytes:
    id_ = b"" if place is None else b"id: %b\n" % place.encode()
    data = orjson.dumps({"type": kind, "thread_id": ids.thread_id(address.id), **fields})
    return b"%bevent: %b\ndata: %b\n\n" % (id_, kind.encode(), data)
