"""A Postgres over TCP that asks for a password, and its standby."""

import asyncio
import shlex
from pathlib import Path
from typing import Any

import asyncpg

from app.db import connecting
from app.embedded import private
from app.embedded.postgres import Postgres
from app.embedded.postgres_user import user_id
from tests.service import eventually, free_port

PASSWORD = "p@ss/w%rd#1"  # What URLs have to quote.
QUOTED = "p%40ss%2Fw%25rd%231"


def run_sql(url: str, *statements: str) -> Any:
    async def run() -> Any:
        connection = await asyncpg.connect(**connecting.arguments(url, 10))
        found = [await connection.fetch(statement) for statement in statements]
        await connection.close()
        return found[-1]

    return asyncio.run(run())


class Pair:
    """A Postgres that asks for a password, and a standby that has each commit before it is acknowledged."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._owner = user_id()
        self.ports = (free_port(), free_port())
        self._password_file = directory / "password"
        self._password_file.write_text(PASSWORD)
        self._password_file.chmod(0o644)
        self._server = [self._at("primary"), self._at("standby")]
        options = ("--auth=scram-sha-256", f"--pwfile={self._password_file}", "--encoding=utf8", "--username=postgres")
        self._server[0].run("initdb", *options, "--no-instructions", "-D", str(self._server[0].directory))
        self._start(0)
        primary = self.url("postgres", hosts=f"127.0.0.1:{self.ports[0]}")
        run_sql(primary, "CREATE DATABASE everthread")
        standby = str(self._server[1].directory)
        self._server[1].run("pg_basebackup", "-d", primary, "-D", standby, "-R", "-X", "stream", "-c", "fast")
        self._start(1)
        run_sql(primary, "ALTER SYSTEM SET synchronous_standby_names = '*'", "SELECT pg_reload_conf()")
        eventually(lambda: bool(run_sql(primary, "SELECT FROM pg_stat_replication WHERE sync_state = 'sync'")))

    def url(self, database: str = "everthread", hosts: str | None = None, **options: str) -> str:
        hosts = hosts or ",".join(f"127.0.0.1:{port}" for port in self.ports)
        query = "&".join(f"{name}={value}" for name, value in options.items())
        return f"postgresql://postgres:{QUOTED}@{hosts}/{database}" + (f"?{query}" if query else "")

    def fail_over(self) -> None:
        self._server[0].control("-m", "immediate", "stop")
        self._server[1].control("promote")

    def stop_standby(self) -> None:
        """Lose it, and go on without."""
        self._server[1].control("-m", "immediate", "stop")
        primary = self.url("postgres", hosts=f"127.0.0.1:{self.ports[0]}")
        run_sql(primary, "ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()")

    def close(self) -> None:
        for server in self._server:
            if (server.directory / "postmaster.pid").exists():
                server.control("-m", "immediate", "stop")

    def _at(self, name: str) -> Postgres:
        directory = self._directory / name
        private.make(directory, self._owner)
        return Postgres(directory, directory, self._owner)

    def _start(self, number: int) -> None:
        server = self._server[number]
        options = f"-p {self.ports[number]} -h 127.0.0.1 -k {shlex.quote(str(server.directory))}"
        server.control("-o", options, "-l", str(server.log), "start")
