"""Turns in Postgres. The hot path is two calls: `open_turn` and `close_turn` of turns.sql, a transaction each.

Each statement names the bucket, which the ids of threads and turns carry: it runs on one shard.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, assert_never
from uuid import UUID

import asyncpg
import orjson
import structlog

from app.chain.context import Context
from app.chain.continuation import ContinuationReason, stored_reason
from app.chain.live_ids import LiveId
from app.db import ids
from app.db.engine import Database
from app.db.routing import Routing
from app.db.sql import Statement, statements_of
from app.http.errors import Conflict, DatabaseUnavailable, NotFound, ThreadLocked
from app.http.pages import PAGE_BYTES, Page
from app.items.kinds import CALLS
from app.items.shapes import Item, text_of
from app.items.stored import columns, stored_input
from app.items.unreadable import is_unreadable
from app.media import store as media
from app.process.values import value
from app.sealing import at_rest
from app.sealing.ciphertext import CannotOpen
from app.sealing.columns import ITEMS, SealedDocument, rows_of
from app.threads import store as threads
from app.threads.address import Address, ById, ByName, New, OfTurn, bucket_at, unknown
from app.threads.app_messages import lost_messages
from app.threads.names import Names
from app.threads.tables import Thread
from app.trail import contents
from app.trail.records import Actor
from app.trail.users import UserKeys
from app.turns.closing import NEVER_ASKED, Closing
from app.turns.pieces import Piece, own_parts, put_together, referenced_pieces
from app.turns.rows import (
    BranchRow,
    ExpiredRow,
    ItemRow,
    KeyRow,
    LeaseRow,
    LinkRow,
    ParentRow,
    ReferencedRow,
    ThreadRow,
    TurnRow,
)
from app.turns.schemas import IfBusy, Origin, TurnRequest
from app.turns.tables import Call, SentPiece, Turn
from app.turns.unconfirmed import Unconfirmed

BRIEF_WAIT_SECONDS = 0.25
"""Time that background work waits for a locked thread before it continues with others and returns later."""

PREVIEW = 100
"""Characters of a preview."""

LONGEST_PREVIEWED = 20_000
"""Bytes of the largest message that gets a preview."""

SQL = statements_of(__file__)

BESIDE = {IfBusy.BESIDE: "always", IfBusy.BESIDE_IF_NEEDED: "if_needed"}
"""The words of `open_turn_v4` for turns that run beside others."""

NO_PIECES = dict.fromkeys(("piece_digests", "piece_sources", "piece_data", "piece_media"))

DOCUMENT = SealedDocument()
TURNS, CALLS_MADE, PIECES, THREADS = map(rows_of, (Turn, Call, SentPiece, Thread))


@value
class Opened:
    """A turn that is in progress in Postgres."""

    project_id: UUID
    id: UUID
    thread_id: UUID
    parent_id: UUID | None
    created_at: datetime
    request: TurnRequest
    salt: bytes
    parent_lost: ContinuationReason | None = None
    """Reason why the parent's response id cannot be used, whatever Redis says."""
    sealer: at_rest.ContentCipher = at_rest.PLAIN

    @property
    def closable(self) -> "Closable":
        request = self.request
        return Closable(
            self.project_id, self.id, self.thread_id, len(request.items), self.salt, request.origin.actor, self.sealer
        )


@value
class Closable:
    """The fields of a turn that are needed to close it."""

    project_id: UUID
    id: UUID
    thread_id: UUID | None
    """None if unknown: it is read from Postgres then."""
    input_items: int
    """The number of its input items: the output items follow them."""
    salt: bytes
    actor: Actor
    sealer: at_rest.ContentCipher
    """Its project's."""

    @property
    def in_logs(self) -> dict[str, str]:
        return ids.in_logs(self.project_id, self.thread_id, self.id)


log = structlog.get_logger()


class Busy(Conflict):
    """Another turn of the thread is in progress."""

    code = "thread_busy"

    def __init__(self, message: str, thread_id: UUID, running_id: UUID | None) -> None:
        headers = {"Everthread-Running-Turn": ids.turn_id(running_id)} if running_id else None
        super().__init__(message, headers=headers)
        self.thread_id = thread_id
        self.running_id = running_id


class TurnStore:
    def __init__(
        self,
        database: Database,
        nodes: Routing,
        names: Names,
        users: UserKeys,
        *,
        worker_id: UUID,
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._nodes = nodes
        self._names = names
        self._users = users
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._unconfirmed: Unconfirmed[Closable] = Unconfirmed(lease_seconds=lease_seconds)

    async def open(
        self, project_id: UUID, address: Address, request: TurnRequest, ticket: UUID | None = None
    ) -> Opened:
        """Write a turn and its input, in progress.

        Args:
            ticket: the request's place in the thread's queue; None for one that does not queue.

        Raises:
            APIError: no such thread, or no such parent in it.
            Busy: another turn of the thread is in progress, others have waited longer, or the Idempotency-Key is
                another turn's.
        """
        at, bucket = _address_arguments(address), bucket_at(address)
        turn_id, salt = ids.new_id(bucket), contents.new_salt()
        kept = stored_input(request.items)
        types, item_ids = [item.type for item in kept], [item.id for item in kept]
        data = [item.encoded.decode() for item in request.items]
        seal, place, params = at_rest.sealer(), TURNS.at(project_id, turn_id), _dumps(request.params)
        stored, held = media.extract(seal, project_id, data, [item.data for item in kept])
        created: bytes | None = None
        thread_salt: bytes | None = None
        trail_key: bytes | None = None
        user = request.user if isinstance(address, New) else None
        if isinstance(address, New):
            # Not the turn's, which goes with what the turn holds.
            new_salt = contents.new_salt()
            created = contents.new_thread(new_salt, user)
            thread_salt = seal.salt(new_salt, THREADS.at(project_id, address.id))
        if user is not None:
            trail_key = await self._users.get_or_make(project_id, user)
        try:
            row = await self._nodes.of(bucket).fetchrow_in_group(
                bucket,
                sum(map(len, stored)) + len(held or ""),
                *SQL.open_turn(
                    project_id=project_id,
                    bucket=bucket,
                    **at,
                    user_id=user,
                    trail_key=trail_key,
                    thread_salt=thread_salt,
                    turn_id=turn_id,
                    parent_id=request.parent_id,
                    root=request.root,
                    beside=BESIDE.get(request.if_busy, "never"),
                    ticket=ticket,
                    model=request.model,
                    params=seal.document(place, "params", params),
                    metadata=_dumps(seal.metadata(place, request.metadata)),
                    ignored=request.ignored,
                    worker_id=self._worker_id,
                    lease_seconds=self._lease_seconds,
                    api_key_id=request.origin.api_key_id,
                    idempotency_key=request.origin.idempotency_key,
                    body_hash=request.origin.body_hash,
                    salt=seal.salt(salt, place),
                    types=types,
                    item_ids=item_ids,
                    data=seal.items(project_id, turn_id, 0, kept, stored),
                    media=held,
                    address=request.origin.address,
                    created=created,
                    opened=contents.digest(
                        "opened",
                        salt,
                        {
                            "model": request.model,
                            "params": params,
                            "metadata": request.metadata,
                            "ignored": request.ignored,
                            **contents.items(types, item_ids, data, origin="input"),
                        },
                    ),
                ),
                key=at["thread_id"] or at["after_turn"],
            )
        except ThreadLocked:
            raise  # It was not opened.
        except (DatabaseUnavailable, asyncio.CancelledError):
            turn = Closable(project_id, turn_id, at["thread_id"], len(types), salt, request.origin.actor, seal)
            self._unconfirmed.add(turn_id, turn)
            raise
        match row["outcome"]:
            case "no_thread":
                return await self.open(project_id, await self._moved(project_id, address), request, ticket)
            case "busy":
                raise await self._busy(project_id, address)
            case "no_parent":
                assert request.parent_id is not None
                raise NotFound(
                    f"There is no turn {ids.turn_id(request.parent_id)} in this thread. "
                    "'parent_id' must be a turn of the same thread.",
                    param="parent_id",
                    code="turn_not_found",
                )
        return Opened(
            project_id,
            turn_id,
            row["thread_id_"],
            row["parent_id_"],
            row["created_at_"],
            request,
            salt,
            None if row["parent_lost"] is None else stored_reason(row["parent_lost"]),
            seal,
        )

    async def close(self, turn: Closable, closing: Closing, wait_seconds: float | None = None) -> Closing | None:
        """Close a turn with all that it leaves.

        Args:
            wait_seconds: how long this may wait for a locked thread; as long as any statement may if left out.

        Returns:
            What it was closed with: where the output had ids of other items, it has others. None if the turn was
            closed by somebody else, or deleted, meanwhile.

        Raises:
            ThreadLocked: the thread stays locked. The turn is as it was.
        """
        try:
            return closing if await self._close(turn, closing, wait_seconds) else None
        except asyncpg.UniqueViolationError as error:
            if "items_item_id_key" not in str(error):  # Behind a coordinator, an error names a shard's index.
                raise
        closing = closing.with_own_ids()
        return closing if await self._close(turn, closing, wait_seconds) else None

    async def _close(self, turn: Closable, closing: Closing, wait_seconds: float | None) -> bool:
        seal, place = turn.sealer, TURNS.at(turn.project_id, turn.id)
        types, item_ids, data = columns(closing.output)
        stored, held = media.extract(
            seal, turn.project_id, data, (item.data for item in closing.output), turn.input_items
        )
        response, usage, error = _json(closing.response), _json(closing.usage), _json(closing.error)
        incomplete_details, pace, context = map(_json, (closing.incomplete_details, closing.pace, closing.context))
        records: list[tuple[str, str, bytes | None]] = []
        rows: list[tuple[Any, ...]] = []
        frames: list[str] = []
        refs: list[int] = []
        for attempt, call in enumerate(closing.calls, 1):
            failed, at = _json(call.error), CALLS_MADE.at(turn.project_id, turn.id, attempt)
            frames += seal.texts(at, "frames", call.body.literals)
            refs += call.body.refs
            rows.append(
                (
                    call.continuation,
                    call.continuation_reason,
                    call.url,
                    len(call.body.literals),
                    call.dropped_items,
                    call.status,
                    call.response_id,
                    seal.document(at, "error", failed),
                    call.started_at,
                    call.finished_at,
                )
            )
            said = contents.digest(
                "called",
                turn.salt,
                {
                    "attempt": attempt,
                    "continuation": call.continuation,
                    "url": call.url,
                    "body": call.body.sent.decode(),
                    "dropped_items": call.dropped_items,
                    "status": call.status,
                    "response_id": call.response_id,
                    "error": failed,
                    "started_at": call.started_at,
                    "finished_at": call.finished_at,
                },
            )
            records.append(
                ("turn.called", f"{attempt} {call.continuation} {call.status} {call.account}".rstrip(), said)
            )
        closed = contents.digest(
            "closed",
            turn.salt,
            {
                "status": closing.status,
                "continuation": closing.continuation,
                "response": response,
                "usage": usage,
                "error": error,
                "incomplete_details": incomplete_details,
                "pace": pace,
                "context": context,
                "error_status": closing.error_status,
                "binding": closing.binding,
                "response_id": closing.response_id,
                "response_created_at": closing.response_created_at,
                "response_expires_at": closing.response_expires_at,
                "copied_from_id": None,
                "deleted_at": None,
                **contents.items(types, item_ids, data, origin="output", first=turn.input_items),
            },
        )
        if closing.replaced_model is not None:
            records.append(("turn.model_replaced", closing.replaced_model, None))
        records.append(("turn.closed", closing.status, closed))
        bucket = ids.bucket_of(turn.id)
        actions, details, digests = zip(*records, strict=True)
        continuations, reasons, urls, counts, dropped, statuses, response_ids, errors, began, ended = (
            zip(*rows, strict=True) if rows else [()] * 10
        )
        row = await self._nodes.of(bucket).fetchrow_in_group(
            bucket,
            sum(map(len, stored)) + len(held or "") + sum(map(len, frames)),
            *SQL.close_turn(
                project_id=turn.project_id,
                bucket=bucket,
                thread_id=turn.thread_id,
                turn_id=turn.id,
                status=closing.status,
                continuation=closing.continuation,
                continuation_reason=closing.continuation_reason,
                response=seal.document(place, "response", response),
                usage=usage,
                cost=_json(closing.cost),
                error=seal.document(place, "error", error),
                incomplete_details=seal.document(place, "incomplete_details", incomplete_details),
                binding=closing.binding,
                response_id=closing.response_id,
                response_created_at=closing.response_created_at,
                response_expires_at=closing.response_expires_at,
                error_status=closing.error_status,
                pace=pace,
                context=context,
                first_position=turn.input_items,
                types=types,
                item_ids=item_ids,
                data=seal.items(turn.project_id, turn.id, turn.input_items, closing.output, stored),
                media=held,
                continuations=continuations,
                continuation_reasons=reasons,
                urls=urls,
                frames=frames,
                frame_counts=counts,
                refs=refs,
                **_piece_arguments(turn, closing.pieces),
                dropped=dropped,
                statuses=statuses,
                response_ids=response_ids,
                errors=errors,
                began=began,
                ended=ended,
                api_key_id=turn.actor.key_id,
                address=turn.actor.address,
                actions=actions,
                details=details,
                contents=digests,
            ),
            key=turn.thread_id or turn.id,
            wait_seconds=wait_seconds,
        )
        return row["completed_at"] is not None or await self._closed_by_us(turn.project_id, turn.id, closing)

    async def _closed_by_us(self, project_id: UUID, turn_id: UUID, closing: Closing) -> bool:
        """Return True if an earlier attempt has closed the turn, and only its confirmation was lost."""
        row = await self._database.fetchrow(*SQL.closed_as(**_at(project_id, turn_id)))
        return row is not None and (row["status"], row["response_id"]) == (closing.status, closing.response_id)

    async def same_key(
        self, project_id: UUID, address: Address, origin: Origin, *, holds_seconds: float
    ) -> KeyRow | None:
        """The turn with this Idempotency-Key where the request goes, and whether it is older than a key holds."""
        scope = project_id if isinstance(address, New) else await self._thread_id(project_id, address)
        if scope is None:
            return None
        return await self._database.fetchrow(
            *SQL.same_key(
                project_id=project_id,
                bucket=bucket_at(address),
                scope=scope,
                idempotency_key=origin.idempotency_key,
                holds_seconds=holds_seconds,
            )
        )

    async def free_key(self, project_id: UUID, turn_id: UUID, key: str) -> None:
        """Let the next request with this Idempotency-Key be a new one. A turn that still runs keeps it."""
        await self._database.fetchrow(*SQL.free_key(**_at(project_id, turn_id), idempotency_key=key))

    async def client_left(self, project_id: UUID, turn_id: UUID) -> None:
        """Write down that nobody was given a byte of a turn's answer. Where that fails, it counts as given."""
        with suppress(DatabaseUnavailable):
            await self._database.fetchrow(*SQL.client_left(**_at(project_id, turn_id)))

    async def claim_first_attempt(
        self, project_id: UUID, address: Address, parent_id: UUID | None, origin: Origin, within_seconds: float
    ) -> UUID | None:
        """The turn that a client's automatic retry repeats, if it is certain that it does.

        Args:
            within_seconds: how long ago the first attempt may have been made.
        """
        thread_id = await self._thread_id(project_id, address)
        if thread_id is None:
            return None
        found: UUID | None = await self._database.fetchval(
            *SQL.claim_first_attempt(
                project_id=project_id,
                bucket=bucket_at(address),
                thread_id=thread_id,
                body_hash=origin.body_hash,
                api_key_id=origin.api_key_id,
                parent_id=parent_id,
                of_user=_user_of(address),
                within_seconds=within_seconds,
            )
        )
        return found

    async def request_cancel(self, project_id: UUID, turn_id: UUID) -> None:
        """Set the flag that a running turn is to be stopped."""
        await self._database.fetchrow(*SQL.request_cancel(**_at(project_id, turn_id)))

    async def cancelled(self, turns: Sequence[tuple[UUID, UUID]]) -> list[UUID]:
        """Return those of the turns that must be stopped, each given by its project and id."""
        return [row["id"] for row in await self._database.fetch(*SQL.cancelled(**_places(turns)))]

    async def renew_leases(self, turns: Sequence[tuple[UUID, UUID]]) -> list[LeaseRow]:
        """Renew the leases of turns of this worker. Gives each turn's id and whether it is to be cancelled.

        Args:
            turns: project and id of each. With none, Postgres is asked all the same: that is how a worker notices that
                Postgres is unavailable.
        """
        # All at once, in any order, while turns among them may be closed in groups, in theirs.
        async with self._nodes.apart():
            return await self._database.fetch(
                *SQL.renew_leases(
                    lease_seconds=self._lease_seconds,
                    **_places(turns),
                    worker_id=self._worker_id,
                )
            )

    async def close_unconfirmed(self, bucket: int | None = None) -> None:
        """Close the turns that may have been opened without our hearing of it: the model was never asked.

        Their clients were told to send the request again. A statement that Postgres is still at may be done later
        than this: its turn is looked for until its lease would have run out.

        Args:
            bucket: only those in this bucket.

        Raises:
            ThreadLocked: one of this bucket is in a thread that is locked. Without a bucket, these are left for later.
            DatabaseUnavailable: Postgres is still away.
        """
        locked: set[int] = set()
        for turn in self._unconfirmed.of(bucket):
            lies_in = ids.bucket_of(turn.id)
            if lies_in in locked:
                continue
            try:
                closed = (
                    await self.close(turn, NEVER_ASKED, BRIEF_WAIT_SECONDS)
                    or await self.exists(turn.project_id, turn.id)
                )  # fmt: skip
            except ThreadLocked:
                if bucket is not None:
                    raise
                locked.add(lies_in)
                continue
            except asyncpg.PostgresError as error:
                log.error(
                    "a turn whose opening was not confirmed cannot be closed", sqlstate=error.sqlstate, **turn.in_logs
                )
                closed = True  # Its lease runs out.
            if closed or not self._unconfirmed.may_appear(turn.id):
                self._unconfirmed.discard(turn.id)

    async def take_expired(self) -> list[ExpiredRow]:
        """Take over turns whose lease has run out, a few at a time. Two workers never take the same one."""
        taken: list[ExpiredRow] = []
        for seen in await self._database.fetch(*SQL.expired()):
            row = await self._database.fetchrow(
                *SQL.take_expired(
                    worker_id=self._worker_id,
                    lease_seconds=self._lease_seconds,
                    project_id=seen["project_id"],
                    bucket=seen["bucket"],
                    turn_id=seen["id"],
                    seen=seen["lease_expires_at"],
                )
            )
            if row is not None:
                taken.append(row)
        return taken

    async def queue(self, project_id: UUID, thread_id: UUID, ticket: UUID, *, seconds: float, limit: int) -> bool:
        """Take a place in a busy thread's queue for some seconds, or keep it for that long. False if it is full."""
        place = SQL.queue(**_of(project_id, thread_id), ticket=ticket, seconds=seconds, limit=limit)
        bucket = ids.bucket_of(thread_id)
        return await self._database.fetchrow_by_itself(bucket, thread_id, *place) is not None

    async def leave_queue(self, project_id: UUID, thread_id: UUID, ticket: UUID) -> None:
        await self._database.fetchrow(*SQL.leave_queue(**_of(project_id, thread_id), ticket=ticket))

    async def parent(self, project_id: UUID, turn_id: UUID) -> LiveId | ContinuationReason:
        """Return a turn's response id with the facts that decide if it is live; or the reason why there is none."""
        node = self._nodes.of(ids.bucket_of(turn_id))
        row: ParentRow | None = await node.fetchrow(*SQL.parent(**_at(project_id, turn_id), call_types=CALLS))
        if row is None:
            return ContinuationReason.HISTORY_CHANGED  # Its thread was deleted meanwhile.
        if row["lost"] is not None:
            return stored_reason(row["lost"])
        context = Context(tokens=row["total_tokens"]) if row["context"] is None else Context.from_json(row["context"])
        return LiveId(
            turn_id, row["response_id"], row["binding"], row["model"], row["expires_at"], context, row["open_calls"]
        )

    async def approvals(self, project_id: UUID, turn_id: UUID) -> list[ItemRow]:
        """The requests for approval of a branch, and the answers to them, oldest first."""
        found = await self._database.fetch(*SQL.approvals(**_at(project_id, turn_id)))
        return [ITEMS.opened(project_id, row) for row in found]

    async def active_turn(self, project_id: UUID, thread_id: UUID) -> UUID | None:
        """Return the id of the turn in progress that will move the thread's head; None where there is none."""
        found: UUID | None = await self._database.fetchval(*SQL.active_turn(**_of(project_id, thread_id)))
        return found

    async def forget_response(self, project_id: UUID, turn_id: UUID) -> None:
        """Remember that the provider does not know a turn's response id."""
        reason = ContinuationReason.RESPONSE_ID_UNKNOWN
        await self._database.fetchrow(*SQL.forget_response(**_at(project_id, turn_id), reason=reason))

    async def pieces(self, project_id: UUID, thread_id: UUID) -> dict[bytes, int]:
        """The pieces that calls of a thread can refer to: their numbers, by digest."""
        [row] = await self._database.fetch(*SQL.pieces(**_of(project_id, thread_id)))
        return dict(zip(row["digests"] or (), row["numbers"] or (), strict=True))

    async def referenced(
        self, project_id: UUID, item_ids: Sequence[str], thread_id: UUID | None
    ) -> dict[str, ReferencedRow]:
        """Items by their ids, and whether each is `within` the history of a thread."""
        bucket = None if thread_id is None else ids.bucket_of(thread_id)
        found = await self._database.fetch(
            *SQL.referenced(thread_id=thread_id, bucket=bucket, project_id=project_id, item_ids=list(item_ids))
        )
        return {row["item_id"]: row for row in await self._whole(project_id, found)}

    async def page_of_items(
        self,
        project_id: UUID,
        turn_id: UUID,
        *,
        cursor: str | None,
        latest_first: bool,
        limit: int,
        input_only: bool = False,
    ) -> tuple[list[ItemRow], bool]:
        """Items of the branch that ends with a turn, from an item on; and whether others follow within the limit, which
        a page has no room for.

        Args:
            cursor: the id of that item, which comes first, without its content if others are asked for; there are no
                rows if it is not in the branch.
            input_only: the input of the turn alone.
        """
        statement = SQL.latest_items if latest_first else SQL.earliest_items
        asked = statement(
            **_at(project_id, turn_id), cursor=cursor, input_only=input_only, limit=limit, most_bytes=PAGE_BYTES
        )
        found = await self._database.fetch(*asked)
        first = [row for row in found[:1] if row["data"] is None]  # The cursor's own item.
        return [*first, *await self._whole(project_id, found[len(first) :])], _cut(found)

    async def on_a_page(self, project_id: UUID, turn_ids: Sequence[UUID], *, documents: bool = False) -> Sequence[UUID]:
        """Return the first of the turns, as far as a page has room for their items, and one at least.

        Args:
            documents: True if the page holds the turns themselves too.
        """
        if len(turn_ids) < 2:
            return turn_ids
        buckets = [ids.bucket_of(turn_id) for turn_id in turn_ids]
        asked = SQL.sizes(project_id=project_id, buckets=buckets, turn_ids=list(turn_ids), documents=documents)
        sizes = {row["id"]: row["size"] for row in await self._database.fetch(*asked)}
        room = PAGE_BYTES
        for place, turn_id in enumerate(turn_ids):
            room -= sizes.get(turn_id, 0)
            if room < 0 and place > 0:
                return turn_ids[:place]
        return turn_ids

    async def _page_of_rows(
        self, project_id: UUID, statement: Statement, limit: int, **arguments: Any
    ) -> tuple[list[TurnRow], bool]:
        """Return the turns on a page, and whether others follow it."""
        asked = statement(project_id=project_id, **arguments, limit=limit + 1, most_bytes=PAGE_BYTES)
        found = await self._database.fetch(*asked)
        rows = [TURNS.opened(project_id, row) for row in found[:limit]]
        kept = await self.on_a_page(project_id, [row["id"] for row in rows], documents=True)
        return rows[: len(kept)], len(kept) < len(found) or _cut(found)

    async def page_of_turns(
        self, project_id: UUID, turn_id: UUID, *, cursor: UUID | None, latest_first: bool, limit: int | None
    ) -> list[UUID]:
        """The turns of the branch that ends with a turn, from a turn on.

        Args:
            cursor: that turn, which comes first; there are no rows if the branch does not have it.
            limit: how many; None for all.
        """
        statement = SQL.latest_turns if latest_first else SQL.earliest_turns
        asked = statement(**_at(project_id, turn_id), cursor=cursor, limit=limit)
        return [row["id"] for row in await self._database.fetch(*asked)]

    async def chain(self, project_id: UUID, turn_ids: Sequence[UUID]) -> list[LinkRow]:
        """Return how turns of one thread reached the model, in the given order."""
        if not turn_ids:
            return []
        bucket = ids.bucket_of(turn_ids[0])
        asked = SQL.chain(project_id=project_id, bucket=bucket, turn_ids=list(turn_ids))
        found: dict[UUID, LinkRow] = {row["id"]: row for row in await self._database.fetch(*asked)}
        return [found[turn_id] for turn_id in turn_ids if turn_id in found]

    async def links(self, project_id: UUID, thread_id: UUID, page: Page) -> tuple[Sequence[LinkRow], bool]:
        """Return a page of the links of a thread's turns, on every branch, and True if more follow.

        Raises:
            BadRequest: the cursor is the id of no turn.
        """
        statement = SQL.links_before if page.scan()[1] else SQL.links_after
        seq = await self._number(project_id, page)
        asked = statement(**_of(project_id, thread_id), seq=seq, limit=page.limit + 1)
        return page.cut(await self._database.fetch(*asked))

    async def previews(self, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, str]:
        """Return the beginning of the last input message of each turn of one thread, if it is a short one."""
        if not turn_ids:
            return {}
        asked = SQL.last_messages(
            project_id=project_id,
            bucket=ids.bucket_of(turn_ids[0]),
            turn_ids=list(turn_ids),
            most_bytes=LONGEST_PREVIEWED,
        )
        rows = [ITEMS.opened(project_id, row) for row in await self._database.fetch(*asked)]
        return {row["turn_id"]: text_of(row["data"])[:PREVIEW] for row in rows if not is_unreadable(row["data"])}

    async def get(self, project_id: UUID, turn_id: UUID) -> TurnRow | None:
        return await self.at(project_id, OfTurn(turn_id))

    async def at(self, project_id: UUID, address: OfTurn) -> TurnRow | None:
        """The turn that an address names, if it is in the thread, and the thread the user's, that it names besides."""
        row = await self._database.fetchrow(*SQL.get_turn(**_of_turn(project_id, address)))
        return None if row is None else TURNS.opened(project_id, row)

    async def lost_messages(self, project_id: UUID, left: UUID | None, kept: UUID | None) -> Sequence[Item]:
        """Return the app's messages that one branch has and another has not: see `threads/app_messages.py`."""
        return await lost_messages(self._database, project_id, left, kept)

    async def exists(self, project_id: UUID, turn_id: UUID) -> bool:
        return await self._database.fetchrow(*SQL.closed_as(**_at(project_id, turn_id))) is not None

    async def in_history(self, project_id: UUID, thread_id: UUID, turn_id: UUID) -> bool:
        """Return True if a turn belongs to the thread, or to the history that it shares with its fork's source."""
        asked = threads.SQL.in_history(**_of(project_id, thread_id), turn_id=turn_id)
        return bool(await self._database.fetchval(*asked))

    async def turns(self, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, TurnRow]:
        """Turns of one thread with their pace, by id. Deleted ones are left out."""
        if not turn_ids:
            return {}
        bucket = ids.bucket_of(turn_ids[0])
        found = await self._database.fetch(*SQL.turns(project_id=project_id, bucket=bucket, turn_ids=list(turn_ids)))
        return {row["id"]: TURNS.opened(project_id, row) for row in found}

    async def calls(self, project_id: UUID, turn_id: UUID, *, bodies: bool = True) -> list[dict[str, Any]]:
        """Return every call to the provider, with the exact body sent; None if part of it was erased.

        Args:
            bodies: False to leave all bodies out.
        """
        calls: list[dict[str, Any]] = []
        if not bodies:
            rows = await self._database.fetch(*SQL.calls(**_at(project_id, turn_id)))
            return [{**CALLS_MADE.opened(project_id, row), "body": None} for row in rows]
        texts = {
            (turn_id, row["position"]): _own_text(project_id, row)
            for row in await self._database.fetch(*SQL.sent_input(**_at(project_id, turn_id)))
        }
        whole = await media.restored_texts(self._database, project_id, texts)
        own = own_parts({position: text for (_, position), text in whole.items()})
        for row in await self._database.fetch(*SQL.calls(**_at(project_id, turn_id))):
            call = CALLS_MADE.opened(project_id, row)
            first, last = referenced_pieces(call["refs"])
            pieces: dict[int, str | None] = {}
            if last:
                sent = SQL.sent_pieces(**_of(project_id, call["thread_id"]), first=first, last=last)
                pieces = {
                    piece["number"]: PIECES.opened(project_id, piece)["data"]
                    if piece["media_id"] is None
                    else media.sent_text(project_id, piece)
                    for piece in await self._database.fetch(*sent)
                }
            calls.append({**call, "body": put_together(call["frames"], call["refs"], own, pieces)})
        return calls

    async def branches(self, project_id: UUID, thread_id: UUID, page: Page) -> list[BranchRow]:
        """The turns that none continues, latest first: each ends a branch. One more than the page holds."""
        before = await self._number(project_id, page)
        return await self._database.fetch(
            *SQL.branches(**_of(project_id, thread_id), before=before, limit=page.limit + 1)
        )

    async def items(self, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, list[ItemRow]]:
        """The items of turns, by turn."""
        found: dict[UUID, list[ItemRow]] = {turn_id: [] for turn_id in turn_ids}
        buckets = [ids.bucket_of(turn_id) for turn_id in turn_ids]
        if len(set(buckets)) > 1:
            asked = SQL.items_of_many(project_id=project_id, buckets=buckets, turn_ids=list(turn_ids))
        elif buckets:
            asked = SQL.items(project_id=project_id, bucket=buckets[0], turn_ids=list(turn_ids))
        else:
            return found
        for row in await self._whole(project_id, await self._database.fetch(*asked)):
            found[row["turn_id"]].append(row)
        return found

    async def _whole(self, project_id: UUID, rows: Sequence[Any]) -> list[Any]:
        """Return rows of items, opened, with their media."""
        return await media.restored_rows(self._database, project_id, [ITEMS.opened(project_id, row) for row in rows])

    async def thread(self, project_id: UUID, address: Address) -> ThreadRow:
        """A thread's id and head.

        Raises:
            NotFound: there is none at this address.
        """
        if isinstance(address, OfTurn):
            found = SQL.thread_of_turn(**_of_turn(project_id, address))
        else:
            name = address.name if isinstance(address, ByName) else None
            found = SQL.find_thread(**_of(project_id, address.id), name=name, of_user=_user_of(address))
        row = await self._database.fetchrow(*found)
        if row is None:
            return await self.thread(project_id, await self._moved(project_id, address))
        title = THREADS.opened(project_id, row)["title"] or row["name"]
        return {"id": row["id"], "head_turn_id": row["head_turn_id"], "title": title}

    async def responses(self, project_id: UUID, after: UUID | None, limit: int) -> tuple[list[TurnRow], bool] | None:
        """A page of a project's responses, the latest first, and whether others follow it.

        Args:
            after: the last one of the page before.

        Returns:
            None where `after` is none of the project's.
        """
        arrived_at: datetime | None = None
        if after is not None:
            row = await self._database.fetchrow(*SQL.arrived_at(**_at(project_id, after)))
            if row is None:
                return None
            arrived_at = row["arrived_at"]
        return await self._page_of_rows(project_id, SQL.responses, limit, arrived_at=arrived_at, turn_id=after)

    async def list_page(self, project_id: UUID, thread_id: UUID, page: Page) -> tuple[Sequence[TurnRow], bool]:
        """One page of a thread's turns, and whether more rows follow it.

        Raises:
            BadRequest: the cursor is the id of no turn.
        """
        descending = page.scan()[1]
        seq = await self._number(project_id, page)
        statement = SQL.turns_before if descending else SQL.turns_after
        rows, more = await self._page_of_rows(
            statement=statement, limit=page.limit, **_of(project_id, thread_id), seq=seq
        )
        return (rows if page.before is None else rows[::-1]), more

    async def turns_after(self, project_id: UUID, thread_id: UUID, seq: int, limit: int) -> list[TurnRow]:
        """A thread's turns behind a number, in their order, as far as a page has room for them."""
        found = SQL.turns_after(**_of(project_id, thread_id), seq=seq, limit=limit, most_bytes=PAGE_BYTES)
        return [TURNS.opened(project_id, row) for row in await self._database.fetch(*found)]

    async def deleted_turns(self, project_id: UUID, thread_id: UUID, seq: int, limit: int) -> list[tuple[int, UUID]]:
        """Return the turns whose contents were deleted, each with the number of its record, after a number."""
        found = SQL.deleted_turns(**_of(project_id, thread_id), seq=seq, limit=limit)
        return [(row["seq"], row["turn_id"]) for row in await self._database.fetch(*found)]

    async def first_running(self, project_id: UUID, thread_id: UUID) -> int | None:
        """The number of the first turn of a thread that is in progress."""
        found: int | None = await self._database.fetchval(*SQL.first_running(**_of(project_id, thread_id)))
        return found

    async def _moved(self, project_id: UUID, address: Address) -> Address:
        """Return the address that a name leads to now, after it led to another thread.

        Raises:
            APIError: there is no thread at this address.
        """
        if isinstance(address, ByName):
            found = await self._names.find(project_id, address.name)
            if found is not None and found != address.id:
                return replace(address, id=found)
        raise unknown(address)

    async def _number(self, project_id: UUID, page: Page) -> int | None:
        """The number of the turn that a page begins behind.

        Raises:
            BadRequest: it is the id of no turn.
        """
        cursor, _ = page.scan()
        if cursor is None:
            return None
        turn_id = ids.parse(cursor, ids.TURN_PREFIXES)
        row = None
        if turn_id is not None:
            row = await self._database.fetchrow(*SQL.number_of_turn(**_at(project_id, turn_id)))
        if row is None:
            raise page.bad_cursor()
        number: int = row["seq"]
        return number

    async def _thread_id(self, project_id: UUID, address: Address) -> UUID | None:
        if not isinstance(address, OfTurn):
            return address.id
        found: UUID | None = await self._database.fetchval(*SQL.thread_of_turn(**_of_turn(project_id, address)))
        return found

    async def _busy(self, project_id: UUID, address: Address) -> Busy:
        thread_id = await self._thread_id(project_id, address)
        running = None
        if thread_id is None:
            raise unknown(address)
        if not isinstance(address, New):
            running = await self._database.fetchrow(*SQL.active_turn(**_of(project_id, thread_id)))
        named = f"its turn {ids.turn_id(running['id'])} is" if running else "a turn of it was"
        return Busy(
            f"The thread is busy: {named} in progress. Wait for its end, then send this again; "
            "or send if_busy=wait to queue, or if_busy=cancel to stop the running one.",
            thread_id,
            running["id"] if running else None,
        )


def _cut(found: Sequence[Any]) -> bool:
    """Return True if a page had no room for all of its candidates."""
    return bool(found) and found[0]["candidates"] > len(found)


def _own_text(project_id: UUID, row: Any) -> str | None:
    """Return an item's document in the bytes that were sent; None if it cannot be opened."""
    try:
        return DOCUMENT.opened_text(
            at_rest.item_place(project_id, row["turn_id"], row["position"]), "data", row["data"]
        )
    except CannotOpen:
        return None


def _piece_arguments(turn: Closable, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Return the arguments of `close_turn` for new pieces: arrays; NULL where there are none, which costs less."""
    if not pieces:
        return NO_PIECES
    return {
        "piece_digests": [piece.digest for piece in pieces],
        "piece_sources": [_dumps(piece.sources) for piece in pieces],
        "piece_data": [_piece_data(turn, piece) for piece in pieces],
        "piece_media": [piece.media_id for piece in pieces],
    }


def _piece_data(turn: Closable, piece: Piece) -> str | None:
    if piece.media_id is not None:
        return None
    if turn.sealer.key is None:
        return piece.data  # JSON: it begins with no control character.
    assert turn.thread_id is not None
    return turn.sealer.text(PIECES.at(turn.project_id, turn.thread_id, piece.digest), "data", piece.data)


def _address_arguments(address: Address) -> dict[str, Any]:
    """Return the arguments of `open_turn` that locate a thread."""
    thread_id: UUID | None
    after_turn: UUID | None = None
    name: str | None = None
    match address:
        case ById() | New():
            thread_id = address.id
        case ByName():
            thread_id, name = address.id, address.name
        case OfTurn():
            thread_id, after_turn = address.thread_id, address.turn
        case _:
            assert_never(address)
    return {
        "thread_id": thread_id, "after_turn": after_turn, "name": name, "of_user": _user_of(address),
        "new_thread": isinstance(address, New),
    }  # fmt: skip


def _at(project_id: UUID, turn_id: UUID) -> dict[str, Any]:
    """Return the arguments that locate a turn."""
    return {"project_id": project_id, "bucket": ids.bucket_of(turn_id), "turn_id": turn_id}


def _of_turn(project_id: UUID, address: OfTurn) -> dict[str, Any]:
    return {**_at(project_id, address.turn), "thread_id": address.thread_id, "of_user": address.user}


def _user_of(address: Address) -> str | None:
    return None if isinstance(address, New) else address.user


def _places(turns: Sequence[tuple[UUID, UUID]]) -> dict[str, Any]:
    """Return the arguments that locate turns, each given by its project and id."""
    return {
        "project_ids": [project_id for project_id, _ in turns],
        "buckets": [ids.bucket_of(turn_id) for _, turn_id in turns],
        "turn_ids": [turn_id for _, turn_id in turns],
    }


def _of(project_id: UUID, thread_id: UUID) -> dict[str, Any]:
    """Return the arguments that locate a thread."""
    return {"project_id": project_id, "bucket": ids.bucket_of(thread_id), "thread_id": thread_id}


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()
