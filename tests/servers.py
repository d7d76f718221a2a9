"""Real Postgres and Redis for the tests: given ones, containers where Docker runs, or the embedded ones.

Docker's client is imported only where Docker may run."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from app.embedded import postgres, redis

SOCKET = Path("/var/run/docker.sock")
POSTGRES, REDIS = "postgres:18-alpine", "redis:8-alpine"


@contextmanager
def servers(directory: Path) -> Iterator[tuple[str, str]]:
    """The URLs of a Postgres and a Redis that live as long as the context."""
    database_url, redis_url = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
    with ExitStack() as stack:
        if (database_url is None or redis_url is None) and _docker_runs():
            if database_url is None:
                container = stack.enter_context(_containers("postgres").PostgresContainer(POSTGRES, driver=None))
                database_url = container.get_connection_url()
            if redis_url is None:
                cache = stack.enter_context(_containers("redis").RedisContainer(REDIS))
                redis_url = f"redis://{cache.get_container_host_ip()}:{cache.get_exposed_port(6379)}"
        if database_url is None:
            database_url = stack.enter_context(quick_postgres(directory / "postgres"))
        if redis_url is None:
            redis_url = stack.enter_context(redis.running(directory / "redis"))
        yield database_url, redis_url


@contextmanager
def quick_postgres(directory: Path) -> Iterator[str]:
    """An embedded Postgres that does not wait for the disk."""
    prepared_postgres(directory)
    with postgres.running(directory) as url:
        yield url


def prepared_postgres(directory: Path) -> postgres.Postgres:
    """An embedded Postgres, not started. Its data outlives any process, but not the machine: it never waits for the
    disk."""
    server = postgres.prepared(directory)
    (server.directory / "postgresql.auto.conf").write_text("fsync = off\nfull_page_writes = off\n")
    return server


def _containers(kind: str) -> Any:
    return import_module(f"testcontainers.community.{kind}")


def _docker_runs() -> bool:
    if "DOCKER_HOST" not in os.environ and not SOCKET.exists():
        return False
    docker = import_module("docker")
    try:
        client = docker.from_env(timeout=5)
        client.ping()
        client.close()
    except docker.errors.DockerException:
        return False
    return True
