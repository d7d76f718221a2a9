"""Real Postgres and Redis for the tests: given ones, containers where Docker runs, or the embedded ones."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException
from testcontainers.community.postgres import PostgresContainer
from testcontainers.community.redis import RedisContainer

from app.embedded import postgres, redis


@contextmanager
def servers(directory: Path) -> Iterator[tuple[str, str]]:
    """The URLs of a Postgres and a Redis that live as long as the context."""
    database_url, redis_url = os.environ.get("TEST_DATABASE_URL"), os.environ.get("TEST_REDIS_URL")
    with ExitStack() as stack:
        if (database_url is None or redis_url is None) and _docker_runs():
            if database_url is None:
                container = stack.enter_context(PostgresContainer("postgres:18-alpine", driver=None))
                database_url = container.get_connection_url()
            if redis_url is None:
                cache = stack.enter_context(RedisContainer("redis:8-alpine"))
                redis_url = f"redis://{cache.get_container_host_ip()}:{cache.get_exposed_port(6379)}"
        if database_url is None:
            database_url = stack.enter_context(quick_postgres(directory / "postgres"))
        if redis_url is None:
            redis_url = stack.enter_context(redis.running(directory / "redis"))
        yield database_url, redis_url


@contextmanager
def quick_postgres(directory: Path) -> Iterator[str]:
    """An embedded Postgres that does not wait for the disk: its data outlives any process, but not the machine."""
    configuration = postgres.prepared(directory).directory / "postgresql.auto.conf"
    configuration.write_text("fsync = off\nfull_page_writes = off\n")
    with postgres.running(directory) as url:
        yield url


def _docker_runs() -> bool:
    try:
        client = docker.from_env(timeout=5)
        client.ping()
        client.close()
    except DockerException:
        return False
    return True
