"""Group commit: what would wait for Postgres goes there together, in one transaction.

A third of what a turn costs Postgres is its commits and its ways there and back. A statement that comes alone is run at
once, in a transaction of its own. Those that come while it is under way wait for it, and share the next transaction.

None can harm another. A statement locks rows of its own bucket alone, a transaction has one of each bucket, in the
order of the buckets: no two wait for each other. What locks rows of many buckets is done apart. Where one statement
fails, Postgres undoes its transaction, and each is run again by itself. Where one is held up, by a lock say, those who
have waited `PATIENCE_SECONDS` go past it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import asyncpg

from app.errors import DatabaseUnavailable

MOST_STATEMENTS = 16
"""How many statements share a transaction at most."""

MOST_CHARACTERS = 65_536
"""How much a statement may write to share one: what takes long holds up the others."""

MOST_TRANSACTIONS = 4
"""How many transactions of a statement are under way at most."""

PATIENCE_SECONDS = 0.01
"""How long a statement waits before another transaction is begun beside the one that is under way."""


class Alone(Protocol):
    def __call__(self, statement: str, *arguments: Any) -> Awaitable[Any]: ...


Together = Callable[[str, Sequence[tuple[Any, ...]]], Awaitable[list[Any]]]


class Undone(Exception):
    """The server has undone a transaction, and is there."""


@dataclass(frozen=True, slots=True, eq=False)
class Waiting:
    bucket: int
    arguments: tuple[Any, ...]
    since: float
    row: asyncio.Future[Any]


class GroupCommit:
    """What is under way at a server of statements that give one row and lock rows of one bucket."""

    def __init__(self, alone: Alone, together: Together) -> None:
        """
        Args:
            alone: runs a statement in a transaction of its own, and gives its row.
            together: runs one with each of these arguments in one transaction, and gives a row for each, in order.
                Raises `Undone` where none of it is done.
        """
        self.alone = alone
        self.together = together
        self._lines: dict[str, _Line] = {}
        self._apart = 0

    async def fetchrow(self, bucket: int, statement: str, arguments: tuple[Any, ...]) -> Any:
        """Run a statement, and give its row once it is committed.

        Raises:
            DatabaseUnavailable: the server is away. The statement may have been committed all the same.
        """
        line = self._lines.get(statement)
        if line is None:
            line = self._lines[statement] = _Line(statement, self)
        return await line.fetchrow(bucket, arguments)

    @property
    def most(self) -> int:
        """How many statements may share a transaction now."""
        return 1 if self._apart else MOST_STATEMENTS

    @asynccontextmanager
    async def apart(self) -> AsyncIterator[None]:
        """Within, no transaction has two statements: for what locks rows of many buckets, in an order of its own."""
        self._apart += 1
        try:
            if under_way := [task for line in self._lines.values() for task in line.tasks]:
                await asyncio.wait(under_way)
            yield
        finally:
            self._apart -= 1


class _Line:
    """Those who wait with one statement."""

    def __init__(self, statement: str, group_commit: GroupCommit) -> None:
        self._statement = statement
        self._of = group_commit
        self._under_way = 0
        self._waiting: list[Waiting] = []
        self._timer: asyncio.TimerHandle | None = None
        self.tasks: set[asyncio.Task[list[Any]]] = set()

    async def fetchrow(self, bucket: int, arguments: tuple[Any, ...]) -> Any:
        if self._under_way:
            return await self._in_group(bucket, arguments)
        self._under_way += 1
        try:
            return await self._of.alone(self._statement, *arguments)
        finally:
            self._ended()

    async def _in_group(self, bucket: int, arguments: tuple[Any, ...]) -> Any:
        loop = asyncio.get_running_loop()
        waiting = Waiting(bucket, arguments, loop.time(), loop.create_future())
        self._waiting.append(waiting)
        if self._timer is None:
            self._timer = loop.call_later(PATIENCE_SECONDS, self._out_of_patience)
        return await waiting.row

    def _ended(self) -> None:
        self._under_way -= 1
        self._begin()

    def _begin(self) -> None:
        """Begin a transaction with those that have waited longest, if any wait."""
        group = self._taken()
        if group:
            self._under_way += 1
            task = asyncio.get_running_loop().create_task(self._rows(group))
            self.tasks.add(task)
            task.add_done_callback(partial(self._give, group))

    def _taken(self) -> list[Waiting]:
        taken: dict[int, Waiting] = {}
        left: list[Waiting] = []
        for waiting in self._waiting:
            if waiting.row.done():
                continue  # Nobody waits for it any more.
            if len(taken) < self._of.most and waiting.bucket not in taken:
                taken[waiting.bucket] = waiting
            else:
                left.append(waiting)
        self._waiting = left
        return [taken[bucket] for bucket in sorted(taken)]

    def _out_of_patience(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        loop = asyncio.get_running_loop()
        left = self._waiting[0].since + PATIENCE_SECONDS - loop.time()
        if left <= 0 and self._under_way < MOST_TRANSACTIONS:
            self._begin()
        if self._waiting:
            self._timer = loop.call_later(left if left > 0 else PATIENCE_SECONDS, self._out_of_patience)

    async def _rows(self, group: list[Waiting]) -> list[Any]:
        """The row of each, or what it failed with."""
        if len(group) > 1:
            try:
                return await self._of.together(self._statement, [waiting.arguments for waiting in group])
            except Undone:
                pass
        return [await self._by_itself(waiting) for waiting in group]

    async def _by_itself(self, waiting: Waiting) -> Any:
        if waiting.row.done():
            return None
        try:
            return await self._of.alone(self._statement, *waiting.arguments)
        except (DatabaseUnavailable, asyncpg.PostgresError) as error:
            return error

    def _give(self, group: list[Waiting], task: asyncio.Task[list[Any]]) -> None:
        self.tasks.discard(task)
        self._ended()
        if task.cancelled():
            for waiting in group:
                waiting.row.cancel()
            return
        failed = task.exception()
        rows = [failed] * len(group) if failed else task.result()
        for waiting, row in zip(group, rows, strict=True):
            if waiting.row.done():
                continue
            if isinstance(row, BaseException):
                waiting.row.set_exception(row)
            else:
                waiting.row.set_result(row)
