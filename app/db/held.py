"""A connection that single statements go over, one after the other, with the statements that are prepared on it."""

from collections.abc import Awaitable, Sequence
from typing import Any

import asyncpg

from app.telemetry import spans


class HeldConnection:
    """A connection of SQLAlchemy's pool that is not given back to it between two statements.

    Statements that return one row are the hot ones. They stay prepared and go straight to asyncpg's protocol, which
    takes no Python call, against 15 through `Connection.fetchrow`. The time limit is the connection's, as there.
    """

    __slots__ = ("_pooled", "_prepared", "_prepares", "_protocol", "connection", "is_closed")

    def __init__(self, pooled: Any, *, prepares: bool) -> None:
        """Args: prepares: False if nothing may stay prepared, as behind a pooler."""
        self._pooled = pooled
        self._prepares = prepares
        self.connection: asyncpg.Connection = pooled.driver_connection
        self.is_closed = self.connection.is_closed
        self._protocol: Any = self.connection._protocol
        self._prepared: dict[str, Any] = {}

    def first_row(self, statement: str, arguments: Sequence[Any]) -> Awaitable[list[Any]]:
        """Run a statement, and return a list with its first row, or an empty one."""
        prepared = self._prepared.get(statement)
        if prepared is None:
            return self._first_row(statement, arguments)
        rows: Awaitable[list[Any]] = self._protocol.bind_execute(prepared._state, arguments, "", 1, False, None)
        return rows

    def row_of_each(self, statement: str, each: Sequence[Sequence[Any]]) -> Awaitable[list[Any]]:
        """Run a statement with each of these arguments in one transaction, and return a row for each."""
        prepared = self._prepared.get(statement)
        if prepared is None:
            return self._row_of_each(statement, each)
        rows: Awaitable[list[Any]] = self._protocol.bind_execute_many(prepared._state, each, "", None, True)
        return rows

    async def _first_row(self, statement: str, arguments: Sequence[Any]) -> list[Any]:
        # OpenTelemetry's spans are made by asyncpg's own methods.
        if not self._prepares or spans.tracer is not None:
            row = await self.connection.fetchrow(statement, *arguments)
            return [] if row is None else [row]
        self._prepared[statement] = await self.connection.prepare(statement)
        return await self.first_row(statement, arguments)

    async def _row_of_each(self, statement: str, each: Sequence[Sequence[Any]]) -> list[Any]:
        if not self._prepares or spans.tracer is not None:
            rows: list[Any] = await self.connection.fetchmany(statement, each)
            return rows
        self._prepared[statement] = await self.connection.prepare(statement)
        return await self.row_of_each(statement, each)

    def forget_prepared(self) -> None:
        """Prepare all statements again: what they read was changed meanwhile."""
        self._prepared.clear()

    def drop(self) -> None:
        """Close the connection, and free its place in the pool."""
        self._pooled.invalidate()
        self._pooled.close()

    def close(self) -> None:
        """Give the connection back to the pool."""
        self._pooled.close()

    def fetch(self, statement: str, arguments: Sequence[Any]) -> Awaitable[list[Any]]:
        return self.connection.fetch(statement, *arguments)

    def fetchrow(self, statement: str, arguments: Sequence[Any]) -> Awaitable[Any]:
        return self.connection.fetchrow(statement, *arguments)

    def fetchval(self, statement: str, arguments: Sequence[Any]) -> Awaitable[Any]:
        return self.connection.fetchval(statement, *arguments)
