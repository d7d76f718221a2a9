"""What keeps a turn from outliving its worker: leases.

A worker renews the leases of the turns that it runs every third of their length. One that has died does not, and
another worker closes its turns as `incomplete`, `interrupted`, with what had reached the event log. A turn that
nobody runs, whatever worker's it is, is closed in the same way.
"""

import asyncio
import time
from uuid import UUID

import structlog

from app.background import Background
from app.db import ids
from app.errors import DatabaseUnavailable
from app.provider.events import Splitter, encode
from app.trail.records import SERVICE
from app.turns.answer import INTERRUPTED, SHOWS_RESPONSE, TERMINAL, Heard
from app.turns.event_log import EventLog, LogBroken
from app.turns.replay import Replay, last_event
from app.turns.runner import Runner
from app.turns.show import stored_response
from app.turns.spool import Spool
from app.turns.store import Closable, Closing, TurnStore

log = structlog.get_logger()


class Leases(Background):
    def __init__(
        self,
        store: TurnStore,
        runner: Runner,
        event_log: EventLog,
        replay: Replay,
        spool: Spool,
        *,
        lease_seconds: float,
    ) -> None:
        super().__init__()
        self._store = store
        self._runner = runner
        self._event_log = event_log
        self._replay = replay
        self._spool = spool
        self._lease_seconds = lease_seconds

    async def _keep(self) -> None:
        steady_since = time.monotonic()
        while True:
            try:
                await self._spool.empty(self._store)
                await self._store.close_unconfirmed()
                for row in await self._store.renew_leases(self._runner.running()):
                    if row["cancel"]:
                        await self._runner.cancel(row["id"])
                # After Postgres was away, its other users get the time to renew before anybody takes their turns.
                if time.monotonic() - steady_since > self._lease_seconds / 2:
                    await self._close_expired()
            except DatabaseUnavailable:
                steady_since = time.monotonic()
            await asyncio.sleep(self._lease_seconds / 3)

    async def _close_expired(self) -> None:
        for row in await self._store.take_expired():
            project_id, turn_id = row["project_id"], row["id"]
            log.warning("a worker died; its turn is closed", turn=ids.turn_id(turn_id))
            heard, count = await self._heard(project_id, turn_id)
            closing = _closing(heard, count, cancelled=row["cancel"])
            turn = Closable(project_id, turn_id, row["thread_id"], row["input_items"], row["salt"] or b"", SERVICE)
            if await self._store.close(turn, closing) and count:
                shown = stored_response(*await self._replay.kept(project_id, turn_id))
                kind, fields = last_event(shown)
                last = encode(kind, fields, count).frame(count)
                await self._event_log.append(project_id, turn_id, count, [last], last=True)

    async def _heard(self, project_id: UUID, turn_id: UUID) -> tuple[Heard, int]:
        """What had reached the event log, and how many events that is."""
        heard = Heard()
        try:
            frames, _ = await self._event_log.read(project_id, turn_id)
        except LogBroken:
            return heard, 0
        for event in Splitter().feed(b"".join(frames)):
            if event.type not in SHOWS_RESPONSE and event.type not in TERMINAL:
                heard.hear(event)
        return heard, len(frames)


def _closing(heard: Heard, events: int, *, cancelled: bool) -> Closing:
    """How a turn ends whose worker has died. One of which nothing was said has failed, and a retry is a new turn."""
    output = heard.output()
    response = {k: v for k, v in heard.opening.items() if k not in ("id", "output", "usage", "status")}
    if cancelled:
        return Closing("cancelled", None, (), output, response)
    if output:
        return Closing("incomplete", None, (), output, response, incomplete_details={"reason": INTERRUPTED})
    error = {"code": INTERRUPTED, "message": "The worker of this turn has died. Nothing had been said; send it again."}
    return Closing("failed", None, (), (), response, error=error, error_status=None if events else 503)
