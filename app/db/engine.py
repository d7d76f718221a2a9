"""One connection pool for both paths: the ORM for the cold one, asyncpg itself for the hot one.

A turn's two statements go straight to asyncpg, and stay prepared on each connection:
0.11 ms of CPU each, against 0.31 ms through SQLAlchemy's execution and 0.50 ms with a transaction.
"""

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import cache
from typing import Any

import asyncpg
import orjson
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import connecting
from app.db.group_commit import LOCK_TIMEOUT, MOST_CHARACTERS, MOST_LANES, GroupCommit, Undone
from app.db.held import HeldConnection
from app.http.errors import DatabaseUnavailable

READ_ONLY = "25006"

IS_READ_ONLY = text("SELECT current_setting('transaction_read_only')::boolean")
"""Query that returns true if the server takes no writes: a standby, or a demoted primary."""

UNAVAILABLE = (
    OSError,
    TimeoutError,
    PoolTimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InterfaceError,
    # A connection that was lost between the steps of one statement.
    asyncpg.InternalClientError,
)
"""Errors that mean an unavailable server, as opposed to a wrong statement."""


MAY_PASS = ("08", "25006", "40", "53", "55", "57", "58")
"""Prefixes of the SQLSTATE of errors that a retry may not meet: a lost connection, a server that is read-only (demoted,
in a failover), a deadlock, a full disk or memory, a lock or statement time-out, an operator's intervention, a system
error."""

LEFT_TO_SESSIONS = 2
"""Connections of the pool that are never held for single statements."""

AT_HAND = 3
"""So many connections are opened as soon as they are wanted. A few that are always at work stay in the processor's
caches: among ten, a turn cost Postgres a quarter more than among four."""

PATIENCE_SECONDS = 0.025
"""Time for which a statement waits for one of them before another connection is opened."""

PATIENCE_OF_COORDINATORS = 0.1
"""The same through the coordinator of a cluster, each connection to which opens some to every worker."""


Run = Callable[[HeldConnection, str, Sequence[Any]], Awaitable[Any]]

_FIRST_ARGUMENT = re.compile(r"\$1\b(::\w+)?")


class Database:
    """The pool. Every method raises `DatabaseUnavailable` (HTTP 503) when the server is unavailable."""

    def __init__(
        self,
        url: str,
        *,
        pool_size: int,
        timeout_seconds: float,
        at: tuple[str, int] | None = None,
        settings: Mapping[str, str] | None = None,
        pooled: bool = False,
    ) -> None:
        """For `at`, `settings` and `pooled`, see `connecting.engine`.

        Raises:
            connecting.BadURL: the URL cannot be used.
        """
        self.url = url
        self._pool_size = pool_size
        self._pooled = pooled
        self.engine: AsyncEngine = connecting.engine(
            url,
            timeout_seconds=timeout_seconds,
            command_timeout=timeout_seconds,
            at=at,
            settings=settings,
            pooled=pooled,
            pool_size=max(pool_size, 1 + LEFT_TO_SESSIONS),
            max_overflow=0,
            hide_parameters=True,  # They hold what people have said.
            json_serializer=_json,
            json_deserializer=orjson.loads,
            pool_timeout=timeout_seconds,
        )
        # What the dialect makes of a server that answers, and takes no connection: it is starting, or stopping.
        self._refused: type[Exception] = self.engine.dialect.loaded_dbapi.Error
        self._timeout_seconds = timeout_seconds
        self._idle: list[HeldConnection] = []
        self._waiting: deque[asyncio.Future[HeldConnection | None]] = deque()
        self._held = 0
        self._opening = 0
        self._most_held = max(1, pool_size - LEFT_TO_SESSIONS)
        self._patience_seconds = PATIENCE_SECONDS
        self._bounds_locks = True
        self._group_commit = GroupCommit(
            self._fetch_alone,
            self._fetch_together,
            wait_seconds=timeout_seconds,
            lanes=max(1, min(MOST_LANES, self._most_held // 4)),
        )
        # Behind a pooler, each statement is a transaction of its own.
        self._group_commit.shares = not pooled
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)

    def is_coordinator(self) -> None:
        """Say that this is the coordinator of a cluster. It commits a transaction on the shards of several nodes in two
        phases: statements share none. It passes a whole call on to a node only if the arguments are plain values, so
        that locks are waited for as long as a statement may take.
        """
        self._group_commit.shares = self._bounds_locks = False
        self._patience_seconds = PATIENCE_OF_COORDINATORS

    def at(self, host: str, port: int, settings: Mapping[str, str]) -> "Database":
        """As many connections to another server, with all else that the URL says."""
        return Database(
            self.url,
            pool_size=self._pool_size,
            timeout_seconds=self._timeout_seconds,
            at=(host, port),
            settings=settings,
            pooled=self._pooled,
        )

    # What a row is, its statement says: each store's functions have types for theirs (`rows.py`).

    async def fetchrow(self, statement: str, *arguments: Any) -> Any | None:
        """Run one statement in a transaction of its own and give its first row."""
        row: Any | None = await self._run(HeldConnection.fetchrow, statement, arguments)
        return row

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        """Run one statement in a transaction of its own and give the first column of its first row."""
        return await self._run(HeldConnection.fetchval, statement, arguments)

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """Run one statement in a transaction of its own and give its rows."""
        rows: list[Any] = await self._run(HeldConnection.fetch, statement, arguments)
        return rows

    def fetchrow_in_group(
        self,
        bucket: int,
        characters: int,
        statement: str,
        *arguments: Any,
        key: Hashable = None,
        wait_seconds: float | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run a statement that returns one row and locks rows of one bucket only. Statements that arrive while one is
        under way share a transaction: see `group_commit`.

        Args:
            characters: how much it writes, roughly.
            key: names the rows that it locks; the bucket if left out.
            wait_seconds: how long it may wait for them; as long as any statement may take if left out.

        Raises:
            ThreadLocked: other transactions have held these rows for so long. Nothing was done.
        """
        return self._group_commit.fetchrow(
            bucket,
            statement,
            arguments,
            key=bucket if key is None else key,
            by_itself=characters > MOST_CHARACTERS,
            wait_seconds=wait_seconds,
        )

    def fetchrow_by_itself(
        self, bucket: int, key: Hashable, statement: str, *arguments: Any
    ) -> Coroutine[Any, Any, Any | None]:
        """Run a statement that returns one row or none in a transaction of its own, one in a bucket at a time, that
        waits for locks as those of `fetchrow_in_group` do.
        """
        return self._group_commit.fetchrow(bucket, statement, arguments, key=key, by_itself=True)

    def apart(self) -> AbstractAsyncContextManager[None]:
        """Within, each of this process's statements has a transaction of its own: see `GroupCommit.apart`."""
        return self._group_commit.apart()

    async def _fetch_alone(self, statement: str, *arguments: Any) -> Any:
        rows = await self._run(
            HeldConnection.first_row, bounded(statement) if self._bounds_locks else statement, arguments
        )
        return rows[0] if rows else None

    async def _fetch_together(self, statement: str, each: Sequence[tuple[Any, ...]]) -> list[Any]:
        try:
            rows: list[Any] = await self._run(HeldConnection.row_of_each, bounded(statement), each)
        except DatabaseUnavailable as error:
            cause = error.__cause__
            # Where there was no connection to be had, none of them has a better one.
            if isinstance(cause, asyncpg.PostgresError) and not isinstance(cause, UNAVAILABLE):
                raise Undone from error
            raise
        except asyncpg.PostgresError as error:
            raise Undone from error
        return rows

    @asynccontextmanager
    async def session(self) -> AsyncIterator[AsyncSession]:
        """An ORM session in a transaction, committed at the end.

        Raises:
            DatabaseUnavailable: the server is unavailable.
        """
        try:
            async with self._sessions() as session, session.begin():
                yield session
        except DBAPIError as error:
            if error.connection_invalidated or isinstance(error.orig, UNAVAILABLE):
                raise DatabaseUnavailable from error
            if may_pass(getattr(error.orig, "sqlstate", None)):
                raise DatabaseUnavailable from error
            if isinstance(error.orig.__cause__ if error.orig else None, UNAVAILABLE):
                raise DatabaseUnavailable from error
            raise
        except UNAVAILABLE as error:
            raise DatabaseUnavailable from error

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()
        await self.engine.dispose()

    async def _run(self, run: Run, statement: str, arguments: Sequence[Any]) -> Any:
        held = self._idle.pop() if self._idle and not self._idle[-1].is_closed() else await self._take()
        try:
            if self._pooled:
                # Behind a pooler, a statement is prepared and run on one server only within a transaction.
                async with held.connection.transaction():
                    answer = await run(held, statement, arguments)
            else:
                answer = await run(held, statement, arguments)
        except UNAVAILABLE as error:
            self._drop(held)
            raise DatabaseUnavailable from error
        except asyncpg.InvalidCachedStatementError:
            # Nothing was done: what the statement reads was changed since it was prepared.
            held.forget_prepared()
            self._give_back(held)
            return await self._run(run, statement, arguments)
        except asyncpg.PostgresError as error:
            if error.sqlstate == READ_ONLY:
                self._drop(held)  # The next connection may find the server that is writable now.
            else:
                self._give_back(held)
            if may_pass(error.sqlstate):
                raise DatabaseUnavailable from error
            raise
        except BaseException:
            # Cancelled, for one: asyncpg cancels the running statement, and the connection may be busy with that.
            self._drop(held)
            raise
        self._give_back(held)
        return answer

    # SQLAlchemy's pool costs 0.04 ms of CPU a statement, and asyncpg's, without its reset, 0.04 to 0.07 ms more than
    # this one: 4 to 15% of a turn, which takes a connection twice. So most connections are held here, and go from
    # statement to statement. Who waits for one gets the next that is free, in the order of their coming.

    async def _take(self) -> HeldConnection:
        """A connection that is nobody else's until it is given back or dropped."""
        while self._idle:
            held = self._idle.pop()
            if not held.is_closed():
                return held
            self._drop(held)
        if AT_HAND <= self._held < self._most_held:
            with suppress(DatabaseUnavailable):
                handed_over = await self._wait(self._patience_seconds)
                return await self._take() if handed_over is None else handed_over
        # One at a time, once there are some: whoever waits for the new one has it soon.
        if self._held < (min(AT_HAND, self._most_held) if self._opening else self._most_held):
            self._held += 1
            self._opening += 1
            try:
                return HeldConnection(await self.engine.raw_connection(), prepares=not self._pooled)
            except BaseException as error:
                self._free_place()
                if isinstance(error, (*UNAVAILABLE, SQLAlchemyError, self._refused)):
                    raise DatabaseUnavailable from error
                raise
            finally:
                self._opening -= 1
        handed_over = await self._wait(self._timeout_seconds)
        return await self._take() if handed_over is None else handed_over

    async def _wait(self, seconds: float) -> HeldConnection | None:
        """The next connection that is given back; None if there is only a place for a new one.

        Raises:
            DatabaseUnavailable: none was for so long.
        """
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[HeldConnection | None] = loop.create_future()
        self._waiting.append(waiter)
        timer = loop.call_later(seconds, _give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._pass_on(waiter.result())
            raise
        finally:
            timer.cancel()

    def _give_back(self, held: HeldConnection) -> None:
        if not self._waiting:
            self._idle.append(held)
        elif held.is_closed():
            self._drop(held)
        else:
            self._pass_on(held)

    def _drop(self, held: HeldConnection) -> None:
        held.drop()
        self._free_place()

    def _free_place(self) -> None:
        self._held -= 1
        self._pass_on(None)

    def _pass_on(self, held: HeldConnection | None) -> None:
        """Hand a connection, or the place for one, to who has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(held)
                return
        if held is not None:
            self._idle.append(held)


def may_pass(sqlstate: str | None) -> bool:
    """Return True if a statement that failed with this SQLSTATE may succeed on a retry."""
    return sqlstate is not None and sqlstate.startswith(MAY_PASS)


@cache
def bounded(statement: str) -> str:
    """Return a statement that sets `lock_timeout` for its transaction while it takes its first argument.

    A SET of its own would be another round trip. The first argument must be one of a function, which is evaluated
    before the function runs, or a value to insert: in a condition, it would keep an index from being used.
    """
    set_first = f"CASE WHEN set_config('lock_timeout', '{LOCK_TIMEOUT}', true) IS NOT NULL THEN \\g<0> END"
    return _FIRST_ARGUMENT.sub(set_first, statement, count=1)


def _give_up(waiter: "asyncio.Future[Any]") -> None:
    if not waiter.done():
        waiter.set_exception(DatabaseUnavailable())


def _json(value: Any) -> str:
    """The text that both paths write, so that digests of a content fit it whichever wrote it."""
    return orjson.dumps(value).decode()


def _refuse_closed(dbapi_connection: Any, record: Any, proxy: Any) -> None:
    """Replace a connection that the server has closed, without a round trip to find out."""
    if dbapi_connection.driver_connection.is_closed():
        raise DisconnectionError
