"""A connection of redis-py's that batches of commands go over, one batch after the other.

A batch costs 0.1 ms of CPU less than through a pipeline of the client's, which borrows a connection for each.
"""

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ReadOnlyError, ResponseError

Command = tuple[Any, ...]
"""Its words: bytes, texts or numbers."""


class Line:
    """To one server, or to the master that sentinels name."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._pool: Any = client.connection_pool
        self._connection: AbstractConnection | None = None

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their answers; a refused command has a ResponseError as its answer.

        Every command must be repeatable: when a connection breaks, the commands are sent a second time.

        Raises:
            RedisError, OSError: the server is unavailable.
        """
        try:
            try:
                answers = await self._sent(commands)
            except RedisConnectionError:
                await self._leave()
                answers = await self._sent(commands)
        except BaseException:
            # What is still on its way is not to be taken for the answer to something else.
            await self._leave()
            raise
        if any(isinstance(answer, ReadOnlyError) for answer in answers):
            await self._leave()  # A master that was demoted: its name may lead to another one by now.
        return answers

    async def close(self) -> None:
        await self._leave()
        await self._client.aclose()

    async def _sent(self, commands: Sequence[Command]) -> list[Any]:
        if self._connection is None:
            self._connection = await self._pool.get_connection()
        connection = self._connection
        await connection.send_packed_command(connection.pack_commands(commands))
        return [await _answer(connection) for _ in commands]

    async def _leave(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.disconnect(nowait=True)
            await self._pool.release(connection)


class ClusterLine:
    """To the nodes of a cluster, each command to the one that has its key."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands and return their answers, as `Line.exchange` does.

        Raises:
            RedisError, RedisClusterException, OSError: a node is unavailable.
        """
        pipeline = self._client.pipeline()
        for command in commands:
            pipeline.execute_command(*command)
        return await pipeline.execute(raise_on_error=False)

    async def close(self) -> None:
        await self._client.aclose()


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
