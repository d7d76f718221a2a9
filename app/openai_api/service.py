"""Responses and conversations over turns and threads: a response is a turn, a conversation is a thread."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NotRequired
from uuid import UUID

from typing_extensions import TypedDict

from app.chain.live_ids import LiveIds
from app.db import ids
from app.db.engine import Database
from app.db.read_horizon import ReadHorizon
from app.history.edits import Edits, append_items
from app.holds.doors import check_thread
from app.http.describing import Deleted
from app.http.errors import APIError, BadRequest, NotFound
from app.http.pages import Page, list_object
from app.items.kinds import type_of
from app.items.stored import StoredItem, stored_item
from app.items.unreadable import marked
from app.items.user_items import is_for_users
from app.limits.room import check_growth
from app.limits.service import RateLimits
from app.openai_api.schemas import unknown_conversation, unknown_response
from app.projects.auth import Caller
from app.threads import store as threads
from app.threads.address import ById, OfTurn
from app.threads.app_messages import kept_for_app
from app.threads.names import Names
from app.threads.service import of_caller, with_trail_key
from app.threads.tables import Thread
from app.trail.users import UserKeys
from app.turns.event_log import EventLog
from app.turns.replay import Replay
from app.turns.rows import TurnRow
from app.turns.running import Running
from app.turns.show import stored_response
from app.turns.store import TurnStore

Order = Literal["asc", "desc"]


class OpenAI:
    def __init__(
        self,
        database: Database,
        names: Names,
        store: TurnStore,
        replay: Replay,
        live_ids: LiveIds,
        event_log: EventLog,
        horizon: ReadHorizon,
        limits: RateLimits,
        users: UserKeys,
    ) -> None:
        self._limits = limits
        self._users = users
        self._horizon = horizon
        self._replay = replay
        self._database = database
        self._names = names
        self._store = store
        self._edits = Edits(database, live_ids, event_log)

    async def response(self, caller: Caller, address: OfTurn) -> dict[str, Any]:
        row = await self._response(caller, address)
        items = await self._store.items(caller.project_id, [row["id"]])
        return stored_response(row, items[row["id"]])

    async def frames(self, caller: Caller, address: OfTurn, start: int) -> tuple[UUID, AsyncIterator[bytes]]:
        """Return the id of the response's thread, and the response's events from number `start` on.

        Raises:
            NotFound: there is no such response.
        """
        row = await self._response(caller, address)
        return row["thread_id"], self._replay.frames(caller.project_id, row["id"], start)

    async def delete_response(self, caller: Caller, address: OfTurn) -> Deleted:
        row = await self._response(caller, address)
        of_app = caller.grant.user and await self._store.lost_messages(caller.project_id, row["id"], row["parent_id"])
        if of_app:
            raise kept_for_app("response_id")
        await self._edits.delete_turn(caller, address)
        return {"id": ids.response_id(row["id"]), "object": "response", "deleted": True}

    async def cancel(self, caller: Caller, address: OfTurn) -> dict[str, Any]:
        """Stop a response that is being made. One that has ended stays as it is."""
        row = await self._response(caller, address)
        return stored_response(*await self._replay.cancelled(caller.project_id, row["id"]))

    async def input_items(self, caller: Caller, address: OfTurn, page: "ItemPage") -> dict[str, Any]:
        row = await self._response(caller, address)
        return await self._page(caller, row["id"], page, input_only=True)

    async def create_conversation(
        self, caller: Caller, items: Sequence[dict[str, Any]], metadata: dict[str, str]
    ) -> "ConversationObject":
        of_user = {} if caller.grant.user is None else {"user_id": caller.grant.user}
        values = await with_trail_key(self._users, caller.project_id, {"metadata_": metadata, **of_user})
        async with self._database.session() as session:
            thread = await threads.add(session, self._names, caller.actor, caller.project_id, values)
            if items:
                await append_items(session, caller.actor, thread, items)
            return conversation_object(thread)

    async def conversations(self, caller: Caller, page: Page) -> dict[str, Any]:
        filters = of_caller(caller, threads.Filters())
        async with self._database.session() as session:
            rows, more, _ = await threads.list_page(session, caller.project_id, filters, page, self._horizon)
        return list_object(rows, conversation_object, has_more=more)

    async def responses(self, caller: Caller, after: UUID | None, limit: int) -> dict[str, Any]:
        """The project's responses, the latest first.

        Raises:
            BadRequest: the cursor is no response of the project's.
        """
        found = await self._store.responses(caller.project_id, after, limit)
        if found is None:
            raise BadRequest("'after' must be the id of a response.", param="after", code="invalid_cursor")
        rows, has_more = found
        items = await self._store.items(caller.project_id, [row["id"] for row in rows])
        return list_object(rows, lambda row: stored_response(row, items[row["id"]]), has_more=has_more)

    async def conversation(self, caller: Caller, address: ById) -> "ConversationObject":
        async with self._database.session() as session:
            thread = await threads.get(session, caller.project_id, address)
        return conversation_object(_known(thread, address.id))

    async def update_conversation(
        self, caller: Caller, address: ById, metadata: dict[str, str]
    ) -> "ConversationObject":
        id_ = address.id
        async with self._database.session() as session:
            before = _known(await threads.get(session, caller.project_id, address), id_)
        growth = {"metadata": before.metadata_}, {"metadata": metadata}
        await check_growth(self._limits, caller, before.user_id, *growth)
        async with self._database.session() as session:
            values = {"metadata_": metadata}
            if metadata != before.metadata_:
                await check_thread(session, caller, id_, before.user_id)
            thread = await threads.change(session, self._names, caller.actor, caller.project_id, address, values)
            return conversation_object(_known(thread, id_))

    async def add_items(self, caller: Caller, address: ById, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        try:
            added = await self._edits.add_items(caller.actor, caller.project_id, address, items)
        except NotFound as error:
            raise unknown_conversation(ids.conversation_id(address.id)) from error
        kept = [StoredItem(type_of(item), id_, item) for id_, item in zip(added, items, strict=True)]
        return list_object(kept, shown_item, has_more=False)

    async def items(self, caller: Caller, address: ById, page: "ItemPage") -> dict[str, Any]:
        return await self._page(caller, await self._head(caller, address), page)

    async def item(self, caller: Caller, address: ById, item_id: str) -> dict[str, Any]:
        head = await self._head(caller, address)
        rows, _ = ([], False) if head is None else await self._store.page_of_items(
            caller.project_id, head, cursor=item_id, latest_first=True, limit=1
        )  # fmt: skip
        if not rows or (caller.grant.user is not None and not is_for_users(rows[0]["data"])):
            raise _unknown_item(item_id)
        return shown_item(stored_item(rows[0]))

    async def delete_item(self, caller: Caller, address: ById, item_id: str) -> "ConversationObject":
        conversation = await self.conversation(caller, address)
        if caller.grant.user is not None:
            found = await self._store.referenced(caller.project_id, [item_id], address.id)
            if item_id not in found or not is_for_users(found[item_id]["data"]):
                raise _unknown_item(item_id)
        if not await self._edits.delete_item(caller, address, item_id):
            raise _unknown_item(item_id)
        return conversation

    async def _page(
        self, caller: Caller, last: UUID | None, page: "ItemPage", *, input_only: bool = False
    ) -> dict[str, Any]:
        """A page of the items of the branch that ends with a turn, or of that turn's input.

        Raises:
            BadRequest: the cursor is none of these items.
        """
        cursor = 0 if page.after is None else 1  # The cursor's own item comes first.
        rows, cut = ([], False) if last is None else await self._store.page_of_items(
            caller.project_id, last, cursor=page.after, latest_first=page.order == "desc",
            limit=page.limit + 1 + cursor, input_only=input_only,
        )  # fmt: skip
        if cursor and not rows:
            raise BadRequest(
                f"'after' must be the id of an item of this list, not '{str(page.after)[:80]}'.",
                param="after",
                code="invalid_cursor",
            )
        rows = rows[cursor:]
        has_more = cut or len(rows) > page.limit
        return list_object(rows[: page.limit], lambda row: shown_item(stored_item(row)), has_more=has_more)

    async def _head(self, caller: Caller, address: ById) -> UUID | None:
        try:
            thread = await self._store.thread(caller.project_id, address)
        except NotFound as error:
            raise unknown_conversation(ids.conversation_id(address.id)) from error
        head: UUID | None = thread["head_turn_id"]
        return head

    async def _response(self, caller: Caller, address: OfTurn) -> TurnRow:
        row = await self._store.at(caller.project_id, address)
        if row is None or (row["continuation"] is None and row["status"] == "completed"):
            raise unknown_response(ids.response_id(address.turn))
        return row


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A page of items, by the id of an item."""

    limit: int
    order: Order
    after: str | None


def shown_item(kept: StoredItem) -> dict[str, Any]:
    """An item as OpenAI's clients expect it: complete, its message's content as parts."""
    item = {**kept.shown}
    if kept.type != "message":
        return item
    content = item.get("content")
    if isinstance(content, str):
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        part: dict[str, Any] = {"type": kind, "text": content}
        item["content"] = [{**part, "annotations": []} if kind == "output_text" else part]
    return {"status": "completed", **item}


class ConversationObject(TypedDict):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]
    unreadable: NotRequired[list[str]]
    """The fields that cannot be opened. Left out where there are none."""


def conversation_object(thread: Thread) -> ConversationObject:
    return {
        "id": ids.conversation_id(thread.id),
        "object": "conversation",
        "created_at": int(thread.created_at.timestamp()),
        "metadata": thread.metadata_,
        **marked(thread),
    }


def shown_response(running: Running, response: dict[str, Any]) -> dict[str, Any]:
    return response


def _known(thread: Thread | None, id_: UUID) -> Thread:
    if thread is None:
        raise unknown_conversation(ids.conversation_id(id_))
    return thread


def _unknown_item(item_id: str) -> APIError:
    return NotFound(f"Item with id '{item_id[:80]}' not found.", code="item_not_found")
