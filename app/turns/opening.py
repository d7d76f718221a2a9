"""Opening of turns: repeated requests join, and requests to a busy thread give up, wait, or cancel."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from uuid import UUID

from app.db import ids
from app.http.errors import BadRequest, Conflict, DatabaseUnavailable, ServiceStopping
from app.items.input_item import with_facts
from app.items.shapes import Item
from app.items.stored import stored_item
from app.items.unreadable import is_unreadable
from app.provider.refusals import is_retried
from app.settings import Settings
from app.threads.address import Address, New, bucket_at
from app.turns.cancel_signals import CancelSignals
from app.turns.client import Client
from app.turns.schemas import IfBusy, Origin, TurnRequest
from app.turns.store import Busy, Opened, TurnStore

WAIT_POLL_SECONDS = 0.1
"""Interval at which a waiting request checks whether its thread is free."""

PLACE_SECONDS = 5.0
"""For how long a place in the queue is kept that nobody asks for: the worker of who waits there has died."""

PLACE_KEPT_SECONDS = 1.0
"""Interval at which a waiting request renews its place."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A turn that an earlier request has opened, running in another worker or ended."""

    project_id: UUID
    turn_id: UUID


async def with_app_messages(store: TurnStore, project_id: UUID, address: Address, request: TurnRequest) -> TurnRequest:
    """Return a user's request with the app's messages that its new branch would not have, of the head, of the replaced
    turn and of the turn in progress: the user's edit does not take them from the model."""
    if request.origin.user is None or not (request.root or request.parent_id is not None):
        return request
    thread = await store.thread(project_id, address)
    there = request.input  # A WebSocket sends those of its unstored responses again.
    found: list[Item] = []
    for left in (thread["head_turn_id"], request.replaced_id, await store.active_turn(project_id, thread["id"])):
        lost = await store.lost_messages(project_id, left, request.parent_id)
        found += [item for item in lost if item not in found and item not in there]
    return replace(request, items=[*with_facts(found), *request.items]) if found else request


class Opening:
    def __init__(self, store: TurnStore, signals: CancelSignals, settings: Settings) -> None:
        self._store = store
        self._signals = signals
        self._settings = settings
        self._waiting: dict[UUID, asyncio.Event] = {}
        self.ending = False
        """True once the process takes no turns any more: who waits for a thread is refused."""

    def free(self, thread_id: UUID) -> None:
        """Wake those who wait for a thread: a turn of it has ended in this worker."""
        freed = self._waiting.pop(thread_id, None)
        if freed is not None:
            freed.set()

    async def open(self, project_id: UUID, address: Address, request: TurnRequest, client: Client) -> "Opened | Joined":
        """Open a turn, when its thread is free; or find the turn that this request repeats.

        Raises:
            APIError: the thread stays busy, or its queue is full, or the Idempotency-Key is another request's.
            ClientLeft: the client has gone while it waited; nothing was opened.
        """
        if not request.stored:
            return await self._not_stored(project_id, address, request)
        within = request.origin.retry_within_seconds
        if within is not None and (first := await self._first_attempt(project_id, address, request, within)):
            return first
        if request.approvals and isinstance(same := await self._same_key(project_id, address, request.origin), Joined):
            return same
        ticket = ids.new_uuid() if request.if_busy is IfBusy.WAIT else None
        deadline = time.monotonic() + self._settings.wait_seconds
        queued_at: UUID | None = None
        keep_at = 0.0
        try:
            while True:
                if self.ending:
                    raise ServiceStopping
                try:
                    answering = request
                    if request.approvals:
                        answering = await self._with_approvals(project_id, address, request)
                    return await self._store.open(project_id, address, answering, ticket)
                except Busy as busy:
                    if isinstance(same := await self._same_key(project_id, address, request.origin), Joined):
                        return same
                    if same:
                        continue
                    client.check()
                    if request.if_busy not in (IfBusy.WAIT, IfBusy.CANCEL) or time.monotonic() > deadline:
                        raise
                    if request.if_busy is IfBusy.CANCEL and busy.running_id is not None:
                        await self._store.request_cancel(project_id, busy.running_id)
                        await self._signals.send([busy.running_id])
                    if ticket is not None and time.monotonic() > keep_at:
                        queued_at, keep_at = busy.thread_id, time.monotonic() + PLACE_KEPT_SECONDS
                        await self._queue(project_id, busy, ticket)
                    await self._freed(busy.thread_id)
                    # The turn that has ended may hold messages of the app.
                    request = await with_app_messages(self._store, project_id, address, request)
        finally:
            if queued_at is not None and ticket is not None:
                with suppress(DatabaseUnavailable):  # The turn is open all the same, and the place soon free.
                    await self._store.leave_queue(project_id, queued_at, ticket)

    async def _with_approvals(self, project_id: UUID, address: Address, request: TurnRequest) -> TurnRequest:
        """A request whose approvals each answer an open request of its branch, by the id that the provider gave it.

        Raises:
            BadRequest: one of them answers none. While another turn runs that may ask for it, this is left open.
        """
        parent_id, rows = request.parent_id, []
        if not isinstance(address, New) and not request.root:
            thread = await self._store.thread(project_id, address)
            parent_id = parent_id or thread["head_turn_id"]
            busy = request.parent_id is None and await self._store.active_turn(project_id, thread["id"])
            rows = [] if parent_id is None else await self._store.approvals(project_id, parent_id)
            if busy or any(is_unreadable(row["data"]) for row in rows):
                return request  # It waits, or is refused, and not for its approvals.
        kept = [stored_item(row) for row in rows]
        return replace(request, items=with_facts(_answering([(each.id, each.item) for each in kept], request)))

    async def repeated(self, project_id: UUID, address: Address, request: TurnRequest) -> "Joined | None":
        """Return the turn that this request repeats, by its Idempotency-Key; None where it is the first."""
        if not request.stored:
            return None
        same = await self._same_key(project_id, address, request.origin)
        return same if isinstance(same, Joined) else None

    async def _not_stored(self, project_id: UUID, address: Address, request: TurnRequest) -> Opened:
        if request.approvals:
            request = await self._with_approvals(project_id, address, request)
        if isinstance(address, New):
            thread_id = address.id
        else:
            thread = await self._store.thread(project_id, address)
            thread_id = thread["id"]
            request = replace(request, parent_id=request.parent_id or thread["head_turn_id"])
        return Opened(
            project_id, ids.new_id(bucket_at(address)), thread_id, request.parent_id, datetime.now(UTC), request, b""
        )

    async def _first_attempt(
        self, project_id: UUID, address: Address, request: TurnRequest, within_seconds: float
    ) -> "Joined | None":
        """The turn that a client's automatic retry repeats. A request that makes a thread repeats none for certain."""
        if request.origin.idempotency_key is not None or isinstance(address, New):
            return None
        first = await self._store.claim_first_attempt(
            project_id, address, request.parent_id, request.origin, within_seconds
        )
        return None if first is None else Joined(project_id, first)

    async def _same_key(self, project_id: UUID, address: Address, origin: Origin) -> "Joined | bool":
        """The turn with this request's Idempotency-Key; else whether there was one that has lost the key now."""
        key = origin.idempotency_key
        if key is None:
            return False
        await self._store.close_unconfirmed(bucket_at(address))
        row = await self._store.same_key(
            project_id, address, origin, holds_seconds=self._settings.idempotency_key_seconds
        )
        if row is None:
            return False
        if row["old"] and row["status"] != "in_progress":
            await self._store.free_key(project_id, row["id"], key)
            return True
        if row["body_hash"] != origin.body_hash:
            raise Conflict(
                f"This Idempotency-Key was sent with another body, for turn {ids.turn_id(row['id'])}. "
                "Use a new key for a new request.",
                param="Idempotency-Key",
                code="idempotency_key_reused",
            )
        if row["status"] == "failed" and is_retried(row["error_status"]):
            await self._store.free_key(project_id, row["id"], key)
            return True
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


def _answering(before: Sequence[tuple[str, Item]], request: TurnRequest) -> list[Item]:
    """The request's items, its approvals naming their requests as these name themselves.

    Args:
        before: the approval requests of its branch, and the answers to them, by the ids under which they are shown.
    """
    open_: dict[str, str] = {}
    for shown, item in before:
        if item.get("type") == "mcp_approval_request":
            open_ |= {shown: item["id"], item["id"]: item["id"]}
        elif item.get("type") == "mcp_approval_response":
            _close(open_, item["approval_request_id"])
    items: list[Item] = []
    for item in request.input:
        if item.get("type") == "mcp_approval_request":
            open_[item["id"]] = item["id"]
        if item.get("type") != "mcp_approval_response":
            items.append(item)
            continue
        asked = item["approval_request_id"]
        if asked not in open_:
            where = request.approvals.get(asked, "input")
            raise BadRequest(
                f"'{where}': no approval request {asked[:80]!r} waits for an answer in this conversation. Send the id "
                "of an mcp_approval_request that has not been answered.",
                param=where,
                code="approval_request_not_found",
            )
        items.append({**item, "approval_request_id": open_[asked]})
        _close(open_, open_[asked])
    return items


def _close(open_: dict[str, str], id_: str) -> None:
    """Take an approval request that has been answered out, under each of its ids."""
    for name in [name for name, own in open_.items() if id_ in (name, own)]:
        del open_[name]
