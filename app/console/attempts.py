"""Attempts to sign in to the console, counted per address for all workers."""

import time
from collections import OrderedDict

import structlog
from redis.exceptions import RedisError

from app.cache.client import Cache, reason
from app.telemetry import metrics

log = structlog.get_logger()

MOST_ATTEMPTS = 10
ATTEMPT_SECONDS = 60
MOST_ADDRESSES = 10_000
"""The most addresses whose attempts one worker counts by itself."""


class SignInAttempts:
    """Counters in Redis that expire a minute after the first attempt; in memory while Redis is unavailable."""

    def __init__(self, cache: Cache) -> None:
        self._cache = cache
        self._local: OrderedDict[str, tuple[float, int]] = OrderedDict()
        """The end of each address's minute, and its count."""

    async def may_try(self, address: str) -> bool:
        """Count an attempt, and return False if the address has made too many."""
        key = _key(address)
        try:
            count = await self._cache.execute(("SET", key, 0, "EX", ATTEMPT_SECONDS, "NX"), ("INCR", key))
            if count == 1:  # The key may have expired between the two.
                self._cache.send(("EXPIRE", key, ATTEMPT_SECONDS))
        except (RedisError, OSError) as error:
            log.warning("Redis is unavailable; this worker counts attempts to sign in by itself", error=reason(error))
            metrics.REDIS_ERRORS.inc()
            count = self._counted(address)
        return int(count) <= MOST_ATTEMPTS

    def succeeded(self, address: str) -> None:
        """Forget the attempts of an address."""
        self._local.pop(address, None)
        self._cache.send(("DEL", _key(address)))

    def _counted(self, address: str) -> int:
        now = time.monotonic()
        until, count = self._local.pop(address, (now + ATTEMPT_SECONDS, 0))
        if until < now:
            until, count = now + ATTEMPT_SECONDS, 0
        self._local[address] = until, count + 1
        while len(self._local) > MOST_ADDRESSES:
            self._local.popitem(last=False)
        return count + 1


def _key(address: str) -> str:
    return f"everthread:sign-in:{address}"
