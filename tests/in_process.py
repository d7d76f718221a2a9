"""Everthread and its emulator in the tests' own process, on servers whose data are kept: `make quick`."""

import asyncio
import hashlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import uvicorn
from sqlalchemy import make_url

from app import schema
from app.audit import keys as audit_keys
from app.audit.signing import signing_key
from app.db.engine import Database
from app.embedded import redis
from app.emulator.app import create_app as create_emulator
from app.main import create_app
from app.projects.keys import ensure_first_key
from app.settings import Connected
from tests.databases import migrate_now, new_database
from tests.servers import quick_postgres
from tests.service import KEY, Emulator, Service, free_port

AUDIT_KEY = "33" * 32


@contextmanager
def kept_servers(directory: Path) -> Iterator[tuple[str, str]]:
    """The URLs of a Postgres and a Redis whose data stay in the directory."""
    with ExitStack() as stack:
        yield (
            stack.enter_context(quick_postgres(directory / "postgres")),
            stack.enter_context(redis.running(directory / "redis")),
        )


def kept_database(server_url: str) -> str:
    """The URL of the database for the migrations of this checkout, which is made if it is not there."""
    files = sorted(path for path in schema.MIGRATIONS.rglob("*") if path.suffix in (".py", ".sql"))
    name = f"quick_{hashlib.sha256(b''.join(path.read_bytes() for path in files)).hexdigest()[:16]}"
    url = make_url(server_url).set(database=name).render_as_string(hide_password=False)
    if not asyncio.run(_is_there(server_url, name)):
        migrate_now(new_database(server_url, name=name))
    return url


async def _is_there(server_url: str, name: str) -> bool:
    connection = await asyncpg.connect(server_url)
    try:
        return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", name))
    finally:
        await connection.close()


class _Thread:
    """An ASGI application behind a port, served by a thread."""

    def __init__(self, make: Callable[[], Any], **options: Any) -> None:
        self.lines: list[str] = []  # What it logs goes to this process's own output.
        self.port = free_port()
        config = uvicorn.Config(
            make, factory=True, port=self.port, log_config=None, access_log=False, loop="uvloop",
            timeout_graceful_shutdown=1, **options,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=2048)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listener]}, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._server.should_exit = True
        self._thread.join()
        return 0


class InProcessEmulator(Emulator):
    def __init__(self) -> None:
        emulator = _Thread(create_emulator, http="httptools")
        self._connect(emulator, emulator.port)


class InProcessService(Service):
    def __init__(self, env: dict[str, str]) -> None:
        os.environ.update(env | {"EVERTHREAD_AUDIT_KEY": AUDIT_KEY})
        asyncio.run(_prepare(Connected()))
        app = _Thread(create_app, http="app.http.door:HttpDoor", ws="app.http.door:WebSocketDoor")
        self._connect(app, app.port, f"http://127.0.0.1:{app.port}", KEY)


async def _prepare(settings: Connected) -> None:
    """Make the key of the tests, and let this host sign."""
    database = Database(settings.database_url, pool_size=1, timeout_seconds=30)
    try:
        await ensure_first_key(database, KEY)
        await audit_keys.admit(
            database, signing_key(settings.audit_key, settings.data_dir).public_key().public_bytes_raw()
        )
    finally:
        await database.close()
