"""A running turn's events, to be followed by any number of listeners from any position."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send


class Events:
    """Grows while the turn runs. Listeners never hold the writer up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._finished = False
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._frames)

    def since(self, start: int) -> list[bytes]:
        return self._frames[start:]

    def publish(self, frames: list[bytes]) -> None:
        self._frames.extend(frames)
        self._wake()

    def finish(self) -> None:
        self._finished = True
        self._wake()

    async def follow(self, start: int = 0) -> AsyncIterator[bytes]:
        """The frames from position `start`, as many at a time as there are, until the turn's end."""
        async for new in self.batches(start):
            yield new[0] if len(new) == 1 else b"".join(new)

    async def batches(self, start: int = 0) -> AsyncIterator[list[bytes]]:
        """The same, frame by frame."""
        while True:
            if start < len(self._frames):
                new = self._frames[start:]
                start += len(new)
                yield new
            elif self._finished:
                return
            else:
                future = self._loop.create_future()
                self._waiting.append(future)
                await future

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class EventStream(Response):
    """Server-sent events, written as they come. A client that goes away ends its own stream only."""

    media_type = "text/event-stream"
    charset = "utf-8"

    def __init__(
        self, frames: AsyncIterator[bytes], headers: dict[str, str], *, on_left: Callable[[], object] | None = None
    ) -> None:
        """Args: on_left: is called when the client goes away before the end."""
        self.status_code = 200
        self.background = None
        self._frames = frames
        self._on_left = on_left
        self.init_headers({**headers, "Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self.raw_headers = [header for header in self.raw_headers if header[0] != b"content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        watching = None if self._on_left is None else asyncio.create_task(_watch(receive, self._on_left))
        try:
            async for chunk in self._frames:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        finally:
            if watching is not None:
                watching.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _watch(receive: Receive, on_left: Callable[[], object]) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    on_left()
