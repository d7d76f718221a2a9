"""New records of the audit trail, read once per worker for all event streams.

The trail is the outbox of the streams: each change of a thread and each begin and end of a turn appends a record in its
own transaction, so that streams cost a turn nothing. While a project has readers, each worker reads the project's new
records at an interval, by two statements however many readers there are. Without readers it reads nothing.

A place in the trail is the moment, chain and number of a record. A record whose transaction is still open can get a
moment before records that are visible already. Records are therefore delivered as soon as they are visible, but the
place from which readers resume never passes the read horizon (app/db/read_horizon.py): nothing is skipped, and a
record may be delivered again.
"""

import asyncio
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self, TypedDict, get_args
from uuid import UUID

import structlog

from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.db.sql import statements_of
from app.http.errors import DatabaseUnavailable
from app.process.background import Background
from app.trail.records import Action
from app.trail.users import UserKeys, digest

log = structlog.get_logger()

POLL_SECONDS = 0.5
AWAY_SECONDS = 2.0

PROJECTS_A_SECOND = 200
"""Projects whose trail a worker reads in a second; with more readers' projects, the interval grows."""

MOST_READ = 500
"""Records per statement."""

MOST_WAITING = 1000
"""Records that wait for a reader. A reader that is slower gets none of them, and has to read the state again."""

MOST_RESUMED = 1000
"""Records between a reader's place and now. A reader that is further behind has to read the state again."""

OLDEST_PLACE = timedelta(hours=24)
AHEAD = timedelta(minutes=1)
"""The furthest that a place may be ahead of the horizon, which an open transaction holds back."""

BORN = ("thread.created", "thread.forked", "thread.imported")
GONE = ("thread.deleted", "thread.purged")
UNREPORTED = (
    "thread.exported", "thread.read", "turn.called", "turn.model_replaced", "compaction.made", "compaction.deleted",
    "feedback.given", "feedback.deleted", "thread.shared", "thread.unshared", "share.changed",
)  # fmt: skip
OF_THREADS = ("thread.", "turn.", "item.", "items.", "history.")
PURGED = "user.purged"
REPORTED = [
    action
    for action in get_args(Action)
    if action == PURGED or (action.startswith(OF_THREADS) and action not in UNREPORTED)
]

EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)
_PLACE = re.compile(r"([0-9]{1,17})(?:\.([0-9a-f]{32})\.([0-9]{1,18}))?")

_Key = tuple[str | None, UUID | None]
"""A reader's end user and thread; None for any."""

SQL = statements_of(__file__)


class FeedRow(TypedDict):
    """A record, as far as streams report it."""

    bucket: int
    chain_id: UUID
    seq: int
    at: datetime
    action: str
    turn_id: UUID | None
    user_digest: bytes | None
    detail: str | None


class Place(NamedTuple):
    """A place in a project's trail: behind a record, or before all records of a moment."""

    at: datetime
    chain_id: UUID = UUID(int=0)
    seq: int = 0

    def __str__(self) -> str:
        moment = str((self.at - EPOCH) // MICROSECOND)
        return moment if self.seq == 0 else f"{moment}.{self.chain_id.hex}.{self.seq}"

    @classmethod
    def parse(cls, given: str) -> Self | None:
        match = _PLACE.fullmatch(given)
        if match is None:
            return None
        at = EPOCH + timedelta(microseconds=int(match[1]))
        return cls(at) if match[2] is None else cls(at, UUID(match[2]), int(match[3]))


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A record, as one reader gets it."""

    batch: "Batch"
    row: FeedRow
    place: Place
    """The place from which a reader that has seen it resumes."""
    exists: bool
    """True if the thread exists, and is the reader's user's."""


class Batch:
    """Records that were read together."""

    def __init__(self) -> None:
        self.thread_ids: set[UUID] = set()
        """Existing threads of the records that readers get."""
        self._loading: asyncio.Future[Any] | None = None

    async def once(self, load: "Callable[[Batch], Awaitable[Any]]") -> Any:
        """Return the result of `load`, which is called for the first reader that asks, and shared by the others."""
        if self._loading is None:
            self._loading = asyncio.ensure_future(load(self))
        return await asyncio.shield(self._loading)


class Reader:
    """A stream's view of the feed."""

    def __init__(self, source: "_Source", user: str | None, thread_id: UUID | None) -> None:
        self.key = (user, thread_id)
        self.lost = True
        """True if records were left out: the reader has to call `restart` and read the state."""
        self.ended = False
        self._source = source
        self._entries: list[Entry] = []
        self._woken = asyncio.Event()

    def restart(self) -> Place:
        """Begin again: return the place after which all records will be delivered."""
        assert self._source.place is not None
        self.lost = False
        self._entries = []
        return self._source.place

    async def take(self) -> list[Entry]:
        """Wait for new records. Empty if the reader is lost or has ended."""
        await self._woken.wait()
        self._woken.clear()
        taken, self._entries = self._entries, []
        return taken

    def put(self, entries: Sequence[Entry]) -> None:
        if len(self._entries) + len(entries) > MOST_WAITING:
            self._entries, self.lost = [], True
        elif not self.lost:
            self._entries.extend(entries)
        self._woken.set()

    def end(self) -> None:
        self.ended = True
        self._woken.set()


class _Source:
    """A project whose trail is being read."""

    def __init__(self) -> None:
        self.starting: asyncio.Task[None] | None = None
        self.place: Place | None = None
        """All records up to here were read, and there will be no further ones. None before it has started."""
        self.ahead: set[tuple[UUID, int]] = set()
        """Records behind that place that were delivered."""
        self.readers: dict[_Key, set[Reader]] = {}
        self.users: dict[bytes, str] = {}
        """Readers' users by the digests that name them in the trail."""
        self._digests: dict[str, set[bytes]] = {}
        self._readers_of: Counter[str] = Counter()

    def add(self, reader: Reader) -> None:
        self.readers.setdefault(reader.key, set()).add(reader)
        if (user := reader.key[0]) is not None:
            self._readers_of[user] += 1

    def remove(self, reader: Reader) -> None:
        self.readers[reader.key].discard(reader)
        if not self.readers[reader.key]:
            del self.readers[reader.key]
        if (user := reader.key[0]) is not None:
            self._readers_of[user] -= 1
            if not self._readers_of[user]:
                del self._readers_of[user]
                for named in self._digests.pop(user, ()):
                    del self.users[named]

    def name(self, user: str, named: bytes) -> None:
        """Take note of the digest that names a user, if the user has a reader."""
        if user in self._readers_of:
            self.users[named] = user
            self._digests.setdefault(user, set()).add(named)

    def is_named(self, user: str) -> bool:
        return user in self._digests

    @property
    def has_users(self) -> bool:
        """True if a reader reads a user's threads only."""
        return bool(self._readers_of)

    def unnamed(self) -> list[str]:
        """Return the readers' users of whom no digest is known: the trail did not name them when they connected."""
        return [user for user in self._readers_of if user not in self._digests]


class TrailFeed(Background):
    def __init__(self, database: Database, horizon: ReadHorizon, users: UserKeys, *, closing: threading.Event) -> None:
        """Args: closing: set when the process takes no more requests: readers end."""
        super().__init__()
        self._database = database
        self._horizon = horizon
        self._users = users
        self._closing = closing
        self._sources: dict[UUID, _Source] = {}
        self._has_sources = asyncio.Event()

    @asynccontextmanager
    async def reading(
        self, project_id: UUID, *, user: str | None = None, thread_id: UUID | None = None
    ) -> AsyncIterator[Reader]:
        """Read a project's new records.

        Args:
            user: only those of this end user's threads, and the loss of a thread to another user.
            thread_id: only those of this thread.

        Raises:
            DatabaseUnavailable: Postgres is unavailable.
        """
        source = self._sources.get(project_id)
        if source is None:
            source = self._sources[project_id] = _Source()
            source.starting = asyncio.get_running_loop().create_task(self._start(source), context=Context())
        reader = Reader(source, user, thread_id)
        source.add(reader)
        try:
            assert source.starting is not None
            await asyncio.shield(source.starting)
            if user is not None and (named := await self._users.digest(project_id, user)) is not None:
                source.name(user, named)
            yield reader
        finally:
            source.remove(reader)
            if not source.readers and self._sources.get(project_id) is source:
                del self._sources[project_id]
                if not self._sources:
                    self._has_sources.clear()

    async def since(self, project_id: UUID, place: Place, reader: Reader) -> list[Entry] | None:
        """Return the records between a place and now; None if the place is not known any more, or too far back.

        The reader must have been restarted before. Its `take` may return some of these records again.
        """
        source, user = self._sources[project_id], reader.key[0]
        assert source.place is not None
        if not source.place.at - OLDEST_PLACE <= place.at <= source.place.at + AHEAD:
            return None
        if user is not None and not source.is_named(user):
            return None  # Deletions of the user's threads cannot be distinguished from others'.
        rows = await self._records(project_id, place, MOST_RESUMED + 1)
        if len(rows) > MOST_RESUMED:
            return None
        if user is not None and any(row["action"] == PURGED for row in rows):
            return None  # It may have been this user, whom earlier records name by a key that was deleted.
        batch, reached = Batch(), max(place, source.place)
        entries = [
            entry for keys, entry in await self._entries(project_id, source, batch, rows, reached) if reader.key in keys
        ]
        batch.thread_ids.update(entry.row["chain_id"] for entry in entries if entry.exists)
        return entries

    async def run(self) -> None:
        while True:
            await self._has_sources.wait()
            try:
                until = await self._until()
                for project_id, source in list(self._sources.items()):
                    while source.place is not None and await self._read_on(project_id, source, source.place, until):
                        pass
            except DatabaseUnavailable:
                log.warning("Postgres is unavailable; event streams go on when it is back")
                await asyncio.sleep(AWAY_SECONDS)
            if self._closing.is_set():
                for source in self._sources.values():
                    for readers in source.readers.values():
                        for reader in readers:
                            reader.end()
            await asyncio.sleep(POLL_SECONDS * max(1.0, len(self._sources) / PROJECTS_A_SECOND))

    async def _start(self, source: _Source) -> None:
        source.place = Place(await self._until())
        self._has_sources.set()

    async def _read_on(self, project_id: UUID, source: _Source, place: Place, until: datetime) -> bool:
        """Deliver the records behind a source's place. True if there are more to be read at once."""
        rows = await self._records(project_id, place, MOST_READ)
        settled = sum(row["at"] < until for row in rows)
        if len(rows) < MOST_READ:
            place = max(place, Place(until))
        elif settled:
            place = _place(rows[settled - 1])
        batch, new = Batch(), [row for row in rows if (row["chain_id"], row["seq"]) not in source.ahead]
        by_reader: dict[Reader, list[Entry]] = {}
        for keys, entry in await self._entries(project_id, source, batch, new, place):
            for key in keys:
                for reader in source.readers.get(key, ()):
                    by_reader.setdefault(reader, []).append(entry)
                    if entry.exists:
                        batch.thread_ids.add(entry.row["chain_id"])
        source.place, source.ahead = place, {(row["chain_id"], row["seq"]) for row in rows[settled:]}
        for reader, entries in by_reader.items():
            reader.put(entries)
        return len(rows) == MOST_READ and settled > 0

    async def _entries(
        self, project_id: UUID, source: _Source, batch: Batch, rows: Sequence[FeedRow], reached: Place
    ) -> list[tuple[list[_Key], Entry]]:
        """Return the entries of records, each with the keys of its readers.

        Args:
            reached: the place from which a reader that has seen all of the rows resumes.
        """
        rows = [row for row in rows if row["action"] != PURGED]
        if not rows:
            return []
        buckets = {row["chain_id"]: row["bucket"] for row in rows}
        owners = {
            row["id"]: row
            for row in await self._database.fetch(
                *SQL.thread_owners(project_id=project_id, buckets=list(set(buckets.values())), ids=list(buckets))
            )
        }
        await self._name_users(
            project_id, source, [row["user_digest"] for row in rows if row["chain_id"] not in owners]
        )
        found: list[tuple[list[_Key], Entry]] = []
        for row in rows:
            thread_id, owner = row["chain_id"], owners.get(row["chain_id"])
            if owner is None:
                user = None if row["user_digest"] is None else source.users.get(row["user_digest"])
            elif (user := owner["user_id"]) is not None:
                source.name(user, digest(owner["trail_key"], "user", user))
            entry = Entry(batch, row, min(_place(row), reached), owner is not None)
            if _has_moved(row) and (former := await self._former_user(project_id, source, row)) not in (None, user):
                lost: FeedRow = {**row, "action": "thread.deleted"}
                found.append((_keys(former, thread_id), replace(entry, row=lost, exists=False)))
            found.append(([*_keys(None, thread_id), *([] if user is None else _keys(user, thread_id))], entry))
        return found

    async def _name_users(self, project_id: UUID, source: _Source, digests: Sequence[bytes | None]) -> None:
        """Find out whom digests name that may be users with a reader: a user's first thread can be gone already when
        its records are read, and then no row of a thread tells."""
        if any(named is not None and named not in source.users for named in digests) and (users := source.unnamed()):
            for named, user in (await self._users.digests(project_id, users)).items():
                source.name(user, named)

    async def _former_user(self, project_id: UUID, source: _Source, row: FeedRow) -> str | None:
        """Return the user who had the thread before a record; None if no reader has that user."""
        if not source.has_users:
            return None
        at = {"project_id": project_id, "bucket": row["bucket"], "chain_id": row["chain_id"], "seq": row["seq"] - 1}
        named = await self._database.fetchval(*SQL.user_of_record(**at))
        await self._name_users(project_id, source, [named])
        return None if named is None else source.users.get(named)

    async def _records(self, project_id: UUID, after: Place, limit: int) -> list[FeedRow]:
        at = {"at": after.at, "after_chain": after.chain_id, "after_seq": after.seq}
        return await self._database.fetch(
            *SQL.records_after(project_id=project_id, **at, actions=REPORTED, limit=limit)
        )

    async def _until(self) -> datetime:
        async with self._database.session() as session:
            return await self._horizon.until(session)


def _keys(user: str | None, thread_id: UUID) -> list[_Key]:
    return [(user, None), (user, thread_id)]


def _place(row: FeedRow) -> Place:
    return Place(row["at"], row["chain_id"], row["seq"])


def _has_moved(row: FeedRow) -> bool:
    """Return True for a record of a thread that got another user."""
    return row["action"] == "thread.changed" and "user" in (row["detail"] or "").split(", ")
