"""Base of a worker's background tasks, which run from its start to its end."""

import asyncio

import structlog

from app.http.errors import DatabaseUnavailable

log = structlog.get_logger()

RESTART_SECONDS = 1.0


class Background:
    """Work that goes on until it is stopped. If it fails in a way it does not know, it says so and begins again."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None
        self._restart: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self.run(), name=type(self).__name__)
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        if self._restart is not None:
            self._restart.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run(self) -> None:
        """Go on until cancelled, or until there is nothing left to do."""
        raise NotImplementedError

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or (error := task.exception()) is None:
            return
        log.error("background work failed; it begins again", work=task.get_name(), exc_info=error)
        self._restart = asyncio.get_running_loop().call_later(RESTART_SECONDS, self.start)


class WriteBehind(Background):
    """Values in memory that are written to Postgres at an interval. A killed process loses the latest."""

    what: str
    """Name of the values in logs."""

    def __init__(self, *, every_seconds: float) -> None:
        super().__init__()
        self._every_seconds = every_seconds

    async def write(self) -> None:
        """Write the values. They are kept if this fails.

        Raises:
            DatabaseUnavailable: Postgres is unavailable.
        """
        raise NotImplementedError

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._every_seconds)
            try:
                await self.write()
            except DatabaseUnavailable:
                log.warning("Postgres is unavailable; values are written later", what=self.what)

    async def stop(self) -> None:
        await super().stop()
        try:
            await self.write()
        except DatabaseUnavailable:
            log.error("Postgres is unavailable; the latest values are lost", what=self.what)
