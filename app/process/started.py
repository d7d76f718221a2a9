"""The started parts of a process, which are stopped in reverse order."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import structlog

log = structlog.get_logger()

Stop = Callable[[], Awaitable[object]]


class Started(AsyncExitStack):
    """An exit stack with a time limit for all of it: a part that does not stop in time is left behind, and logged."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._until: float | None = None

    def to_stop(self, stop: Stop) -> None:
        """Stop a part at the end, before all that were added earlier."""
        self.push_async_callback(self._in_time, stop)

    async def _in_time(self, stop: Stop) -> None:
        if self._until is None:
            self._until = asyncio.get_running_loop().time() + self._seconds
        try:
            async with asyncio.timeout_at(self._until):
                await stop()
        except TimeoutError:
            log.error(
                "a part does not stop in time; the last charges and statistics may be missing from the usage",
                part=getattr(stop, "__qualname__", repr(stop)),
            )
