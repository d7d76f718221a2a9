"""What a turn costs Postgres and Redis, counted on the wire."""

import time

import pytest
import redis

from tests.service import Emulator, Service
from tests.wire import CountingProxy


@pytest.mark.parametrize("stream", [False, True])
def test_a_chained_turn_is_two_statements_and_two_redis_commands(
    service_env: dict[str, str], emulator: Emulator, redis_url: str, stream: bool
) -> None:
    proxy = CountingProxy(service_env["DATABASE_URL"])
    service = Service(env={**service_env, "DATABASE_URL": proxy.url})
    cache = redis.Redis.from_url(redis_url)
    turns = 10
    try:
        thread = service.thread()
        service.turn(thread, "Hello")
        time.sleep(0.2)
        statements, commands = proxy.executed, _commands(cache)
        for _ in range(turns):
            service.stream(thread, "Hello") if stream else service.turn(thread, "Hello")
        time.sleep(0.2)
        assert proxy.executed - statements == 2 * turns
        # A stream has its event log besides: XADD and EXPIRE, in one round trip a batch.
        assert _commands(cache) - commands == (4 if stream else 2) * turns
    finally:
        service.stop()


def _commands(cache: "redis.Redis") -> int:
    """GET, SET and whatever else there may be, without this question itself and connecting."""
    stats: dict[str, dict[str, int]] = cache.info("commandstats")
    apart = ("info", "hello", "client", "ping", "select", "auth")
    return sum(s["calls"] for name, s in stats.items() if name.removeprefix("cmdstat_").split("|")[0] not in apart)
