"""The client that asked for a turn: whether it has gone away before the first byte of its answer."""

import asyncio
from typing import Any

from starlette.types import Receive

WATCH_AFTER_SECONDS = 0.2
"""Before that nobody is watched for: the `openai` clients wait longer than this until they try again."""


class ClientLeft(Exception):
    """Nobody is there to be answered."""


class Client:
    """A request's client, its body read, for as long as this context lasts."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.has_left = False

    def __enter__(self) -> "Client":
        self._timer = self._loop.call_later(WATCH_AFTER_SECONDS, self._begin_to_watch)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    async def wait_for(self, answerable: "asyncio.Future[Any]") -> None:
        """Wait until there is something to answer with. What is waited for goes on whoever leaves.

        Raises:
            ClientLeft: the client has gone first.
        """
        if not answerable.done() and not self.has_left:
            self._waiter = self._loop.create_future()
            answerable.add_done_callback(self._wake)
            try:
                await self._waiter
            finally:
                answerable.remove_done_callback(self._wake)
        if not answerable.done():
            raise ClientLeft

    def _begin_to_watch(self) -> None:
        self._watching = self._loop.create_task(self._watch())

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_left = True
        self._wake()

    def _wake(self, _: object = None) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
