"""Redis as the service uses it: never waited for twice.

A Redis that does not answer in time counts as away for a moment, for every turn of the worker; then one command
tries it, while the others still go on without. This stands above whatever client speaks to Redis.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis.asyncio
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.cache.connection import Command, Wire

T = TypeVar("T")

AWAY_SECONDS = 2.0


def reason(error: Exception) -> str:
    """Why Redis does not answer, without what it was sent: some of its refusals quote that."""
    return type(error).__name__ if isinstance(error, ResponseError) else str(error)


class RedisAway(RedisError):
    """It has not answered a moment ago, and was not asked now."""


class Cache:
    def __init__(self, wire: Wire, client: "redis.asyncio.Redis") -> None:
        self._wire = wire
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._away_until: float | None = None

    async def execute(self, *commands: Command) -> Any:
        """Send commands in one write, and give the last one's answer.

        Raises:
            RedisError, OSError: Redis is away, too slow, or refuses.
        """
        return await self._watched(lambda: self._wire.execute(*commands))

    def ask(self, command: Command) -> "asyncio.Future[Any] | None":
        """Send a command, to await its answer later; None where that cannot be done at once."""
        if self._away_until is not None:
            return None
        answer = self._wire.ask(command)
        if answer is not None:
            answer.add_done_callback(self._look_at)
        return answer

    def tell(self, command: Command) -> bool:
        """Send a command that nobody waits for. False where that cannot be done at once."""
        return self._away_until is None and self._wire.tell(command)

    async def call(self, command: "Callable[[redis.asyncio.Redis], Awaitable[T]]") -> T:
        """Have a command of the client library's done.

        Raises:
            RedisError, OSError: Redis is away, too slow, or refuses.
        """
        return await self._watched(lambda: command(self._client))

    async def _watched(self, command: Callable[[], Awaitable[T]]) -> T:
        if self._away_until is not None:
            now = self._loop.time()
            if now < self._away_until:
                raise RedisAway("Redis has not answered a moment ago.")
            self._away_until = now + AWAY_SECONDS  # This one tries; the others go on without.
        try:
            answer = await command()
        except RedisTimeoutError:
            self._away_until = self._loop.time() + AWAY_SECONDS
            raise
        self._away_until = None
        return answer

    def _look_at(self, answer: "asyncio.Future[Any]") -> None:
        if not answer.cancelled() and isinstance(answer.exception(), RedisTimeoutError):
            self._away_until = self._loop.time() + AWAY_SECONDS
