"""Redis as the service uses it: asked in batches, and never waited for twice.

What is asked in one turn of the event loop goes out together, and what is asked while it is under way after it:
everything is done in the order in which it was asked. A Redis that does not answer in time counts as away for a
moment, for every turn of the worker; then one command tries it, while the others still go on without.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.cache.connect import Client, connect
from app.cache.line import Asked, ClusterLine, Command, Line
from app.telemetry import spans

T = TypeVar("T")

AWAY_SECONDS = 2.0

SYSTEM = {"db.system.name": "redis"}

LATER_SECONDS = 0.005
"""Longest wait of a command without a reader, so that it is sent together with others."""


def reason(error: Exception) -> str:
    """The reason why Redis does not answer, without the command: some of its refusals quote it."""
    return type(error).__name__ if isinstance(error, ResponseError) else str(error)


class RedisAway(RedisError):
    """It has not answered a moment ago, and was not asked now."""


class Cache:
    def __init__(self, url: str, *, timeout_seconds: float) -> None:
        """Args: timeout_seconds: how long a command may take.

        Raises:
            ValueError: the URL leads nowhere: see `connect`.
        """
        self._client = connect(url, timeout_seconds=timeout_seconds)
        # The line has a time limit of its own.
        of_line = connect(url, timeout_seconds=timeout_seconds, answers_limited=False)
        self._line = (
            ClusterLine(of_line, timeout_seconds=timeout_seconds, late=self._is_late)
            if isinstance(of_line, RedisCluster)
            else Line(of_line, late=self._is_late)
        )
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._unsent: list[Asked] = []
        self._flush_soon: asyncio.Handle | None = None
        self._away_until: float | None = None

    async def execute(self, *commands: Command) -> Any:
        """Execute commands in order and return the last one's answer.

        Raises:
            RedisError, OSError: Redis is unavailable, too slow, or refuses one of them.
        """
        return await self._watched(lambda: self._ask(commands))

    def ask(self, command: Command) -> "asyncio.Future[Any] | None":
        """Send a command and return a future of its answer; None while Redis is unavailable."""
        if self._away_until is not None:
            return None
        return self._ask((command,))

    def send(self, command: Command) -> "asyncio.Future[Any] | None":
        """Send a command whose answer is not awaited, together with the next one or a little later. None while Redis is
        unavailable."""
        if self._away_until is not None:
            return None
        if not self._unsent:
            self._loop.call_later(LATER_SECONDS, self._flush)
        return self._queued((command,))

    async def call(self, command: "Callable[[Client], Awaitable[T]]") -> T:
        """Execute a command of the client library: one that blocks, or that addresses several nodes of a cluster.

        Raises:
            RedisError, OSError: Redis is unavailable, too slow, or refuses.
        """
        with spans.span("redis", SYSTEM, outbound=True):
            return await self._watched(lambda: command(self._client))

    def pubsub(self) -> Any:
        """Return a receiver of messages. It has a connection of its own."""
        return self._client.pubsub()

    async def ping(self) -> None:
        """Raises: RedisError, OSError: Redis does not answer."""
        await self._watched(self._client.ping)

    async def close(self) -> None:
        self._flush()
        await self._line.close()
        await self._client.aclose()

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
        except RedisClusterException as error:
            raise RedisConnectionError(str(error)) from error
        self._away_until = None
        return answer

    def _is_late(self) -> None:
        self._away_until = self._loop.time() + AWAY_SECONDS

    def _ask(self, commands: tuple[Command, ...]) -> "asyncio.Future[Any]":
        answer = self._queued(commands)
        if self._flush_soon is None:
            self._flush_soon = self._loop.call_soon(self._flush)
        return answer

    def _queued(self, commands: tuple[Command, ...]) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = self._loop.create_future()
        if spans.tracer is not None:
            name = str(commands[-1][0])
            spans.tracer.until_done(name, {**SYSTEM, "db.operation.name": name}, answer)
        self._unsent.append(Asked(commands, answer, self._loop.time() + self._timeout_seconds))
        return answer

    def _flush(self) -> None:
        self._flush_soon = None
        if self._unsent:
            asked, self._unsent = self._unsent, []
            self._line.send(asked)
