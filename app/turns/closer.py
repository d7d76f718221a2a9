"""Closing turns: in Postgres, however long it is unavailable, and on disk first once the process is stopping."""

import asyncio
from dataclasses import dataclass

import structlog

from app.db import ids
from app.http.errors import DatabaseUnavailable, ServiceStopping
from app.process.stopping import CLOSE_SECONDS
from app.turns.closing import Closing
from app.turns.spool import Spool
from app.turns.store import Closable, TurnStore

log = structlog.get_logger()

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 2.0

DISK_SECONDS = 1.0
"""Time for the disk to write a file before Postgres is tried without it."""


@dataclass(eq=False, slots=True)
class _Write:
    """A closing on its way to Postgres."""

    turn: Closable
    closing: Closing
    patience: asyncio.Timeout | None = None
    on_disk: "asyncio.Task[bool] | None" = None
    """The attempt to write it to the spool. Its result tells whether the file is there."""


class Closer:
    def __init__(self, store: TurnStore, spool: Spool) -> None:
        self._store = store
        self._spool = spool
        self._stopping = False
        self._gives_up_at: float | None = None
        """When, by the loop's clock, a closing that is on disk is left there."""
        self._writes: set[_Write] = set()

    def stop(self) -> None:
        """Write every closing to disk first from now on, those included that Postgres has been sent already."""
        self._stopping = True
        for write in self._writes:
            self._to_disk(write)

    def drained(self) -> None:
        """Give Postgres `CLOSE_SECONDS` more for every closing that is on disk."""
        if self._gives_up_at is not None:
            return
        self._gives_up_at = asyncio.get_running_loop().time() + CLOSE_SECONDS
        for write in self._writes:
            if write.patience is not None and not write.patience.expired():
                write.patience.reschedule(self._gives_up_at)

    async def close(self, turn: Closable, closing: Closing) -> Closing | None:
        """Close a turn. Its answer cannot be had again, so this ends only once the answer is kept.

        Returns:
            The closing as it was written; None if somebody else has closed or deleted the turn.

        Raises:
            ServiceStopping: Postgres has not taken it before the process has to end. It is on disk.
        """
        write = _Write(turn, closing)
        self._writes.add(write)
        try:
            if self._stopping:
                await self._is_on_disk(write)
            until = self._gives_up_at
            while True:
                try:
                    async with asyncio.timeout_at(until) as write.patience:
                        kept = await self._to_postgres(turn, closing)
                    break
                except TimeoutError:
                    if await self._is_on_disk(write):
                        raise _left_on_disk(turn) from None
                    # Neither takes it. Both are tried until the process is killed.
                    until = asyncio.get_running_loop().time() + LONGEST_PAUSE_SECONDS
            if write.on_disk is not None and await self._is_on_disk(write):
                await self._spool.remove(turn)
            return kept
        finally:
            self._writes.discard(write)

    async def _to_postgres(self, turn: Closable, closing: Closing) -> Closing | None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                return await self._store.close(turn, closing)
            except DatabaseUnavailable as error:
                log.warning("Postgres is unavailable; an answered turn waits to be closed", code=error.code)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _is_on_disk(self, write: _Write) -> bool:
        """Write a closing to the spool. Return False if it is not there, or not yet."""
        task = self._to_disk(write)
        await asyncio.wait({task}, timeout=DISK_SECONDS)
        return task.done() and task.result()

    def _to_disk(self, write: _Write) -> "asyncio.Task[bool]":
        """Begin to write a closing to the spool, unless it is there or on its way."""
        if write.on_disk is None or (write.on_disk.done() and not write.on_disk.result()):
            write.on_disk = asyncio.create_task(self._kept_on_disk(write.turn, write.closing))
        return write.on_disk

    async def _kept_on_disk(self, turn: Closable, closing: Closing) -> bool:
        try:
            await self._spool.write(turn, closing)
        except OSError as error:
            log.error(
                "this turn's answer cannot be written to the spool; it is lost if this process is killed before "
                "Postgres has taken it",
                error=error.strerror,
                **turn.in_logs,
            )
            return False
        return True


def _left_on_disk(turn: Closable) -> ServiceStopping:
    log.warning("Postgres has not taken this turn's answer; it is on disk until the next start", **turn.in_logs)
    return ServiceStopping(
        "The service is stopping, and the database has not taken the answer of this turn. The answer is kept and is "
        f"written when the service starts again: read turn {ids.turn_id(turn.id)} then, or send the request again "
        "with the same Idempotency-Key."
    )
