"""Contents that legal holds and the minimum retention have kept, read back by callers with the scope audit."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NotRequired
from uuid import UUID

import asyncpg
import orjson
from typing_extensions import TypedDict

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.history.tables import Feedback, Share
from app.holds.service import Holds
from app.holds.tables import Hold
from app.http.errors import BadRequest
from app.http.pages import PAGE_BYTES, ListObject, list_object
from app.items.media import lacks_large
from app.items.stored import stored_item
from app.items.unreadable import marked
from app.media import store as media
from app.memory.tables import Compaction
from app.projects.auth import Caller
from app.sealing.columns import Rows, rows_of
from app.threads import store as threads
from app.threads.address import ThreadAddress, unknown
from app.threads.tables import Thread
from app.turns.tables import Call, Item, SentPiece, Turn

SQL = statements_of(__file__)

Kind = Literal["thread", "turn", "item", "call", "piece", "compaction", "feedback", "share"]

PAGE_OF_EXPORT = 100


class HeldObject(TypedDict):
    """A content before its deletion or change."""

    id: str
    object: Literal["held"]
    kind: Kind
    thread_id: str
    turn_id: str | None
    user: str | None
    """The thread's user at the time."""
    kept_at: int
    """The time of the deletion or change."""
    kept_until: int | None
    """The end of its minimum retention; null if only a hold keeps it."""
    content: dict[str, Any]
    """The fields of its kind, see docs/holds.md."""
    unreadable: NotRequired[list[str]]


class HeldThreadObject(TypedDict):
    id: str
    object: Literal["held.thread"]
    user: str | None
    """The latest user among the kept contents."""
    exists: bool
    """False if the thread was deleted."""
    contents: int
    """The number of kept contents."""
    first_kept_at: int
    last_kept_at: int


@dataclass(frozen=True, slots=True)
class Source:
    """A table whose rows are kept."""

    kind: Kind
    rows: Rows
    shown: tuple[str, ...]
    """Columns that are shown. Digests, salts and keys are not."""

    def opened(self, project_id: UUID, row: asyncpg.Record) -> dict[str, Any]:
        """Return the columns of a kept row, with the sealed ones opened. Newer columns are null."""
        data: dict[str, Any] = row["data"]
        key = {name: _key(name, data[name]) for name in self.rows.bound_by}
        opened: dict[str, Any] = self.rows.opened(project_id, {**{name: data.get(name) for name in self.shown}, **key})
        return opened


SOURCES = {
    "threads": Source(
        "thread", rows_of(Thread),
        ("name", "title", "metadata", "preset", "head_turn_id", "forked_turn_id", "archived_at", "created_at",
         "updated_at"),
    ),
    "turns": Source(
        "turn", rows_of(Turn),
        ("seq", "parent_id", "status", "continuation", "continuation_reason", "model", "params", "metadata", "ignored",
         "response", "usage", "cost", "error", "incomplete_details", "context", "response_id", "created_at",
         "completed_at", "deleted_at"),
    ),
    "items": Source("item", rows_of(Item), ("position", "origin", "type", "item_id", "data")),
    "calls": Source(
        "call", rows_of(Call),
        ("attempt", "continuation", "continuation_reason", "url", "frames", "refs", "dropped_items", "status",
         "response_id", "error", "started_at", "finished_at"),
    ),
    "pieces": Source("piece", rows_of(SentPiece), ("number", "sources", "data", "media_id")),
    "compactions": Source(
        "compaction", rows_of(Compaction),
        ("status", "model", "text", "kept_items", "covered_turns", "covered_tokens", "tokens", "calls", "usage",
         "error", "created_at", "completed_at"),
    ),
    "feedback": Source("feedback", rows_of(Feedback), ("score", "label", "comment", "user_id", "created_at")),
    "shares": Source("share", rows_of(Share), ("title", "expires_at", "created_at")),
}  # fmt: skip
"""Tables in the order in which rows with the same time and turn are listed. Media are shown in their items."""

TURNS = ("parent_id", "head_turn_id", "forked_turn_id")
KEYS = ("id", "thread_id", "turn_id")


class Held:
    def __init__(self, database: Database, holds: Holds) -> None:
        self._database = database
        self._holds = holds

    async def of_thread(
        self, caller: Caller, address: ThreadAddress, limit: int, after: str | None
    ) -> ListObject[HeldObject]:
        """Return a page of a thread's kept contents, in the order of their deletion or change.

        Raises:
            NotFound: there is no such thread, and nothing of it is kept.
        """
        shown, has_more = await self._page(caller.project_id, address.id, limit, after)
        if not shown and after is None:
            async with self._database.session() as session:
                if await threads.get(session, caller.project_id, address) is None:
                    raise unknown(address)
        return list_object(shown, lambda each: each, has_more=has_more)  # type: ignore[return-value]

    async def threads_under(
        self, caller: Caller, hold_id: str, limit: int, after: UUID | None
    ) -> ListObject[HeldThreadObject]:
        """Return a page of the threads with contents that a hold keeps, in the order of their ids.

        Raises:
            NotFound: there is no such hold.
        """
        rows = await self._threads(await self._holds.row(caller, hold_id), limit + 1, after)
        return list_object(rows[:limit], _thread_object, has_more=len(rows) > limit)  # type: ignore[return-value]

    async def export(self, caller: Caller, hold_id: str) -> AsyncIterator[bytes]:
        """Return all contents that a hold keeps, one per line.

        Raises:
            NotFound: there is no such hold.
        """
        return self._lines(await self._holds.row(caller, hold_id))

    async def _lines(self, hold: Hold) -> AsyncIterator[bytes]:
        last: UUID | None = None
        while rows := await self._threads(hold, PAGE_OF_EXPORT, last):
            for row in rows:
                after, has_more = None, True
                while has_more:
                    shown, has_more = await self._page(hold.project_id, row["thread_id"], PAGE_OF_EXPORT, after)
                    if shown:
                        yield b"".join(orjson.dumps(each) + b"\n" for each in shown)
                        after = shown[-1]["id"]
            last = rows[-1]["thread_id"]

    async def _threads(self, hold: Hold, limit: int, after: UUID | None) -> Sequence[asyncpg.Record]:
        return await self._database.fetch(
            *SQL.held_threads(
                project_id=hold.project_id,
                sources=list(SOURCES),
                scope=hold.scope,
                held_thread=hold.thread_id,
                held_user=hold.user_id,
                last_bucket=-1 if after is None else ids.bucket_of(after),
                last_thread=after,
                limit=limit,
            )
        )

    async def _page(
        self, project_id: UUID, thread_id: UUID, limit: int, after: str | None
    ) -> tuple[list[HeldObject], bool]:
        """Return a page of kept contents, bounded in bytes, and True if more follow."""
        here = {"project_id": project_id, "bucket": ids.bucket_of(thread_id), "thread_id": thread_id}
        last = {"last_at": None, "last_turn": None, "last_source": None, "last_place": None, "last_id": None}
        if after is not None:
            found = ids.parse(after, ("held",))
            row = None if found is None else await self._database.fetchrow(*SQL.held_cursor(**here, id=found))
            if row is None:
                raise BadRequest(
                    f"'after' must be an id from this list, which {after[:80]!r} is not. Omit it to begin.",
                    param="after",
                    code="invalid_cursor",
                )
            last = {f"last_{name}": value for name, value in row.items()}
        rows = await self._database.fetch(
            *SQL.held_page(**here, **last, sources=list(SOURCES), limit=limit + 1, most_bytes=PAGE_BYTES)
        )
        page = rows[:limit]
        return await self._shown(here, page), bool(page) and page[0]["candidates"] > len(page)

    async def _shown(self, here: Mapping[str, Any], rows: Sequence[asyncpg.Record]) -> list[HeldObject]:
        opened = [SOURCES[row["source"]].opened(here["project_id"], row) for row in rows]
        lacking = [
            each
            for row, each in zip(rows, opened, strict=True)
            if row["source"] == "items" and lacks_large(each["data"])
        ]
        if lacking:
            turn_ids = [each["turn_id"] for each in lacking]
            found = await self._database.fetch(*SQL.held_media(**here, turn_ids=turn_ids))
            restored = media.with_media(here["project_id"], lacking, found)
            for each, whole in zip(lacking, restored, strict=True):
                each |= whole
        return [_held_object(here["thread_id"], row, each) for row, each in zip(rows, opened, strict=True)]


def _held_object(thread_id: UUID, row: asyncpg.Record, opened: dict[str, Any]) -> HeldObject:
    source = SOURCES[row["source"]]
    if source.kind == "item":
        item = {"position": opened["position"], "origin": opened["origin"], "item": stored_item(opened).shown}
        return _object(thread_id, row, item, opened)
    content = {name: _value(name, opened[name], rows=source.rows) for name in source.shown}
    return _object(thread_id, row, content, opened)


def _object(thread_id: UUID, row: asyncpg.Record, content: dict[str, Any], opened: Mapping[str, Any]) -> HeldObject:
    return {
        "id": f"held_{row['id'].hex}",
        "object": "held",
        "kind": SOURCES[row["source"]].kind,
        "thread_id": ids.thread_id(thread_id),
        "turn_id": ids.optional_turn_id(row["turn_id"]),
        "user": row["user_id"],
        "kept_at": int(row["kept_at"].timestamp()),
        "kept_until": None if row["keep_until"] is None else int(row["keep_until"].timestamp()),
        "content": content,
        **marked(opened),
    }


def _thread_object(row: asyncpg.Record) -> HeldThreadObject:
    return {
        "id": ids.thread_id(row["thread_id"]),
        "object": "held.thread",
        "user": row["user_id"],
        "exists": row["there"],
        "contents": row["contents"],
        "first_kept_at": int(row["first_kept_at"].timestamp()),
        "last_kept_at": int(row["last_kept_at"].timestamp()),
    }


def _key(name: str, value: Any) -> Any:
    """Convert a column that binds a ciphertext from its JSON form."""
    if name in KEYS:
        return UUID(value)
    return bytes.fromhex(value.removeprefix("\\x")) if name == "digest" else value


def _value(name: str, value: Any, *, rows: Rows) -> Any:
    if value is None or name in rows.columns:
        return value
    if name in TURNS:
        return ids.turn_id(UUID(value))
    return int(datetime.fromisoformat(value).timestamp()) if name.endswith("_at") else value
