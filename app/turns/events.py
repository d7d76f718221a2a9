"""A running turn's events, to be followed by any number of listeners from any position."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import orjson

from app.http.errors import APIError
from app.http.heartbeat import UNBUFFERED
from app.projects.authorized_stream import AuthorizedStream
from app.projects.credential_watch import Listener

_IDS = re.compile(rb"^id: ([0-9a-f.;@]+)$", re.MULTILINE)


class Events:
    """Grows while the turn runs. Listeners never hold the writer up."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._frames: list[bytes] = []
        self._finished = False
        self._waiting: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def latest(self) -> bytes:
        return self._frames[-1]

    def since(self, start: int) -> list[bytes]:
        return self._frames[start:]

    def publish(self, frames: list[bytes]) -> None:
        self._frames.extend(frames)
        self._wake()

    def finish(self) -> None:
        self._finished = True
        self._wake()

    def follow(self, start: int = 0) -> AsyncIterator[bytes]:
        """Return an iterator of the frames from a position on, as many at a time as there are, until the turn's end."""
        return _Following(self, start)

    async def batches(self, start: int = 0) -> AsyncIterator[list[bytes]]:
        """Yield the same, frame by frame."""
        while new := await self.after(start):
            start += len(new)
            yield new

    async def after(self, start: int) -> list[bytes]:
        """Return the frames from a position on as soon as there is one; none if the turn has ended before."""
        while len(self._frames) <= start and not self._finished:
            future = self._loop.create_future()
            self._waiting.append(future)
            await future
        return self._frames[start:]

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


class _Following:
    """An iterator and no generator: to register an asynchronous generator costs the event loop more than a batch."""

    def __init__(self, events: Events, start: int) -> None:
        self._events = events
        self._start = start

    def __aiter__(self) -> "_Following":
        return self

    async def __anext__(self) -> bytes:
        new = await self._events.after(self._start)
        if not new:
            raise StopAsyncIteration
        self._start += len(new)
        return new[0] if len(new) == 1 else b"".join(new)


class EventStream(AuthorizedStream):
    """Server-sent events. A client that disconnects ends only its own stream.

    A stream whose credential has ended closes with an event `error`, which tells where to resume.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        listener: Listener,
        headers: dict[str, str] | None = None,
        *,
        heartbeat: float,
        on_left: Callable[[], object] | None = None,
        ends_with_client: bool = False,
        resumed_by: Literal["starting_after", "Last-Event-ID"] | None = "starting_after",
    ) -> None:
        """Args: resumed_by: the parameter or header that resumes the stream; None if it begins again."""
        super().__init__(
            frames,
            listener,
            {**(headers or {}), **UNBUFFERED},
            media_type="text/event-stream",
            heartbeat=heartbeat,
            on_left=on_left,
            ends_with_client=ends_with_client,
        )
        self._resumed_by = resumed_by
        self._last = b""

    def passed(self, chunk: bytes) -> None:
        if chunk.startswith(b"id: "):
            self._last = chunk

    def closing_bytes(self, error: APIError) -> bytes:
        ids = _IDS.findall(self._last)
        return ended_frame(error, ids[-1].decode() if ids else None, self._resumed_by)


def ended_frame(
    error: APIError, last_id: str | None, resumed_by: Literal["starting_after", "Last-Event-ID"] | None
) -> bytes:
    """Return the event that ends a stream before its end: its listener may read it no longer, or the worker stops.

    It has no `id:` line, so that a browser resumes after the last event of the stream itself.
    """
    said: dict[str, Any] = {"type": "error", "code": error.code, "message": error.message, "param": None}
    again = "Open it again" if error.status == 503 else "Open it again with a valid credential"
    if resumed_by == "starting_after":
        number = -1 if last_id is None else int(last_id)
        said |= {"message": f"{error.message} {again} and starting_after={number}.", "sequence_number": number}
        said["starting_after"] = number
    elif resumed_by is not None and last_id is not None:
        said |= {"message": f"{error.message} {again} and the header {resumed_by}: {last_id}", "last_event_id": last_id}
    else:
        said["message"] = f"{error.message} {again}."
    return b"event: error\ndata: %b\n\n" % orjson.dumps(said)
