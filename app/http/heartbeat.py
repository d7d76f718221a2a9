"""Heartbeats of event streams: comments in a silent stream, so that no proxy or client takes its connection for dead.

Comments are no events: they have no number, are never stored, and every reader of server-sent events skips them.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.http.describing import EVENTS, HEARTBEAT_HEADER
from app.http.errors import APIError, BadRequest
from app.http.fields import fields_of
from app.http.services import services
from app.settings import Connected
from app.telemetry import metrics

COMMENT = b": keep-alive\n"
"""One line. Once it has seen an `id:` line, the `openai` client in Python takes a blank line behind a comment for an
event without data, and fails on it."""

_HEARTBEAT = HEARTBEAT_HEADER.lower().encode()

UNBUFFERED = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
"""Headers that keep proxies from holding a stream back, or from compressing it in blocks."""


def heartbeat_seconds(request: HTTPConnection) -> float:
    """Return the seconds of silence after which the streams of a request have a heartbeat; 0 for none.

    Raises:
        BadRequest: the header `Everthread-Heartbeat` is neither `on` nor `off`.
    """
    asked = fields_of(request.scope).get(_HEARTBEAT, b"on")
    if asked not in (b"on", b"off"):
        raise BadRequest(f"'{HEARTBEAT_HEADER}' must be 'on' or 'off'.", param=HEARTBEAT_HEADER)
    return services(request)[Connected].stream_heartbeat_seconds if asked == b"on" else 0.0


class Heartbeats:
    """The timer of one stream's heartbeats, running while this context lasts.

    An event costs no timer and no task: the stream sets `silent_since`, and the timer reads it when it runs out. While
    an event or a heartbeat waits for a slow reader, no further heartbeat is made.
    """

    def __init__(self, beat: Callable[[], Coroutine[Any, Any, None]], seconds: float) -> None:
        """Args: beat: sends a heartbeat. seconds: the silence before it; 0 for no heartbeats."""
        self._beat = beat
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._beating: asyncio.Task[None] | None = None
        self.silent_since: float | None = self._loop.time()
        """The loop's time at which the last event was sent; None while one is being sent."""

    def __enter__(self) -> "Heartbeats":
        if self._seconds:
            self._timer = self._loop.call_later(self._seconds, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._beating is not None:
            self._beating.cancel()

    def _look(self) -> None:
        silent = 0.0 if self.silent_since is None else self._loop.time() - self.silent_since
        if silent >= self._seconds:
            silent = 0.0
            if self._beating is None or self._beating.done():
                self._beating = self._loop.create_task(self._beat())
        self._timer = self._loop.call_later(self._seconds - silent, self._look)


class AwaitedStream(Response):
    """A stream whose first event is still being waited for.

    The first heartbeat sends the status 200. An error before it is raised, and gets its own status; an error after it
    is told in the stream.
    """

    ends_with_client = False
    """True to stop waiting when the client has left; this is noticed from the first heartbeat on."""

    def __init__(self, seconds: float) -> None:
        """Args: seconds: the silence before a heartbeat; 0 for no heartbeats."""
        self.seconds = seconds
        self.committed = False
        """True once the status 200 was sent."""
        self.background = None

    async def opened(self) -> Response:
        """Return the response, once it has something to send.

        Raises:
            APIError: there is none.
            ClientDisconnect: the client has left.
        """
        raise NotImplementedError

    def first_headers(self) -> dict[str, str]:
        """Return the headers that are known when the first heartbeat is sent."""
        return {}

    def closing_bytes(self, error: APIError) -> bytes:
        """Return the end of a stream that has had nothing but heartbeats."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response | None = None
        watching: asyncio.Task[None] | None = None
        last = b""

        async def beat() -> None:
            nonlocal watching
            if not self.committed:
                headers = {**UNBUFFERED, **self.first_headers()}
                raw = Response(headers=headers, media_type=EVENTS).raw_headers
                raw = [header for header in raw if header[0] != b"content-length"]
                await send({"type": "http.response.start", "status": 200, "headers": raw})
                self.committed = True
                if self.ends_with_client:
                    watching = asyncio.create_task(watch(receive, lambda: held.reschedule(-math.inf)))
            await send({"type": "http.response.body", "body": COMMENT, "more_body": True})

        try:
            async with asyncio.timeout(None) as held:
                with Heartbeats(beat, self.seconds):
                    response = await self.opened()
        except APIError as error:
            if not self.committed:
                raise
            metrics.of(metrics.REFUSED_REQUESTS, str(error.status), error.meaning).inc()
            last = self.closing_bytes(error)
        except ClientDisconnect:
            if not self.committed:
                raise
        except TimeoutError:
            if not held.expired():
                raise
        finally:
            if watching is not None:
                watching.cancel()
        if response is None:
            await send({"type": "http.response.body", "body": last, "more_body": False})
        elif self.committed:
            await response(scope, receive, _without_start(send))
        else:
            await response(scope, receive, send)


async def watch(receive: Receive, left: Callable[[], object]) -> None:
    """Call `left` when the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    left()


def _without_start(send: Send) -> Send:
    async def pass_on(message: Message) -> None:
        if message["type"] != "http.response.start":
            await send(message)

    return pass_on
