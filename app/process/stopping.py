"""Stopping the process: signals, the times that each step may take, and the answers to requests that are cut off.

The steps after SIGTERM or Ctrl-C, each with its bound:

1. No new connections. Running turns finish within `EVERTHREAD_DRAIN_SECONDS`. From now on every turn that ends is
   written to the spool first and to Postgres after.
2. Turns that still run are closed with what they have said, and Postgres gets `CLOSE_SECONDS` to take what is written
   in the spool.
3. Requests that still run after `ANSWER_SECONDS` more are cancelled and answered with 503.
4. Background work ends within `LAST_SECONDS`.
"""

import asyncio
import math
import signal
import socket
import threading
from functools import partial
from types import FrameType
from typing import Any

import orjson
import uvicorn
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.supervisors import Multiprocess

from app.http.errors import ServiceStopping
from app.process.output import echo
from app.telemetry import metrics

CLOSE_SECONDS = 3.0
"""Time after the drain in which Postgres may still accept turns that are in the spool."""

ANSWER_SECONDS = 1.0
"""Time after that for sending the last answers."""

LAST_SECONDS = 5.0
"""Time after that for background work and connections to end."""

begun = threading.Event()
"""Set by the first SIGTERM or Ctrl-C."""

at_once = threading.Event()
"""Set by a second Ctrl-C: running turns are closed at once, as incomplete, with the output so far."""


def longest_seconds(drain_seconds: float) -> float:
    """Return the longest time from SIGTERM to the end of the process, as long as the disk takes what is written."""
    return _until_cancelled(drain_seconds) + LAST_SECONDS


def _until_cancelled(drain_seconds: float) -> int:
    return math.ceil(drain_seconds + CLOSE_SECONDS + ANSWER_SECONDS)


def stopping_message(seconds: float) -> str:
    return f"Stopping. Running turns have {seconds:g} seconds to finish (EVERTHREAD_DRAIN_SECONDS)."


class Config(uvicorn.Config):
    """uvicorn's configuration, whose processes note signals from before the application is loaded."""

    def __init__(self, app: str, *, drain_seconds: float, **named: Any) -> None:
        super().__init__(app, timeout_graceful_shutdown=_until_cancelled(drain_seconds), **named)
        self._drain_seconds = drain_seconds

    def load(self) -> None:
        # uvicorn has set its own handlers by now, in the process that serves.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, partial(self._stop, signal.getsignal(number)))
        super().load()

    def _stop(self, uvicorns: Any, number: int, frame: FrameType | None) -> None:
        """Begin to stop, or hurry. A second SIGTERM changes nothing. A third Ctrl-C ends open connections."""
        if not begun.is_set():
            if self.workers == 1:
                echo(f"{stopping_message(self._drain_seconds)} Ctrl-C again ends them with what they have said.")
            begun.set()
            uvicorns(number, frame)
        elif number == signal.SIGINT:
            if at_once.is_set():
                uvicorns(number, frame)
            at_once.set()


class Workers(Multiprocess):
    """Several processes. Each hears a Ctrl-C of the terminal by itself."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket, drain_seconds: float) -> None:
        super().__init__(config, sockets=[listener])
        self._drain_seconds = drain_seconds

    def keep_subprocess_alive(self) -> None:
        before = [process.pid for process in self.processes]
        super().keep_subprocess_alive()
        for pid, process in zip(before, self.processes, strict=True):
            if pid is not None and pid != process.pid:
                metrics.forget_process(pid)

    def handle_int(self) -> None:
        echo(stopping_message(self._drain_seconds))
        super().handle_int()

    def handle_term(self) -> None:
        echo(stopping_message(self._drain_seconds))
        super().handle_term()


class CutOff:
    """The middleware that answers a request with 503 if the process ends before the request has an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def noted(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except asyncio.CancelledError:
            if started or not begun.is_set():
                raise
            # The task is cancelled once, by uvicorn, and ends with this answer.
            stopping = ServiceStopping()
            metrics.of(metrics.REFUSED_REQUESTS, str(stopping.status), stopping.meaning).inc()
            body, headers = orjson.dumps(stopping.body()), {**stopping.headers, "Connection": "close"}
            await Response(body, stopping.status, headers, "application/json")(scope, receive, send)
