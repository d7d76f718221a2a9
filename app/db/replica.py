"""Reads from a replica, for queries that may be slightly stale: search, usage, the audit trail's export.

Nothing that a client has just written, and now reads back, comes from here. A replica that is too far behind, or away,
is not asked: the primary is.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from app.db.buckets import DATABASE_KEY
from app.db.engine import Database
from app.http.errors import DatabaseUnavailable
from app.process.background import Background

log = structlog.get_logger()

T = TypeVar("T")

LOOK_SECONDS = 1.0
POLL_SECONDS = 0.05

OTHER = "not a replica of this database"

# Positions in the log, in bytes. What a replica has received and replayed says nothing of what it has not received:
# it is held against where the primary was a while ago.
WRITTEN = "SELECT pg_current_wal_lsn() - '0/0'::pg_lsn AS position"
REPLAYED = f"""
SELECT pg_is_in_recovery() AS is_replica, pg_last_wal_replay_lsn() - '0/0'::pg_lsn AS position, ({DATABASE_KEY}) AS key
"""


class ReplicaReads(Background):
    """Choice of the database to read: the replica, if it is current enough, else the primary."""

    def __init__(self, primary: Database, replica: Database | None, *, key: bytes, lag_seconds: float) -> None:
        """Args: key: the database's own, by which a replica of another one is told. lag_seconds: see settings."""
        super().__init__()
        self._primary = primary
        self._replica = replica
        self._key = key
        self._lag_seconds = lag_seconds
        self._written: deque[tuple[float, int]] = deque()
        self._fresh_at: float | None = None
        """Lower bound of the moment whose data the replica has."""
        self._state = "unknown"

    @property
    def state(self) -> str | None:
        """Return the replica's state for /readyz: `ok`, or why it is not used; None without a replica."""
        if self._replica is None:
            return None
        return self._state if self._fresh_at is None or self._is_fresh() else "behind"

    async def read(self, work: Callable[[Database], Awaitable[T]]) -> T:
        """Read from where it is best. What the replica cannot answer, the primary is asked.

        Raises:
            DatabaseUnavailable: neither of them is there.
        """
        if self._replica is not None and self._is_fresh():
            try:
                return await work(self._replica)
            except DatabaseUnavailable:
                self._lose("unreachable")
        return await work(self._primary)

    async def with_all_so_far(self) -> Database:
        """Return a database with everything written so far: the replica, if it catches up soon."""
        return await self.caught_up() if self._is_fresh() else self._primary

    async def caught_up(self) -> Database:
        """The same, also where nobody has looked at the replica before: a command, for one."""
        if self._replica is not None:
            try:
                position, until = await self._position(), time.monotonic() + self._lag_seconds
                while time.monotonic() < until:
                    if await self._replayed(self._replica) >= position:
                        return self._replica
                    await asyncio.sleep(POLL_SECONDS)
                self._lose("behind")
            except DatabaseUnavailable:
                self._lose("unreachable")
            except NotAReplica:
                self._lose(OTHER)
        return self._primary

    async def stop(self) -> None:
        await super().stop()
        if self._replica is not None:
            await self._replica.close()

    def _lose(self, state: str) -> None:
        """Do not ask it until it has been looked at again."""
        self._fresh_at, self._state = None, state

    def _is_fresh(self) -> bool:
        return self._fresh_at is not None and time.monotonic() - self._fresh_at <= self._lag_seconds

    async def run(self) -> None:
        while self._replica is not None:
            before = self._state
            await self._look(self._replica)
            if self._state not in (before, "ok"):
                log.warning("the replica is not read from", state=self._state)
            await asyncio.sleep(LOOK_SECONDS)

    async def _look(self, replica: Database) -> None:
        """Find out of what moment the replica is."""
        now = time.monotonic()
        try:
            self._written.append((now, await self._position()))
        except DatabaseUnavailable:
            return  # What was known of the replica holds for as long as it may.
        while self._written and now - self._written[0][0] > self._lag_seconds + LOOK_SECONDS:
            self._written.popleft()
        try:
            replayed = await self._replayed(replica)
        except DatabaseUnavailable:
            self._lose("unreachable")
            return
        except NotAReplica:
            self._lose(OTHER)
            return
        self._fresh_at = max((at for at, position in self._written if position <= replayed), default=None)
        self._state = "ok" if self._fresh_at is not None else "behind"

    async def _position(self) -> int:
        return int(await self._primary.fetchval(WRITTEN))

    async def _replayed(self, replica: Database) -> int:
        """Raises: NotAReplica: it is none of this database's, or was promoted."""
        row = await replica.fetchrow(REPLAYED)
        if row is None or not row["is_replica"] or row["position"] is None or row["key"] != self._key:
            raise NotAReplica
        return int(row["position"])


class NotAReplica(Exception):
    """A server that was named as one, and is none of this database's, or not any more."""
