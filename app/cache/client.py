"""Redis as the service uses it: asked in batches, and never waited for twice.

What is asked in one turn of the event loop goes out in one pipeline, and what is asked while it is under way in the
next: everything is done in the order in which it was asked. A Redis that does not answer in time counts as away for a
moment, for every turn of the worker; then one command tries it, while the others still go on without.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from app.cache.connect import Client, connect
from app.cache.line import ClusterLine, Command, Line
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
        """Args: timeout_seconds: how long a batch, or a command of the client library's, may take.

        Raises:
            ValueError: the URL leads nowhere: see `connect`.
        """
        self._client = connect(url, timeout_seconds=timeout_seconds)
        # What goes over it has one time limit a batch: the client's own, a command and an answer, cost as much again.
        batches = connect(url, timeout_seconds=timeout_seconds, answers_limited=False)
        self._line = ClusterLine(batches) if isinstance(batches, RedisCluster) else Line(batches)
        self._timeout_seconds = timeout_seconds
        self._loop = asyncio.get_running_loop()
        self._unsent: list[tuple[Sequence[Command], asyncio.Future[Any]]] = []
        self._sending: asyncio.Task[None] | None = None
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
        answer = self._ask((command,))
        answer.add_done_callback(self._look_at)
        return answer

    def send(self, command: Command) -> "asyncio.Future[Any] | None":
        """Send a command whose answer is not awaited, together with the next one or a little later. None while Redis is
        unavailable."""
        if self._away_until is not None:
            return None
        if not self._unsent:
            self._loop.call_later(LATER_SECONDS, self._flush)
        answer = self._queued((command,))
        answer.add_done_callback(self._look_at)
        return answer

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
        if self._sending is not None:
            await self._sending
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

    def _look_at(self, answer: "asyncio.Future[Any]") -> None:
        if not answer.cancelled() and isinstance(answer.exception(), RedisTimeoutError):
            self._away_until = self._loop.time() + AWAY_SECONDS

    def _ask(self, commands: Sequence[Command]) -> "asyncio.Future[Any]":
        answer = self._queued(commands)
        self._flush()
        return answer

    def _queued(self, commands: Sequence[Command]) -> "asyncio.Future[Any]":
        answer: asyncio.Future[Any] = self._loop.create_future()
        if spans.tracer is not None:
            name = str(commands[-1][0])
            spans.tracer.until_done(name, {**SYSTEM, "db.operation.name": name}, answer)
        self._unsent.append((commands, answer))
        return answer

    def _flush(self) -> None:
        if self._sending is None and self._unsent:
            self._sending = self._loop.create_task(self._send())

    async def _send(self) -> None:
        try:
            while self._unsent:
                batch, self._unsent = self._unsent, []
                error = await self._send_batch(batch)
                if isinstance(error, RedisTimeoutError):
                    # Who has waited behind it has waited as long.
                    late, self._unsent = self._unsent, []
                    _fail(late, error)
        finally:
            self._sending = None
            _fail(self._unsent, RedisConnectionError("The service is stopping."))
            self._unsent = []

    async def _send_batch(self, batch: "list[tuple[Sequence[Command], asyncio.Future[Any]]]") -> Exception | None:
        """Send a batch and hand out its answers. Returns why it was not done, if it was not."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answers = await self._line.exchange([command for commands, _ in batch for command in commands])
        except TimeoutError:
            late = RedisTimeoutError("Redis does not answer in time.")
            _fail(batch, late)
            return late
        except (RedisError, RedisClusterException, OSError) as error:
            _fail(batch, error)
            return error
        except asyncio.CancelledError:
            _fail(batch, RedisConnectionError("The service is stopping."))
            raise
        place = 0
        for commands, answer in batch:
            _hand_over(answers[place : place + len(commands)], answer)
            place += len(commands)
        return None


def _hand_over(answers: Sequence[Any], answer: "asyncio.Future[Any]") -> None:
    if answer.done():
        return  # Its caller was cancelled.
    refused = next((each for each in answers if isinstance(each, Exception)), None)
    if refused is not None:
        answer.set_exception(refused)
    else:
        answer.set_result(answers[-1])


def _fail(batch: "list[tuple[Sequence[Command], asyncio.Future[Any]]]", error: Exception) -> None:
    if isinstance(error, RedisClusterException):
        error = RedisConnectionError(str(error))
    for _, answer in batch:
        if not answer.done():
            answer.set_exception(error)
