"""A session for openai-agents that stores its items in a thread. Needs `everthread-client[agents]`."""

import asyncio
from typing import Any, cast

from agents.items import TResponseInputItem
from agents.memory import SessionABC, SessionSettings
from agents.memory.session_settings import resolve_session_limit

from everthread_client._async_client import AsyncEverthread
from everthread_client.types import Item, ThreadFields

WITHOUT_ID = ("message", "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output")
"""Types of items whose id says nothing to a model. Everthread's own ids are removed, as other providers refuse them."""


class EverthreadSession(SessionABC):
    """The items of one conversation, kept in a thread.

    `session_id` is the thread's name, or its id if it begins with `thread_`. The first use creates a named thread.
    Reads and writes of one session object run one after the other.
    """

    _ignore_ids_for_matching = True
    """Tells the runner to compare items without their ids, which change when they are stored."""

    def __init__(
        self,
        session_id: str,
        client: AsyncEverthread,
        *,
        user: str | None = None,
        session_settings: SessionSettings | None = None,
    ) -> None:
        """Args:
        user: the user of a thread that is created.
        session_settings: `limit` is the number of newest items that a run starts with.
        """
        self.session_id = session_id
        self.session_settings = session_settings or SessionSettings()
        self._client = client
        self._user = user
        self._thread: str | None = session_id if session_id.startswith("thread_") else None
        self._lock = asyncio.Lock()

    async def thread_id(self) -> str:
        """Return the id of the thread, which is created if there is none."""
        if self._thread is None:
            fields: ThreadFields = {} if self._user is None else {"user": self._user}
            thread = await self._client.threads.get_or_create(self.session_id, **fields)
            self._thread = thread["id"]
        return self._thread

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the items, or the newest `limit` of them, in their order."""
        async with self._lock:
            most = resolve_session_limit(limit, self.session_settings)
            return [_for_model(item) for item in await self._newest(most)]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items: all of them, or none if the request fails."""
        async with self._lock:
            if items:
                await self._client.threads.items.add(await self.thread_id(), [cast(Item, item) for item in items])

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove and return the newest item."""
        async with self._lock:
            for item in await self._newest(1):
                await self._client.threads.items.delete(await self.thread_id(), item["id"])
                return _for_model(item)
            return None

    async def clear_session(self) -> None:
        """Delete all items, the newest first. The thread stays, with its name and title."""
        async with self._lock:
            for item in reversed(await self._newest(None)):
                await self._client.threads.items.delete(await self.thread_id(), item["id"])

    async def _newest(self, most: int | None) -> list[Item]:
        """Return the newest items in their order; all of them if `most` is None."""
        found: list[Item] = []
        if most is not None and most <= 0:
            return found
        page = 100 if most is None else min(most, 100)
        async for item in self._client.threads.items.list(await self.thread_id(), limit=page, order="desc"):
            found.append(item)
            if len(found) == most:
                break
        found.reverse()
        return found


def _for_model(item: Item) -> TResponseInputItem:
    """Return an item in the form in which a run sends it."""
    shown: dict[str, Any] = dict(item)
    if shown.get("type") in WITHOUT_ID:
        shown.pop("id", None)
    match shown:
        case {"type": "message", "role": "user", "content": [{"type": "input_text", "text": str(text)}]}:
            # A run writes a text like this, and recognizes its own items by comparing them.
            return {"role": "user", "content": text}
    return cast(TResponseInputItem, shown)
