"""How a turn comes to be opened: repeated requests join, and a busy thread's requests give up, wait, or cancel."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from app.db import ids
from app.errors import Conflict, DatabaseUnavailable
from app.settings import Settings
from app.threads.address import Address
from app.turns.schemas import Origin, TurnRequest
from app.turns.store import Busy, Opened, SameKey, TurnStore

WAIT_POLL_SECONDS = 0.1
"""How soon a waiting request looks again whether its thread is free."""

PLACE_SECONDS = 5.0
"""For how long a place in the queue is kept that nobody asks for: the worker of who waits there has died."""

PLACE_KEPT_SECONDS = 1.0
"""How often a waiting request keeps its place."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A turn that an earlier request has opened, running in another worker or ended."""

    project_id: UUID
    turn_id: UUID


class Opening:
    def __init__(self, store: TurnStore, settings: Settings) -> None:
        self._store = store
        self._settings = settings
        self._waiting: dict[UUID, asyncio.Event] = {}

    def free(self, thread_id: UUID) -> None:
        """Wake those who wait for a thread: a turn of it has ended in this worker."""
        freed = self._waiting.pop(thread_id, None)
        if freed is not None:
            freed.set()

    async def open(self, project_id: UUID, address: Address, request: TurnRequest) -> "Opened | Joined":
        """Open a turn, when its thread is free; or find the turn that this request repeats.

        Raises:
            APIError: the thread stays busy, or its queue is full, or the Idempotency-Key is another request's.
        """
        if not request.keep:
            return await self._unkept(project_id, address, request)
        origin = request.origin
        if origin.retry_within_seconds is not None:
            first = await self._store.first_attempt(project_id, request.parent_id, origin)
            if first is not None:
                return Joined(project_id, first)
        ticket = ids.new_uuid() if request.if_busy == "wait" else None
        deadline = time.monotonic() + self._settings.wait_seconds
        queued_at: UUID | None = None
        keep_at = 0.0
        try:
            while True:
                try:
                    return await self._store.open(project_id, address, request, ticket)
                except SameKey:
                    return await self._same_key(project_id, origin)
                except Busy as busy:
                    if origin.idempotency_key is not None and await self._store.same_key(project_id, origin):
                        return await self._same_key(project_id, origin)
                    if request.if_busy == "reject" or time.monotonic() > deadline:
                        raise
                    if request.if_busy == "cancel" and busy.running_id is not None:
                        await self._store.request_cancel(project_id, busy.running_id)
                    if ticket is not None and time.monotonic() > keep_at:
                        queued_at, keep_at = busy.thread_id, time.monotonic() + PLACE_KEPT_SECONDS
                        await self._queue(project_id, busy, ticket)
                    await self._freed(busy.thread_id)
        finally:
            if queued_at is not None and ticket is not None:
                with suppress(DatabaseUnavailable):  # The turn is open all the same, and the place soon free.
                    await self._store.leave_queue(project_id, queued_at, ticket)

    async def _unkept(self, project_id: UUID, address: Address, request: TurnRequest) -> Opened:
        thread_id = address.new
        if thread_id is None:
            thread = await self._store.thread(project_id, address)
            thread_id = thread["id"]
            request = replace(request, parent_id=request.parent_id or thread["head_turn_id"])
        return Opened(project_id, ids.new_uuid(), thread_id, request.parent_id, datetime.now(UTC), request, b"")

    async def _same_key(self, project_id: UUID, origin: Origin) -> "Joined":
        row = await self._store.same_key(project_id, origin)
        if row is None:
            raise Conflict("The turn with this Idempotency-Key has just been deleted. Send this again.")
        if row["body_hash"] != origin.body_hash:
            raise Conflict(
                f"This Idempotency-Key was sent with another body, for turn {ids.turn_id(row['id'])}. "
                "Use a new key for a new request.",
                param="Idempotency-Key",
                code="idempotency_key_reused",
            )
        return Joined(project_id, row["id"])

    async def _queue(self, project_id: UUID, busy: Busy, ticket: UUID) -> None:
        settings = self._settings
        if not await self._store.queue(
            project_id, busy.thread_id, ticket, seconds=PLACE_SECONDS, limit=settings.waiters_per_thread
        ):
            busy.message = (
                f"The thread is busy, and {settings.waiters_per_thread} requests wait already. Send this later."
            )
            raise busy

    async def _freed(self, thread_id: UUID) -> None:
        """Wait until a turn of the thread has ended in this worker; look again soon for those in others."""
        freed = self._waiting.setdefault(thread_id, asyncio.Event())
        try:
            await asyncio.wait_for(freed.wait(), WAIT_POLL_SECONDS)
        except TimeoutError:
            self._waiting.pop(thread_id, None)
