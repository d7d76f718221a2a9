"""Responses that outlast their request's authentication: they end with the credential that opened them."""

import asyncio
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.http.describing import NDJSON
from app.http.errors import APIError, ServiceStopping
from app.http.heartbeat import COMMENT, Heartbeats, watch
from app.process.stopping import begun
from app.projects.credential_watch import Listener

CLOSING_SECONDS = 2.0
"""The longest time that a client that does not read delays the end of its stream."""


class AuthorizedStream(Response):
    """A streamed body that ends, with closing bytes that tell why, when its listener does."""

    charset = "utf-8"

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        listener: Listener,
        headers: dict[str, str] | None = None,
        *,
        media_type: str,
        heartbeat: float = 0.0,
        on_left: Callable[[], object] | None = None,
        ends_with_client: bool = False,
    ) -> None:
        """Args:
        heartbeat: the seconds of silence before a heartbeat (app/http/heartbeat.py); 0 for none.
        on_left: is called when the client disconnects, or its credential ends, before the end.
        ends_with_client: stop reading `chunks` when the client disconnects. From the first heartbeat on, this is so
            in any case.
        """
        self.status_code = 200
        self.background = None
        self.media_type = media_type
        self._chunks = chunks
        self._heartbeat = heartbeat
        self._listener = listener
        self._on_left = on_left
        self._ends_with_client = ends_with_client
        self.init_headers(headers)
        self.raw_headers = [header for header in self.raw_headers if header[0] != b"content-length"]

    def closing_bytes(self, error: APIError) -> bytes:
        """Return what a client reads at the end of a body that was cut off."""
        raise NotImplementedError

    def passed(self, chunk: bytes) -> None:
        """Take note of a chunk that was sent."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        watching: asyncio.Task[None] | None = None
        clock, ended = asyncio.get_running_loop().time, False

        async def beat() -> None:
            nonlocal watching
            if watching is None:
                watching = asyncio.create_task(watch(receive, cut))
            await send({"type": "http.response.body", "body": COMMENT, "more_body": True})

        try:
            async with asyncio.timeout(None) as held:

                def cut() -> None:
                    held.reschedule(-math.inf)

                if self._on_left is not None or self._ends_with_client:
                    watching = asyncio.create_task(watch(receive, self._on_left or cut))
                with self._listener.calling(cut), Heartbeats(beat, self._heartbeat) as heartbeats:
                    async for chunk in self._chunks:
                        if ended := self._listener.end is not None:
                            break  # Python 3.11's wait_for can swallow the cancellation.
                        heartbeats.silent_since = None
                        await send({"type": "http.response.body", "body": chunk, "more_body": True})
                        heartbeats.silent_since = clock()
                        self.passed(chunk)
            if ended and not await self._cut_off(send):
                return
        except TimeoutError:
            if not held.expired():
                raise
            if self._listener.end is not None and not await self._cut_off(send):
                return
        except asyncio.CancelledError:
            # uvicorn cancels a request once, when the process ends: its task ends with these bytes.
            if not begun.is_set() or not await self._end(send, ServiceStopping()):
                raise
        finally:
            if watching is not None:
                watching.cancel()
            if isinstance(self._chunks, AsyncGenerator):
                await self._chunks.aclose()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _cut_off(self, send: Send) -> bool:
        """End a body whose credential has ended. False if the client does not read the closing bytes."""
        if self._on_left is not None:
            self._on_left()
        return await self._end(send, self._listener.error())

    async def _end(self, send: Send, error: APIError) -> bool:
        """Send the closing bytes. False if the client does not read them: its connection is closed as it is."""
        try:
            async with asyncio.timeout(CLOSING_SECONDS):
                last = self.closing_bytes(error)
                await send({"type": "http.response.body", "body": last, "more_body": True})
        except TimeoutError:
            return False
        return True


class Export(AuthorizedStream):
    """Lines of JSON. The last line of an export that was cut off is an object `error`."""

    def __init__(self, lines: AsyncIterator[bytes], listener: Listener, *, media_type: str = NDJSON) -> None:
        super().__init__(lines, listener, media_type=media_type, ends_with_client=True)
        self._in_a_line = False

    def passed(self, chunk: bytes) -> None:
        self._in_a_line = not chunk.endswith(b"\n")

    def closing_bytes(self, error: APIError) -> bytes:
        said = orjson.dumps({"object": "error", **error.body()}) + b"\n"
        return b"\n" + said if self._in_a_line else said
