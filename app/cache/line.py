"""A connection of redis-py's that batches of commands go over, one batch after the other.

redis-py finds the server, connects and signs in. From then on its transport is read and written here: a command costs a
tenth of what it costs through the client, whose connection is a stream of asyncio's.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from hiredis import PushNotification, Reader, pack_command
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ReadOnlyError, RedisClusterException, RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

Command = tuple[Any, ...]
"""Its words: bytes, texts or numbers."""

NO_ANSWER = object()

UNAVAILABLE = (RedisError, RedisClusterException, OSError)


class Asked:
    """Commands of one asker, in order.

    Every command must be repeatable: when a connection breaks, the commands are sent a second time.
    """

    __slots__ = ("again", "answer", "commands", "missing", "packed", "refused", "until")

    def __init__(self, commands: tuple[Command, ...], answer: "asyncio.Future[Any]", until: float) -> None:
        """
        Raises:
            TypeError, ValueError: a command cannot be sent.
        """
        self.commands = commands
        self.packed = pack_command(commands[0]) if len(commands) == 1 else b"".join(map(pack_command, commands))
        self.answer = answer
        """The last command's, or the first refusal."""
        self.until = until
        """Time of the event loop at which it has taken too long."""
        self.missing = len(commands)
        self.refused: Exception | None = None
        self.again = False
        """True if it was sent before."""

    def take(self, answer: Any) -> bool:
        """Take the answer to the next command. True if it was the last one's."""
        if isinstance(answer, Exception) and self.refused is None:
            self.refused = answer
        self.missing -= 1
        if self.missing:
            return False
        if self.refused is not None:
            self.fail(self.refused)
        elif not self.answer.done():  # Else its asker was cancelled.
            self.answer.set_result(answer)
        return True

    def fail(self, error: Exception) -> None:
        if isinstance(error, RedisClusterException):
            error = RedisConnectionError(str(error))
        if not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # Nobody may wait for it.

    def restart(self) -> None:
        self.missing, self.refused, self.again = len(self.commands), None, True


class Line:
    """To one server, or to the master that sentinels name."""

    def __init__(self, client: Redis, *, late: Callable[[], None]) -> None:
        """Args: late: called when the server does not answer in time."""
        self._client = client
        self._pool: Any = client.connection_pool
        self._late = late
        self._loop = asyncio.get_running_loop()
        self._wire: _Wire | None = None
        self._unsent: list[Asked] = []
        """Commands that wait for a connection, or for the answers to others."""
        self._connecting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def send(self, asked: list[Asked]) -> None:
        """Send commands. They have their answers, or the reason why they have none, before `until`."""
        self._unsent += asked
        if self._wire is None or not self._wire.asked:
            self._go_on()

    async def close(self) -> None:
        """Close the connection once everything is answered."""
        while pending := [each.answer for each in (*self._unsent, *self._sent()) if not each.answer.done()]:
            await asyncio.wait(pending)
        if self._connecting is not None:
            await asyncio.wait([self._connecting])  # All its askers were cancelled.
        self._leave()
        if self._timer is not None:
            self._timer.cancel()
        await self._client.aclose()

    def _broken(self, wire: "_Wire", error: Exception) -> None:
        """Send what a connection has not answered over another one, once."""
        if wire is not self._wire:
            return
        again = []
        for each in self._leave():
            if each.again:
                each.fail(error)
            elif not each.answer.done():
                each.restart()
                again.append(each)
        self._unsent[:0] = again
        self._go_on()

    def _go_on(self) -> None:
        """Send what has waited: all that is under way is answered, or there is no connection."""
        if not self._unsent:
            return
        if self._wire is None:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
            return
        asked, self._unsent = self._unsent, []
        self._wire.send(asked)
        if self._timer is None:
            self._timer = self._loop.call_at(asked[0].until, self._look_at_time)

    def _sent(self) -> Iterable[Asked]:
        return () if self._wire is None else self._wire.asked

    def _leave(self) -> Iterable[Asked]:
        """Close the connection. Return what it has not answered."""
        wire, self._wire = self._wire, None
        if wire is None:
            return ()
        wire.close()
        return wire.asked

    def _look_at_time(self) -> None:
        """Give up a server that does not answer; who has waited behind the oldest command has waited as long."""
        self._timer = None
        oldest = next(iter(self._sent()), None)
        if oldest is None:
            return
        if self._loop.time() < oldest.until:
            self._timer = self._loop.call_at(oldest.until, self._look_at_time)
        else:
            self._give_up([*self._leave(), *self._waited()], RedisTimeoutError("Redis does not answer in time."))

    async def _connect(self) -> None:
        """Connect, and send what has waited for it."""
        try:
            async with asyncio.timeout_at(self._unsent[0].until):
                connection = self._pool.make_connection()
                await self._pool.ensure_connection(connection)
            self._wire = _Wire(connection, self._go_on, self._broken)
        except TimeoutError:
            self._give_up(self._waited(), RedisTimeoutError("Redis does not answer in time."))
        except UNAVAILABLE as error:
            self._give_up(self._waited(), error)
        finally:
            self._connecting = None
            if self._wire is None:
                # The service is stopping, or redis-py has failed on what the server says of itself.
                self._give_up(self._waited(), RedisConnectionError("There is no connection to Redis."))
        self._go_on()

    def _waited(self) -> list[Asked]:
        waited, self._unsent = self._unsent, []
        return waited

    def _give_up(self, asked: Iterable[Asked], error: Exception) -> None:
        if isinstance(error, RedisTimeoutError):
            self._late()
        for each in asked:
            each.fail(error)


class _Wire(asyncio.Protocol):
    """The transport of a connection of redis-py's, taken over once it is ready for commands."""

    def __init__(
        self, connection: Any, answered: Callable[[], None], broken: "Callable[[_Wire, Exception], None]"
    ) -> None:
        """
        Args:
            answered: called when everything is answered.
            broken: called when no more answers come.
        """
        self.asked: deque[Asked] = deque()
        """Commands without an answer, in the order in which they were sent."""
        self._connection = connection
        self._answered = answered
        self._broken = broken
        self._transport: asyncio.Transport = connection._writer.transport
        self._reader = Reader(
            protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=NO_ANSWER
        )
        self._transport.set_protocol(self)

    def send(self, asked: list[Asked]) -> None:
        self.asked += asked
        self._transport.write(b"".join([each.packed for each in asked]))

    def close(self) -> None:
        self._connection._close()

    def data_received(self, data: bytes) -> None:
        left: Exception | None = None
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not NO_ANSWER:
                if isinstance(answer, PushNotification):
                    continue
                if isinstance(answer, ReadOnlyError | RedisConnectionError):
                    # A master that was demoted: its name may lead to another one by now. Or it takes no commands.
                    left = answer
                if not self.asked:
                    raise InvalidResponse("It has answered more than it was asked.")
                if self.asked[0].take(answer):
                    self.asked.popleft()
        except InvalidResponse as error:
            left = error
        if left is not None:
            self._broken(self, left)
        elif not self.asked:
            self._answered()

    def connection_lost(self, error: Exception | None) -> None:
        self._broken(self, RedisConnectionError(str(error or "The server has closed the connection.")))


class ClusterLine:
    """To the nodes of a cluster, each command to the one that has its key."""

    def __init__(self, client: RedisCluster, *, timeout_seconds: float, late: Callable[[], None]) -> None:
        """Args: late: called when a node does not answer in time."""
        self._client = client
        self._timeout_seconds = timeout_seconds
        self._late = late
        self._unsent: list[Asked] = []
        self._sending: asyncio.Task[None] | None = None

    def send(self, asked: list[Asked]) -> None:
        """Send commands as `Line.send` does; what is sent while others are under way goes out after them."""
        self._unsent += asked
        if self._sending is None:
            self._sending = asyncio.create_task(self._send())

    async def close(self) -> None:
        if self._sending is not None:
            await asyncio.wait([self._sending])
        await self._client.aclose()

    async def _send(self) -> None:
        asked: list[Asked] = []
        try:
            while self._unsent:
                asked, self._unsent = self._unsent, []
                await self._exchange(asked)
        finally:
            # The service is stopping, or redis-py has failed on what a node says of itself.
            asked, self._unsent, self._sending = asked + self._unsent, [], None
            self._fail(asked, RedisConnectionError("There is no connection to Redis."))

    async def _exchange(self, asked: list[Asked]) -> None:
        pipeline = self._client.pipeline()
        for each in asked:
            for command in each.commands:
                pipeline.execute_command(*command)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answers = iter(await pipeline.execute(raise_on_error=False))
        except (TimeoutError, RedisTimeoutError):
            # Commands that waited behind it have waited as long.
            self._late()
            asked, self._unsent = asked + self._unsent, []
            self._fail(asked, RedisTimeoutError("Redis does not answer in time."))
        except UNAVAILABLE as error:
            self._fail(asked, error)
        else:
            for each in asked:
                for _ in each.commands:
                    each.take(next(answers))

    def _fail(self, asked: list[Asked], error: Exception) -> None:
        for each in asked:
            each.fail(error)
