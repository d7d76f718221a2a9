"""Record of the events of a turn's stream: for listeners, for the event log in Redis, and for its pace."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

from app.sealing.at_rest import ContentCipher
from app.turns.event_log import EventLog
from app.turns.events import Events
from app.turns.pace import Pace


class Recorder:
    def __init__(
        self,
        event_log: EventLog,
        project_id: UUID,
        turn_id: UUID,
        sealer: ContentCipher,
        *,
        logs: bool,
        flush_seconds: float,
    ) -> None:
        """Args: logs: whether events go to the log. flush_seconds: how long they are gathered before they do."""
        self.events = Events()
        self.pace = Pace()
        self._event_log = event_log
        self._project_id = project_id
        self._turn_id = turn_id
        self._sealer = sealer
        self._logs = logs
        self._flush_seconds = flush_seconds
        self._began_at = time.monotonic()
        self._logged = 0
        """The number of events that are in the event log, or on their way."""
        self._timer: asyncio.TimerHandle | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._lock: asyncio.Lock | None = None

    def record(self, frames: list[bytes]) -> None:
        """Take down events that are sent on now."""
        self.events.publish(frames)
        self.pace.arrived(int(self.seconds() * 1000))
        if self._timer is None and self._logs:
            self._timer = asyncio.get_running_loop().call_later(self._flush_seconds, self._flush)

    def seconds(self) -> float:
        """Since the turn was opened."""
        return time.monotonic() - self._began_at

    async def end(self) -> None:
        """Log what has not been logged: the turn's last event is among it."""
        if not self._logs:
            return
        self._stop_timer()
        await self._write(last=True)

    async def leave(self) -> None:
        """Log what has not been logged, and nothing more: the turn's end is told by whoever closes it."""
        self._stop_timer()
        await self._write(last=False)
        self._logs = False

    async def abandon(self, is_there: Callable[[], Awaitable[bool]]) -> bool:
        """Log nothing more: somebody else has closed the turn, or deleted it. Then what was logged goes, too.

        Returns:
            Whether the turn is there.
        """
        self._stop_timer()
        self._logs = False
        async with self._writing():
            if await is_there():
                return True
            await self._event_log.forget(self._project_id, [self._turn_id])
            return False

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _flush(self) -> None:
        self._timer = None
        self._flushing = asyncio.create_task(self._write(last=False))

    def _writing(self) -> asyncio.Lock:
        """Return the lock of writing, which most turns do not need."""
        if self._lock is None:
            self._lock = asyncio.Lock()
        return self._lock

    async def _write(self, *, last: bool) -> None:
        """Write the events that are not in the event log yet, in one batch."""
        async with self._writing():
            if not self._logs:
                return
            frames = self.events.since(self._logged)
            if not (frames or last):
                return
            first, self._logged = self._logged, self._logged + len(frames)
            # After a gap, it is not written on.
            self._logs = await self._event_log.append(
                self._project_id, self._turn_id, first, frames, self._sealer, last=last
            )
