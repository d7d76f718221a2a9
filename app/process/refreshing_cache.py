"""Cache that refreshes itself in the background: a request waits for a look-up only if no cached value is new
enough."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable
from typing import Generic, TypeVar

import structlog

from app.http.errors import DatabaseUnavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

log = structlog.get_logger()

LookUp = Callable[[], Awaitable[V | None]]

MOST_KEPT = 10_000


class RefreshingCache(Generic[K, V]):
    """Values by their keys. What is not there is looked up each time."""

    def __init__(self, what: str, *, seconds: float, renewed_after: float) -> None:
        """Args:
        what: as the log names it.
        seconds: how old a value may be that is given; `renewed_after`, how old one is that is looked up again
            meanwhile.
        """
        self._what = what
        self._seconds = seconds
        self._renewed_after = renewed_after
        self._known: dict[K, tuple[float, V]] = {}
        self._renewing: dict[K, asyncio.Task[None]] = {}

    async def get(self, key: K, look_up: LookUp[V]) -> V | None:
        """A value; None where there is none.

        Raises:
            DatabaseUnavailable: it has to be looked up, and cannot be.
        """
        known, now = self._known.get(key), time.monotonic()
        if known is None or now >= known[0] + self._seconds:
            return await self._looked_up(key, look_up)
        if now >= known[0] + self._renewed_after and key not in self._renewing:
            renewing = asyncio.create_task(self._renew(key, look_up), name=self._what)
            self._renewing[key] = renewing
            renewing.add_done_callback(lambda _: self._renewing.pop(key, None))
        return known[1]

    def fresh(self, key: K) -> V | None:
        """Return a value that need not be looked up again yet; None if there is none."""
        known = self._known.get(key)
        return known[1] if known is not None and time.monotonic() < known[0] + self._renewed_after else None

    def peek(self, key: K) -> V | None:
        """Return the last value, even if it is old, without loading it; None if there is none."""
        known = self._known.get(key)
        return None if known is None else known[1]

    def values(self) -> Iterable[V]:
        """All that were given last, old ones too."""
        return [value for _, value in self._known.values()]

    def forget(self, are_old: Callable[[V], bool] = lambda _: True) -> None:
        """Refresh values that have changed."""
        self._known = {
            key: (-math.inf if are_old(value) else asked_at, value) for key, (asked_at, value) in self._known.items()
        }

    async def stop(self) -> None:
        for task in list(self._renewing.values()):
            task.cancel()
        await asyncio.gather(*self._renewing.values(), return_exceptions=True)

    async def _renew(self, key: K, look_up: LookUp[V]) -> None:
        try:
            await self._looked_up(key, look_up)
        except DatabaseUnavailable:
            log.info("Postgres is unavailable; what was looked up is good for a while still", what=self._what)

    async def _looked_up(self, key: K, look_up: LookUp[V]) -> V | None:
        asked_at = time.monotonic()
        value = await look_up()
        if value is None:
            self._known.pop(key, None)
            return None
        if len(self._known) >= MOST_KEPT:
            self._known.clear()
        self._known[key] = (asked_at, value)
        return value
