"""The client that asked for a turn: tells whether it, or its right to the answer, has gone before the first byte."""

import asyncio
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from app.projects.credential_watch import Listener
from app.turns.answerable import Answerable
from app.turns.running import Running

WATCH_AFTER_SECONDS = 0.2
"""Before that nobody is watched for: the `openai` clients wait longer than this until they try again."""


class ClientLeft(ClientDisconnect):
    """Nobody is there to be answered."""


class Client:
    """A request's client, its body read, for as long as this context lasts."""

    def __init__(self, receive: Receive, listener: Listener | None = None) -> None:
        """Args: listener: of the credential that the request came with."""
        self._receive = receive
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._watching: asyncio.Task[None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.has_left = False
        self.running: Running | None = None
        """The turn that it waits for, once that is open in this worker."""

    def __enter__(self) -> "Client":
        if self._listener is not None:
            self._listener.begin(self._wake)
        self._timer = self._loop.call_later(WATCH_AFTER_SECONDS, self._begin_to_watch)
        return self

    def __exit__(self, *_: object) -> None:
        if self._listener is not None:
            self._listener.finish()
        if self._timer is not None:
            self._timer.cancel()
        if self._watching is not None:
            self._watching.cancel()

    async def wait_for(self, answerable: "Answerable | asyncio.Future[Any]") -> None:
        """Wait until there is something to answer with. What is waited for goes on whoever leaves.

        Raises:
            ClientLeft: the client has gone first.
            APIError: its credential has been revoked first.
        """
        if not answerable.done() and not self._is_gone():
            self._waiter = self._loop.create_future()
            answerable.add_done_callback(self._wake)
            try:
                await self._waiter
            finally:
                answerable.remove_done_callback(self._wake)
        if not answerable.done():
            self.check()

    def check(self) -> None:
        """Raise the same if the client, or its right to be answered, has gone."""
        if self._listener is not None and self._listener.end is not None:
            raise self._listener.error()
        if self.has_left:
            raise ClientLeft

    def _is_gone(self) -> bool:
        return self.has_left or (self._listener is not None and self._listener.end is not None)

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
