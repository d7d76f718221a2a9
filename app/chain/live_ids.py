"""The live response id of each thread's latest turn, in Redis, for what is left of its seven days.

An entry names the turn it belongs to, and what a turn's response id is never changes: an entry that
is out of date names another turn than the parent, and counts as a miss. So does one whose MAC
does not hold. Without Redis every read is a miss, and Postgres answers.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
import structlog
from redis.exceptions import RedisError

from app.cache.client import Cache, reason
from app.cache.value_mac import ValueMac
from app.chain.context import Context
from app.db import ids
from app.process.values import value
from app.telemetry import metrics

log = structlog.get_logger()


@value
class LiveId:
    """A response id, and all that decides whether it can be chained on."""

    turn_id: UUID
    response_id: str
    binding: str
    model: str
    expires_at: float
    """Unix seconds, the safety margin not yet taken off."""
    context: Context
    """Content of the chain, and what was left out of it."""
    open_calls: Sequence[str] = ()
    """The tool calls that it ends with, and that wait for their outputs."""
    refused: bool = False
    """True after content inspection refused the last turn that was chained on it."""


class LiveIds:
    def __init__(self, cache: Cache, mac: ValueMac, *, margin_seconds: float) -> None:
        self._cache = cache
        self._mac = mac
        self._margin_seconds = margin_seconds

    def prefetch(self, project_id: UUID, thread_id: UUID) -> "asyncio.Future[Any] | None":
        """Send a look-up whose answer a later `get` awaits; None while Redis is unavailable."""
        return self._cache.ask(("GET", _key(project_id, thread_id)))

    async def get(
        self, project_id: UUID, thread_id: UUID, prefetched: "asyncio.Future[Any] | None" = None
    ) -> LiveId | None:
        """Return the cached state of the thread's latest response id.

        Args:
            prefetched: the answer to a look-up that was sent earlier.
        """
        key = _key(project_id, thread_id)
        try:
            value = await (prefetched or self._cache.execute(("GET", key)))
        except (RedisError, OSError) as error:
            _say_away(error)
            return None
        return None if value is None else _decode(self._mac.verified(key, value))

    async def put(self, project_id: UUID, thread_id: UUID, live: LiveId) -> None:
        """Keep an id for as long as it can be chained on; one past that is not kept."""
        left = live.expires_at - self._margin_seconds - time.time()
        if left < 1:
            await self.forget(project_id, thread_id)
            return
        key = _key(project_id, thread_id)
        command = ("SET", key, self._mac.signed(key, orjson.dumps(_fields(live))), "PX", int(left * 1000))
        try:
            if self._cache.send(command) is None:
                await self._cache.execute(command)
        except (RedisError, OSError) as error:
            _say_away(error)

    async def forget(self, project_id: UUID, thread_id: UUID) -> None:
        try:
            await self._cache.execute(("DEL", _key(project_id, thread_id)))
        except (RedisError, OSError) as error:
            _say_away(error)


def _fields(live: LiveId) -> dict[str, Any]:
    return {
        "turn_id": live.turn_id.hex,
        "response_id": live.response_id,
        "binding": live.binding,
        "model": live.model,
        "expires_at": live.expires_at,
        "context": live.context.values(),
        "open_calls": list(live.open_calls),
        "refused": live.refused,
    }


def _key(project_id: UUID, thread_id: UUID) -> str:
    return f"everthread:{project_id.int:032x}:live:{thread_id.int:032x}"


def _decode(value: bytes | None) -> LiveId | None:
    """A live id from an entry whose MAC is right; entries of other releases may have other fields."""
    try:
        fields: dict[str, Any] = orjson.loads(value or b"")
        fields["turn_id"] = ids.uuid_of(int(fields["turn_id"], 16))
        fields["context"] = Context.from_values(*fields["context"])
        return LiveId(**fields)
    except (ValueError, TypeError, KeyError):
        log.warning("a live id in Redis is none of ours and is passed over")
        return None


def _say_away(error: Exception) -> None:
    metrics.REDIS_ERRORS.inc()
    log.warning("Redis does not answer; the turn goes on without it", error=reason(error))
