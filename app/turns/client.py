"""The client that asked for a turn: whether it has gone away before the first byte of its answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import Receive

WATCH_AFTER_SECONDS = 0.2
"""Before that nobody is watched for: the `openai` clients wait longer than this until they try again."""


class ClientLeft(Exception):
    """Nobody is there to be answered."""


class Client:
    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._watching: asyncio.Task[None] | None = None

    @property
    def has_left(self) -> bool:
        return self._left.done()

    async def wait_for(self, answerable: "asyncio.Future[Any]") -> None:
        """Wait until there is something to answer with. What is waited for goes on whoever leaves.

        Raises:
            ClientLeft: the client has gone first.
        """
        if not answerable.done():
            await asyncio.wait((answerable, self._left), return_when=asyncio.FIRST_COMPLETED)
        if not answerable.done():
            raise ClientLeft

    async def watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._left.done():
            self._left.set_result(None)

    def begin_to_watch(self) -> None:
        self._watching = asyncio.ensure_future(self.watch())

    def end(self) -> None:
        if self._watching is not None:
            self._watching.cancel()


@asynccontextmanager
async def watched(receive: Receive) -> AsyncIterator[Client]:
    """A request's client, its body read, until it is answered."""
    client = Client(receive)
    timer = asyncio.get_running_loop().call_later(WATCH_AFTER_SECONDS, client.begin_to_watch)
    try:
        yield client
    finally:
        timer.cancel()
        client.end()
