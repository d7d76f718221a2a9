"""The contents of threads: created with messages, read back, forked, and deleted."""

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired
from uuid import UUID

from sqlalchemy.sql import func
from typing_extensions import TypedDict

from app.accounts.pool import Accounts
from app.chain.context import Context, ContextObject
from app.chain.live_ids import LiveIds
from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.history.calls import parse_call, unknown_call
from app.history.edits import append_items
from app.history.erase import erase
from app.history.forks import Forks
from app.history.playback import Part, Tempo, play
from app.holds.doors import check_thread
from app.http.describing import Deleted, ErrorFields
from app.http.errors import APIError, BadRequest, NotFound
from app.http.pages import Page, list_object
from app.items.client_door import items_of
from app.items.user_items import is_for_users
from app.limits.room import check_items, check_room
from app.limits.service import RateLimits
from app.projects.auth import Caller
from app.provider.account import account
from app.threads import store as threads
from app.threads.address import ById, ThreadAddress, unknown
from app.threads.app_messages import kept_for_app
from app.threads.schemas import (
    BulkResult,
    ThreadCreate,
    ThreadFork,
    ThreadObject,
    ThreadsBulk,
    thread_object,
)
from app.threads.service import columns, shown, with_trail_key
from app.trail.users import UserKeys
from app.turns.cancel_signals import CancelSignals
from app.turns.event_log import EventLog
from app.turns.rows import BranchRow, ItemRow, LinkRow, ThreadRow
from app.turns.service import Turns
from app.turns.store import TurnStore

MOST_SIBLINGS = 100
"""Maximum number of turns in a list of siblings."""

SQL = statements_of(__file__)


class BranchObject(TypedDict):
    id: str
    """Id of its last turn."""
    object: Literal["branch"]
    status: str
    head: bool
    created_at: int | None


class SiblingObject(TypedDict):
    id: str
    """Id of the turn."""
    object: Literal["turn.sibling"]
    status: str
    continuation: str | None
    model: str
    created_at: int


class LinkObject(TypedDict):
    id: str
    """Id of the turn."""
    object: Literal["chain.link"]
    number: int
    """Number of the turn in the thread that created it."""
    parent_id: str | None
    created_at: int
    status: str
    continuation: str | None
    continuation_reason: str | None
    model: str
    provider: str | None
    account: str | None
    """As calls and the audit trail name it."""
    context: ContextObject | None
    response_id: str | None
    response_created_at: int | None
    response_expires_at: int | None
    live: bool
    preview: NotRequired[str | None]
    """Beginning of its last input message; null if it has none, or a long one. Present with `all_branches`."""


@dataclass(frozen=True, slots=True)
class TurnsPage:
    """Turns of a branch, in the order of the page that was asked for."""

    turns: Sequence[UUID]
    has_more: bool

    @property
    def ends(self) -> dict[str, str | None]:
        """The cursors of the pages before and after this one."""
        shown = [ids.turn_id(turn_id) for turn_id in (*self.turns[:1], *self.turns[-1:])]
        return {"first_id": shown[0] if shown else None, "last_id": shown[-1] if shown else None}


class History:
    def __init__(
        self,
        database: Database,
        forks: Forks,
        users: UserKeys,
        store: TurnStore,
        turns: Turns,
        live_ids: LiveIds,
        event_log: EventLog,
        signals: CancelSignals,
        limits: RateLimits,
        *,
        accounts: Accounts,
        margin_seconds: float,
    ) -> None:
        self._database = database
        self._forks = forks
        self._names = forks.names
        self._users = users
        self._store = store
        self._turns = turns
        self._live_ids = live_ids
        self._event_log = event_log
        self._signals = signals
        self._limits = limits
        self._accounts = accounts
        self._margin_seconds = margin_seconds

    async def create_thread(self, caller: Caller, sent: ThreadCreate) -> ThreadObject:
        check_items(caller, len(sent.messages or ()), "messages")
        items = items_of(sent.messages, "messages") if sent.messages else []
        await check_room(self._limits, caller, sent.user, makes_thread=True)
        values = await with_trail_key(self._users, caller.project_id, columns(sent))
        async with self._database.session() as session:
            thread = await threads.add(session, self._names, caller.actor, caller.project_id, values)
            if items:
                await append_items(session, caller.actor, thread, items)
                await session.flush()
                await session.refresh(thread)
            return thread_object(thread)

    async def delete_thread(self, caller: Caller, address: ThreadAddress) -> Deleted:
        async with self._database.session() as session:
            thread = await threads.locked(session, caller.project_id, address)
            if thread is None:
                raise unknown(address)
            await check_thread(session, caller, thread.id, thread.user_id, deletes=True)
            erased = await erase(session, self._names, caller.actor, thread)
        await erased.forget(self._live_ids, self._event_log, self._signals)
        return {"id": ids.thread_id(thread.id), "object": "thread.deleted", "deleted": True}

    async def bulk(self, caller: Caller, sent: ThreadsBulk) -> dict[str, Any]:
        """Archive, take out of the archive, or delete threads, and say of each what came of it."""
        results: list[BulkResult] = []
        for given in dict.fromkeys(sent.ids):
            error: ErrorFields | None = None
            try:
                await self._do(caller, sent.action, given)
            except APIError as refused:
                error = refused.body()["error"]
            results.append({"id": given, "done": error is None, "error": error})
        return list_object(results, lambda result: result, has_more=False)

    async def _do(self, caller: Caller, action: Literal["archive", "unarchive", "delete"], given: str) -> None:
        id_ = ids.parse(given, ids.THREAD_PREFIXES)
        if id_ is None:
            raise NotFound(f"There is no thread {given[:80]!r}.", param="ids", code="thread_not_found")
        if action == "delete":
            await self.delete_thread(caller, ById(id_))
            return
        values = {"archived_at": func.now() if action == "archive" else None}
        async with self._database.session() as session:
            changed = await threads.change(session, self._names, caller.actor, caller.project_id, ById(id_), values)
        if changed is None:
            raise unknown(ById(id_))

    async def fork(self, caller: Caller, address: ThreadAddress, sent: ThreadFork) -> ThreadObject:
        """A new thread that shares this one's history up to a turn."""
        values = await with_trail_key(self._users, caller.project_id, columns(sent))
        user = sent.user
        if "user" not in sent.model_fields_set:
            async with self._database.session() as session:
                thread = await threads.get(session, caller.project_id, address)
                user = None if thread is None else thread.user_id
        if caller.grant.user is not None and sent.turn_id is not None:
            head = (await self._store.thread(caller.project_id, address))["head_turn_id"]
            if await self._store.lost_messages(caller.project_id, head, sent.turn_id):
                raise kept_for_app("turn_id")
        await check_room(self._limits, caller, user, makes_thread=True)
        async with self._database.session() as session:
            source = await threads.locked(session, caller.project_id, address)
            if source is None:
                raise unknown(address)
            return await shown(
                session, caller, await self._forks.fork(session, caller.actor, source, sent.turn_id, values)
            )

    async def calls(
        self, caller: Caller, address: ThreadAddress, turn_id: str, *, bodies: bool = True
    ) -> tuple[UUID, list[dict[str, Any]]]:
        row = await self._turns.row(caller, address, turn_id)
        return row["id"], await self._store.calls(caller.project_id, row["id"], bodies=bodies)

    async def siblings(self, caller: Caller, address: ThreadAddress, turn_id: str) -> dict[str, Any]:
        """List the turns that continue from the same turn as this one, itself among them, oldest first."""
        row = await self._turns.row(caller, address, turn_id)
        place = {"project_id": caller.project_id, "bucket": ids.bucket_of(row["id"]), "thread_id": row["thread_id"]}
        limit = MOST_SIBLINGS + 1
        asked = (
            SQL.roots(**place, limit=limit)
            if row["parent_id"] is None
            else SQL.siblings(**place, parent_id=row["parent_id"], limit=limit)
        )
        rows = await self._database.fetch(*asked)

        def show(row: Any) -> SiblingObject:
            return {
                "id": ids.turn_id(row["id"]),
                "object": "turn.sibling",
                "status": row["status"],
                "continuation": row["continuation"],
                "model": row["model"],
                "created_at": int(row["created_at"].timestamp()),
            }

        return list_object(rows[:MOST_SIBLINGS], show, has_more=len(rows) > MOST_SIBLINGS)

    async def call(self, caller: Caller, call_id: str) -> tuple[UUID, dict[str, Any]]:
        """A call by its own id, with its turn's."""
        turn_id, attempt = parse_call(call_id)
        for row in await self._store.calls(caller.project_id, turn_id):
            if row["attempt"] == attempt:
                return turn_id, row
        raise unknown_call(call_id)

    async def play(
        self, caller: Caller, address: ThreadAddress, until: str | None, tempo: Tempo, part: Part
    ) -> AsyncIterator[bytes]:
        """Return the events of a branch or of a part of it as they happened, up to its head or to another turn."""
        _, last = await self._branch(caller, address, until)
        return play(self._store, caller.project_id, last, tempo, part)

    async def branches(self, caller: Caller, address: ThreadAddress, page: Page) -> dict[str, Any]:
        """The ends of a thread's branches, latest first. The head is one of them."""
        thread = await self._store.thread(caller.project_id, address)
        rows = await self._store.branches(caller.project_id, thread["id"], page)

        def show(row: BranchRow) -> BranchObject:
            return {
                "id": ids.turn_id(row["id"]),
                "object": "branch",
                "status": row["status"],
                "head": row["id"] == thread["head_turn_id"],
                "created_at": _seconds(row["created_at"]),
            }

        return list_object(rows[: page.limit], show, has_more=len(rows) > page.limit)

    async def messages(
        self, caller: Caller, address: ThreadAddress, page: Page, *, until: str | None, newest: int | None
    ) -> tuple[ThreadRow, list[ItemRow], TurnsPage]:
        """The items of a page of turns of a thread's branch, in the page's order; and the thread."""
        thread, found = await self._page_of_turns(caller, address, page, until, newest, with_items=True)
        items = await self._store.items(caller.project_id, found.turns)
        rows = [row for turn_id in found.turns for row in items[turn_id][:: 1 if page.order == "asc" else -1]]
        if caller.grant.user is not None:
            rows = [row for row in rows if is_for_users(row["data"])]
        return thread, rows, found

    async def chain(self, caller: Caller, address: ThreadAddress, page: Page, until: str | None) -> dict[str, Any]:
        """Return how each turn of a branch reached the model, and whether it can be chained."""
        _, found = await self._page_of_turns(caller, address, page, until)
        rows = await self._store.chain(caller.project_id, found.turns)
        bindings = {each.binding for each in await self._accounts.of(caller.project_id)}
        return list_object(rows, lambda row: self._link(row, bindings), has_more=found.has_more)

    async def all_links(self, caller: Caller, address: ThreadAddress, page: Page) -> dict[str, Any]:
        """Return the links of the turns of all branches, each with the beginning of its input."""
        thread = await self._store.thread(caller.project_id, address)
        rows, more = await self._store.links(caller.project_id, thread["id"], page)
        previews = await self._store.previews(caller.project_id, [row["id"] for row in rows])
        bindings = {each.binding for each in await self._accounts.of(caller.project_id)}

        def show(row: LinkRow) -> LinkObject:
            return {**self._link(row, bindings), "preview": previews.get(row["id"])}

        return list_object(rows, show, has_more=more)

    async def _page_of_turns(
        self,
        caller: Caller,
        address: ThreadAddress,
        page: Page,
        until: str | None,
        newest: int | None = None,
        *,
        with_items: bool = False,
    ) -> tuple[ThreadRow, TurnsPage]:
        """A page of the turns of a branch, which ends at the thread's head or another turn; and the thread.

        Args:
            until: the branch's last turn; the head if it is None. Turns before another one are those of its own branch.
            newest: so many turns, read from the end of the branch, or from the page's `before`, and oldest first.
            with_items: True if their items are read, which a page must have room for.

        Raises:
            APIError: no such turn; or a cursor that is not in the branch.
        """
        if newest is not None and (page.after is not None or page.order == "desc"):
            raise BadRequest("'turns' gives the last turns, oldest first. Send 'limit' instead.", param="turns")
        own_branch = page.before is not None and page.order == "asc"
        if own_branch and until is not None:
            raise BadRequest("'before' and 'until' exclude each other. Send one of them.", param="before")
        thread = await self._store.thread(caller.project_id, address)
        last, (cursor, latest_first) = thread["head_turn_id"], page.scan()
        cursor_id = None if cursor is None else ids.parse(cursor, ids.TURN_PREFIXES)
        if until is not None:
            last = (await self._turns.of_thread(caller, thread["id"], until))["id"]
        elif own_branch:
            # A deleted turn is a good cursor too.
            if cursor_id is None or not await self._store.in_history(caller.project_id, thread["id"], cursor_id):
                raise NotFound(
                    f"There is no turn {str(cursor)[:80]!r} in this thread.", param="before", code="turn_not_found"
                )
            last = cursor_id
        limit, first = newest or page.limit, 0 if cursor is None else 1  # The cursor itself comes first.
        rows: list[UUID] = []
        if last is not None and (cursor is None or cursor_id is not None):
            rows = await self._store.page_of_turns(
                caller.project_id,
                last,
                cursor=cursor_id,
                latest_first=latest_first or newest is not None,
                limit=limit + 1 + first,
            )
        if cursor is not None and not rows:
            raise page.bad_cursor()
        turns: Sequence[UUID] = rows[first : first + limit]
        if with_items:
            turns = await self._store.on_a_page(caller.project_id, turns)
        upwards = page.before is not None or newest is not None
        return thread, TurnsPage(turns[::-1] if upwards else turns, len(rows) > first + len(turns))

    def _link(self, row: LinkRow, bindings: set[str]) -> LinkObject:
        expires_at = row["response_expires_at"]
        return {
            "id": ids.turn_id(row["id"]),
            "object": "chain.link",
            "number": row["seq"],
            "parent_id": ids.optional_turn_id(row["parent_id"]),
            "created_at": int(row["created_at"].timestamp()),
            "status": row["status"],
            "continuation": row["continuation"],
            "continuation_reason": row["continuation_reason"],
            "model": row["model"],
            "provider": None if row["binding"] is None else row["binding"].partition("#")[0],
            "account": None if row["binding"] is None else account(row["binding"]),
            "context": None if row["context"] is None else Context.from_json(row["context"]).shown(),
            "response_id": row["response_id"],
            "response_created_at": _seconds(row["response_created_at"]),
            "response_expires_at": _seconds(expires_at),
            "live": (
                row["status"] in ("completed", "incomplete")
                and expires_at is not None
                and row["response_unknown_at"] is None
                and row["binding"] in bindings
                and time.time() < expires_at.timestamp() - self._margin_seconds
            ),
        }

    async def _branch(self, caller: Caller, address: ThreadAddress, until: str | None) -> tuple[ThreadRow, UUID | None]:
        thread = await self._store.thread(caller.project_id, address)
        if until is None:
            return thread, thread["head_turn_id"]
        row = await self._turns.of_thread(caller, thread["id"], until)
        return thread, row["id"]


def _seconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp())
