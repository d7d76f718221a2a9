"""Leases: they end the turns of a worker that has died.

A worker renews the leases of the turns that it runs every third of their length. One that has died does not, and
another worker closes its turns as `incomplete`, `interrupted`, with what had reached the event log. A turn that
nobody runs, whatever worker's it is, is closed in the same way.
"""

import asyncio
import time
from uuid import UUID

import asyncpg
import structlog

from app.db import ids
from app.http.errors import DatabaseUnavailable, NotFound, ThreadLocked
from app.process.background import Background
from app.provider.events import own_frame
from app.sealing.ciphertext import CannotOpen
from app.sealing.content_keys import ContentKeys
from app.trail.records import SERVICE
from app.turns.closing import INTERRUPTED, Closing, broken_off, last_event
from app.turns.event_log import EventLog, LogBroken
from app.turns.replay import Replay
from app.turns.rows import ExpiredRow
from app.turns.runner import Runner
from app.turns.show import stored_response
from app.turns.spool import Spool
from app.turns.store import BRIEF_WAIT_SECONDS, TURNS, Closable, TurnStore
from app.turns.streamed import opening_of

log = structlog.get_logger()

DIED = {"code": INTERRUPTED, "message": "The worker of this turn has died. Nothing had been said; send it again."}


class Leases(Background):
    def __init__(
        self,
        store: TurnStore,
        runner: Runner,
        event_log: EventLog,
        replay: Replay,
        spool: Spool,
        content_keys: ContentKeys,
        *,
        lease_seconds: float,
    ) -> None:
        super().__init__()
        self._store = store
        self._runner = runner
        self._event_log = event_log
        self._replay = replay
        self._spool = spool
        self._content_keys = content_keys
        self._lease_seconds = lease_seconds

    async def run(self) -> None:
        steady_since = time.monotonic()
        while True:
            try:
                # First, as all else may wait for locks.
                for row in await self._store.renew_leases(self._runner.running()):
                    if row["cancel"]:
                        await self._runner.cancel(row["id"])
                await self._spool.empty(self._store)
                await self._store.close_unconfirmed()
                # After an outage of Postgres, other workers get time to renew before their turns are taken.
                if time.monotonic() - steady_since > self._lease_seconds / 2:
                    await self._close_expired()
            except DatabaseUnavailable:
                steady_since = time.monotonic()
            await asyncio.sleep(self._lease_seconds / 3)

    async def _close_expired(self) -> None:
        for row in await self._store.take_expired():
            named = ids.in_logs(row["project_id"], row["thread_id"], row["id"])
            log.warning("a worker died; its turn is closed", **named)
            try:
                await self._close(row)
            except ThreadLocked:
                log.warning("a dead worker's turn is in a thread that is locked; it is closed later", **named)
            except (asyncpg.PostgresError, NotFound, ValueError, CannotOpen) as error:
                # One that cannot be closed does not hold up the others.
                log.error("a dead worker's turn cannot be closed", error=type(error).__name__, **named)

    async def _close(self, row: ExpiredRow) -> None:
        project_id, turn_id = row["project_id"], row["id"]
        sealer = await self._content_keys.sealer(project_id)
        frames = await self._frames(project_id, turn_id)
        count, closing = len(frames), _closing(frames, cancelled=row["cancel"])
        sent = (await self._store.items(project_id, [turn_id]))[turn_id]
        salt = TURNS.opened(project_id, row)["salt"] or b""
        turn = Closable(project_id, turn_id, row["thread_id"], len(sent), salt, SERVICE, sealer)
        if await self._store.close(turn, closing, BRIEF_WAIT_SECONDS) is not None and count:
            shown = stored_response(*await self._replay.stored(project_id, turn_id))
            kind, fields = last_event(shown)
            last = own_frame(kind, fields, count)
            await self._event_log.append(project_id, turn_id, count, [last], sealer, last=True)

    async def _frames(self, project_id: UUID, turn_id: UUID) -> list[bytes]:
        """The events that had reached the event log."""
        try:
            frames, _ = await self._event_log.read(project_id, turn_id)
        except LogBroken:
            return []
        return frames


def _closing(frames: list[bytes], *, cancelled: bool) -> Closing:
    """Return the closing of a turn whose worker has died. Without text it has failed, and a retry is a new turn."""
    opening = {name: value for name, value in opening_of(frames).items() if name != "id"}  # It is ours.
    status = None if frames else 503
    return broken_off(frames, opening, DIED, reason=INTERRUPTED, cancelled=cancelled, error_status=status)
