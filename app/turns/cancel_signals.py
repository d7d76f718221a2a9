"""Cancel requests, which any worker takes, on their way to the worker that runs the turn.

The flag in the turn's row is what counts; Redis only says at once that it is there.
"""

from collections.abc import Sequence
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from app.cache.client import Cache, reason
from app.cache.value_mac import ValueMac

log = structlog.get_logger()

CHANNEL = "everthread:cancel"


class CancelSignals:
    """Tells every worker that a turn is to be stopped."""

    def __init__(self, cache: Cache, mac: ValueMac) -> None:
        self._cache = cache
        self._mac = mac

    async def send(self, turn_ids: Sequence[UUID]) -> None:
        for turn_id in turn_ids:
            message = self._mac.signed(CHANNEL, turn_id.bytes)
            try:
                await self._cache.execute(("PUBLISH", CHANNEL, message))
            except (RedisError, OSError) as error:
                log.warning("Redis does not answer; the worker of a turn sees by itself that it is cancelled",
                            error=reason(error))  # fmt: skip

    def received(self, message: object) -> UUID | None:
        """The turn that a message names; None if no worker of this database has sent it."""
        opened = self._mac.verified(CHANNEL, message)
        return UUID(bytes=opened) if opened is not None and len(opened) == 16 else None
