"""A stream's events in Redis, for listeners in other workers and for those who come back.

Events go there in batches: an entry holds the number of its first event, and the events as they were sent.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from uuid import UUID

import structlog
from redis.exceptions import RedisError

from app.cache.client import Cache, reason
from app.cache.connect import Client
from app.cache.value_mac import ValueMac
from app.sealing import opening
from app.sealing.at_rest import ContentCipher
from app.sealing.ciphertext import CannotOpen, Place
from app.telemetry import metrics

log = structlog.get_logger()

BLOCK_MILLISECONDS = 250
BATCH = 200
FORGOTTEN_AT_ONCE = 1000


class LogBroken(Exception):
    """The log is unavailable or has a gap: it cannot be read further."""


class EventLog:
    def __init__(self, cache: Cache, mac: ValueMac, *, keep_seconds: int) -> None:
        self._cache = cache
        self._mac = mac
        self._keep_seconds = keep_seconds

    async def append(
        self, project_id: UUID, turn_id: UUID, first: int, frames: list[bytes], sealer: ContentCipher, *, last: bool
    ) -> bool:
        """Write a batch in one round trip. False if Redis is unavailable: the turn continues without its log.

        Args:
            sealer: the project's.
        """
        key = _key(project_id, turn_id)
        number, data, end = b"%d" % first, _sealed(sealer, project_id, turn_id, first, frames), b"1" if last else b"0"
        mac = self._mac.mac(key, number, data, end)
        entry = ("XADD", key, "*", "n", number, "d", data, "end", end, "mac", mac)
        try:
            await self._cache.execute(entry, ("EXPIRE", key, self._keep_seconds))
        except (RedisError, OSError) as error:
            metrics.REDIS_ERRORS.inc()
            log.warning("events are not logged: this stream cannot be resumed in another worker", error=reason(error))
            return False
        return True

    async def forget(self, project_id: UUID, turn_ids: Sequence[UUID]) -> None:
        """Delete the events of turns. Without Redis they go by themselves, when their time is over."""
        try:
            for start in range(0, len(turn_ids), FORGOTTEN_AT_ONCE):
                keys = [_key(project_id, turn_id) for turn_id in turn_ids[start : start + FORGOTTEN_AT_ONCE]]
                await self._cache.call(lambda client, keys=keys: client.unlink(*keys))  # type: ignore[misc]
        except (RedisError, OSError) as error:
            metrics.REDIS_ERRORS.inc()
            log.warning("Redis does not answer; events of deleted turns stay until they expire", error=reason(error))

    async def read(self, project_id: UUID, turn_id: UUID) -> tuple[list[bytes], bool]:
        """All events so far, and whether the last of them is the turn's last.

        Raises:
            LogBroken: there is none, or not from the beginning on.
        """
        frames: list[bytes] = []
        async for batch, ended in self.follow(project_id, turn_id, 0, wait=False):
            frames += batch
            if ended:
                return frames, True
        return frames, False

    async def follow(
        self, project_id: UUID, turn_id: UUID, start: int, *, wait: bool = True
    ) -> AsyncIterator[tuple[list[bytes], bool]]:
        """Batches of events from number `start` on, and whether each is the last.

        Args:
            wait: go on waiting for new ones; an empty batch is given from time to time, so that the reader
                can look whether the turn still runs.

        Raises:
            LogBroken: Redis is unavailable, or events are missing.
        """
        key, position, expected = _key(project_id, turn_id), b"0", 0
        block = BLOCK_MILLISECONDS if wait else None
        while True:
            try:
                answer = await self._cache.call(_reads(key, position, block))
            except (RedisError, OSError) as error:
                raise LogBroken(str(error)) from error
            entries = _entries(answer)
            if not entries:
                yield [], False
                if not wait:
                    return
                continue
            for entry_id, fields in entries:
                position = entry_id
                number, data, end = (fields.get(name, b"") for name in (b"n", b"d", b"end"))
                if not self._mac.holds(fields.get(b"mac"), key, number, data, end):
                    log.warning("an entry of an event log is none of ours and is passed over")
                    continue
                first = int(number)
                if first > expected:
                    raise LogBroken(f"events {expected} to {first} are missing")
                if first < expected:
                    continue  # An entry of ours that somebody has written again.
                try:
                    said = opening.content(_place(project_id, turn_id, first), "events", data)
                except CannotOpen as error:
                    raise LogBroken("its events cannot be opened") from error
                frames = [frame + b"\n\n" for frame in said.split(b"\n\n") if frame]
                expected += len(frames)
                ended = end == b"1"
                if (wanted := frames[max(0, start - first) :]) or ended:
                    yield wanted, ended
                if ended:
                    return


def _reads(key: str, position: bytes, block: int | None) -> "Callable[[Client], Awaitable[object]]":
    return lambda client: client.xread({key: position}, count=BATCH, block=block)


def _entries(answer: object) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """The entries of the one stream that was read, in the protocol's older and newer form."""
    if not answer:
        return []
    if isinstance(answer, dict):
        (entries,) = answer.values()
        return list(entries[0] if entries and isinstance(entries[0], list) else entries)
    assert isinstance(answer, list)
    return list(answer[0][1])


def _sealed(sealer: ContentCipher, project_id: UUID, turn_id: UUID, first: int, frames: list[bytes]) -> bytes:
    return sealer.bytes(_place(project_id, turn_id, first), "events", b"".join(frames))


def _place(project_id: UUID, turn_id: UUID, first: int) -> Place:
    """Return the place of a batch, by the number of its first event."""
    return Place(project_id, "event log", (turn_id, first))


def _key(project_id: UUID, turn_id: UUID) -> str:
    return f"everthread:{project_id.hex}:events:{turn_id.hex}"
