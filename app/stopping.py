"""How the service stops: running turns get their time, unless somebody is in a hurry."""

import signal
import socket
import threading
from types import FrameType

import uvicorn
from uvicorn.supervisors import Multiprocess

from app import metrics
from app.terminal import echo

at_once = threading.Event()
"""Set when running turns are to be closed at once, as incomplete, with the output so far."""


def said(seconds: float) -> str:
    return f"Stopping. Running turns have {seconds:g} seconds to finish (EVERTHREAD_DRAIN_SECONDS)."


class Server(uvicorn.Server):
    """One process. A second Ctrl-C ends the wait, and not the process with its turns unclosed."""

    def __init__(self, config: uvicorn.Config, drain_seconds: float) -> None:
        super().__init__(config)
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            echo(f"{said(self._drain_seconds)} Ctrl-C again ends them with what they have said.")
        elif sig == signal.SIGINT:
            at_once.set()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        if self.force_exit:  # It has left out the application's own.
            await self.lifespan.shutdown()


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
        echo(said(self._drain_seconds))
        super().handle_int()

    def handle_term(self) -> None:
        echo(said(self._drain_seconds))
        super().handle_term()
