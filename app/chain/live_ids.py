"""The live response id of each thread's latest turn, in Redis, for what is left of its seven days.

An entry names the turn it belongs to, and what a turn's response id is never changes: an entry that
is out of date names another turn than the parent, and counts as a miss. Without Redis every read is
a miss, and Postgres answers.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
import structlog
from redis.exceptions import RedisError

from app import metrics
from app.chain.wire import Wire

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class LiveId:
    """A response id, and all that decides whether it can be chained on."""

    turn_id: UUID
    response_id: str
    binding: str
    model: str
    expires_at: float
    """Unix seconds, the safety margin not yet taken off."""
    context_tokens: int
    """What the chain holds: the tokens that the provider counted for the turn, in and out."""


class LiveIds:
    def __init__(self, wire: Wire, *, margin_seconds: float) -> None:
        self._wire = wire
        self._margin_seconds = margin_seconds

    def ask(self, project_id: UUID, thread_id: UUID) -> "asyncio.Future[Any] | None":
        """Begin to look, for a `get` that comes later."""
        return self._wire.ask(("GET", _key(project_id, thread_id)))

    async def get(self, project_id: UUID, thread_id: UUID, asked: "asyncio.Future[Any] | None" = None) -> LiveId | None:
        """What is known of the thread's latest response id.

        Args:
            asked: the question, if it is on its way already.
        """
        try:
            question = asked or self._wire.execute(("GET", _key(project_id, thread_id)))
            return _decode(await question)
        except (RedisError, OSError) as error:
            _say_away(error)
            return None

    async def put(self, project_id: UUID, thread_id: UUID, live: LiveId) -> None:
        """Keep an id for as long as it can be chained on; one past that is not kept."""
        left = live.expires_at - self._margin_seconds - time.time()
        if left < 1:
            await self.forget(project_id, thread_id)
            return
        try:
            command = ("SET", _key(project_id, thread_id), orjson.dumps(_fields(live)), "PX", int(left * 1000))
            if not self._wire.tell(command):
                await self._wire.execute(command)
        except (RedisError, OSError) as error:
            _say_away(error)

    async def forget(self, project_id: UUID, thread_id: UUID) -> None:
        try:
            await self._wire.execute(("DEL", _key(project_id, thread_id)))
        except (RedisError, OSError) as error:
            _say_away(error)


def _fields(live: LiveId) -> dict[str, Any]:
    return {
        "turn_id": live.turn_id.hex,
        "response_id": live.response_id,
        "binding": live.binding,
        "model": live.model,
        "expires_at": live.expires_at,
        "context_tokens": live.context_tokens,
    }


def _key(project_id: UUID, thread_id: UUID) -> str:
    return f"everthread:{project_id.hex}:live:{thread_id.hex}"


def _decode(value: bytes | str | None) -> LiveId | None:
    if value is None:
        return None
    try:
        fields: dict[str, Any] = orjson.loads(value)
        return LiveId(
            UUID(fields["turn_id"]),
            str(fields["response_id"]),
            str(fields["binding"]),
            str(fields["model"]),
            float(fields["expires_at"]),
            int(fields["context_tokens"]),
        )
    except (ValueError, TypeError, KeyError):
        log.warning("a live id in Redis cannot be read and is passed over")
        return None


def _say_away(error: Exception) -> None:
    metrics.REDIS_ERRORS.inc()
    log.warning("Redis does not answer; the turn goes on without it", error=str(error))
