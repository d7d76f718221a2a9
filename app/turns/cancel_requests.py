"""A worker hears of the turns of its own that are to be cancelled.

While Redis is unavailable, it looks for their flags in Postgres.
"""

import asyncio
from typing import Any

from redis.exceptions import RedisClusterException, RedisError

from app.cache.client import Cache
from app.http.errors import DatabaseUnavailable
from app.process.background import Background
from app.turns.cancel_signals import CHANNEL, CancelSignals
from app.turns.runner import Runner
from app.turns.store import TurnStore

LOOK_SECONDS = 1.0
"""Interval at which a worker looks for flags while Redis is unavailable."""

QUIET_SECONDS = 5.0
"""A connection on which nothing has arrived for so long is checked with a PING."""


class CancelRequests(Background):
    """Stops the turns of this worker that are to be cancelled."""

    def __init__(self, cache: Cache, signals: CancelSignals, store: TurnStore, runner: Runner) -> None:
        super().__init__()
        self._cache = cache
        self._signals = signals
        self._store = store
        self._runner = runner

    async def run(self) -> None:
        while True:
            try:
                await self._listen()
            except (RedisError, RedisClusterException, OSError):
                await self._look()
                await asyncio.sleep(LOOK_SECONDS)

    async def _listen(self) -> None:
        """Raises: RedisError, RedisClusterException, OSError: Redis is unavailable."""
        async with self._cache.pubsub() as pubsub:
            await pubsub.subscribe(CHANNEL)
            await self._look()  # What was asked for before this one listened.
            while True:
                message: dict[str, Any] | None = await pubsub.get_message(
                    ignore_subscribe_messages=True, timeout=QUIET_SECONDS
                )
                if message is None:
                    await self._cache.ping()
                elif (turn_id := self._signals.received(message["data"])) is not None:
                    self._runner.stop(turn_id)

    async def _look(self) -> None:
        running = self._runner.running()
        if not running:
            return
        try:
            cancelled = await self._store.cancelled(running)
        except DatabaseUnavailable:
            return
        for turn_id in cancelled:
            self._runner.stop(turn_id)
