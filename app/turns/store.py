"""Turns in Postgres. The hot path is two statements: OPEN_TURN and CLOSE_TURN, a transaction each."""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import structlog

from app.db import ids
from app.db.engine import Database
from app.db.pagination import Page
from app.errors import Conflict, DatabaseUnavailable, NotFound
from app.items.kept import Kept, columns, kept_input, kept_output, kept_row
from app.items.kinds import CALLS
from app.items.shapes import Item
from app.search.texts import documents
from app.threads.address import Address
from app.trail import contents
from app.trail.records import Actor
from app.turns import statements
from app.turns.schemas import Origin, TurnRequest


@dataclass(frozen=True, slots=True)
class Opened:
    """A turn that is in progress in Postgres."""

    project_id: UUID
    id: UUID
    thread_id: UUID
    parent_id: UUID | None
    created_at: datetime
    request: TurnRequest
    salt: bytes
    parent_forgotten: bool = False
    """The parent's response id is of no use any more, whatever Redis says."""

    @property
    def closable(self) -> "Closable":
        request = self.request
        return Closable(self.project_id, self.id, self.thread_id, len(request.items), self.salt, request.origin.actor)


@dataclass(frozen=True, slots=True)
class Closable:
    """What has to be known of a turn to close it."""

    project_id: UUID
    id: UUID
    thread_id: UUID | None
    """None where it is not known: it is looked up then."""
    input_items: int
    """How many items of input it has: those of the output come after them."""
    salt: bytes
    actor: Actor


@dataclass(frozen=True, slots=True)
class CallRecord:
    continuation: str
    url: str
    body: bytes
    dropped_items: int
    status: int | None
    response_id: str | None
    error: dict[str, Any] | None
    started_at: datetime
    finished_at: datetime


@dataclass(frozen=True, slots=True)
class Closing:
    """What a turn is closed with."""

    status: str
    continuation: str | None
    calls: Sequence[CallRecord]
    output: Sequence[Kept] = ()
    response: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    binding: str | None = None
    response_id: str | None = None
    response_created_at: datetime | None = None
    response_expires_at: datetime | None = None
    error_status: int | None = None
    """The HTTP status that the client is answered with; None where it has been answered before."""
    pace: dict[str, Any] | None = None

    def with_own_ids(self) -> "Closing":
        """The same, the output's items under ids of ours."""
        return replace(self, output=kept_output([item.data for item in self.output], own_ids=True))


log = structlog.get_logger()

CLOCKS_APART_SECONDS = 3600.0
"""How far the clocks of two workers, which ids are made by, may be apart."""

NEVER_ASKED = Closing(
    "failed",
    None,
    (),
    error={"code": DatabaseUnavailable.code, "message": "Postgres was away when this turn was opened. Send it again."},
    error_status=DatabaseUnavailable.status,
)


class Busy(Conflict):
    """Another turn of the thread is in progress."""

    code = "thread_busy"

    def __init__(self, message: str, thread_id: UUID, running_id: UUID | None) -> None:
        headers = {"Everthread-Running-Turn": ids.turn_id(running_id)} if running_id else None
        super().__init__(message, headers=headers)
        self.thread_id = thread_id
        self.running_id = running_id


class SameKey(Exception):
    """There is a turn with this Idempotency-Key where the request goes."""


class TurnStore:
    def __init__(self, database: Database, *, worker_id: UUID, lease_seconds: float) -> None:
        self._database = database
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds
        self._unconfirmed: list[tuple[Closable, float]] = []
        """Turns that may have been opened, and until when they may come to light."""

    async def open(
        self, project_id: UUID, address: Address, request: TurnRequest, ticket: UUID | None = None
    ) -> Opened:
        """Write a turn and its input, in progress.

        Args:
            ticket: the request's place in the thread's queue; None for one that does not queue.

        Raises:
            APIError: no such thread, or no such parent in it.
            Busy: another turn of the thread is in progress, or others have waited longer.
            SameKey: a turn with this Idempotency-Key is there already.
        """
        turn_id, salt = ids.new_uuid(), contents.new_salt()
        types, item_ids, data = columns(kept_input(request.items))
        params = _dumps(request.params)
        statement, value = _opening(address)
        opened = contents.opened(salt, request.model, params, request.metadata, item_ids, data)
        records: list[tuple[str, bytes | None]] = [("turn.opened", opened)]
        if address.new is not None:
            records.insert(0, ("thread.created", contents.thread(salt, None, None, request.user, {}, archived=False)))
        try:
            row = await self._database.fetchrow(
                statement,
                project_id,
                value,
                turn_id,
                request.parent_id,
                request.model,
                params,
                _dumps(request.metadata),
                request.ignored,
                self._worker_id,
                self._lease_seconds,
                types,
                item_ids,
                data,
                request.origin.api_key_id,
                request.origin.idempotency_key,
                request.origin.body_hash,
                ticket,
                salt,
                request.origin.address,
                [ids.new_uuid() for _ in records],
                [action for action, _ in records],
                [content for _, content in records],
                *documents(request.items),
                request.first,
                request.user,
            )
        except (DatabaseUnavailable, asyncio.CancelledError):
            thread_id = address.id or address.new
            turn = Closable(project_id, turn_id, thread_id, len(types), salt, request.origin.actor)
            self._unconfirmed.append((turn, time.monotonic() + self._lease_seconds))
            raise
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name == "turns_idempotency_key":
                raise SameKey from error
            if error.constraint_name != "turns_one_active_per_thread":
                raise
            raise await self._busy(project_id, address) from error
        if row is None:
            raise address.unknown()
        if row["created_at"] is None and row["parent_found"]:
            raise await self._busy(project_id, address)
        if row["created_at"] is None:
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
            row["thread_id"],
            row["parent_id"],
            row["created_at"],
            request,
            salt,
            bool(row["parent_forgotten"]),
        )

    async def close(self, turn: Closable, closing: Closing) -> Closing | None:
        """Close a turn with all that it leaves.

        Returns:
            What it was closed with: where the output had ids of other items, it has others. None if the turn was
            closed by somebody else, or deleted, meanwhile.
        """
        try:
            return closing if await self._close(turn, closing) else None
        except asyncpg.UniqueViolationError as error:
            if error.constraint_name != "items_item_id_key":
                raise
        closing = closing.with_own_ids()
        return closing if await self._close(turn, closing) else None

    async def _close(self, turn: Closable, closing: Closing) -> bool:
        calls = closing.calls
        types, item_ids, data = columns(closing.output)
        response, usage, error = _json(closing.response), _json(closing.usage), _json(closing.error)
        incomplete_details, pace = _json(closing.incomplete_details), _json(closing.pace)
        records: list[tuple[str, str, bytes | None]] = []
        for attempt, call in enumerate(calls, 1):
            said = contents.called(
                turn.salt, attempt, call.continuation, call.url, call.body, call.dropped_items, call.status,
                call.response_id, _json(call.error),
            )  # fmt: skip
            records.append(("turn.called", f"{attempt} {call.continuation} {call.status}", said))
        closed = contents.closed(
            turn.salt, closing.status, closing.continuation, response, usage, error, incomplete_details,
            closing.binding, closing.response_id, pace, item_ids, data,
        )  # fmt: skip
        records.append(("turn.closed", closing.status, closed))
        if not turn.salt:
            # Opened by a release that had no audit trail: there is nothing to compare its content with.
            records = [(action, detail, None) for action, detail, _ in records]
        arguments = (
            turn.project_id,
            turn.id,
            closing.status,
            closing.continuation,
            response,
            usage,
            error,
            incomplete_details,
            closing.binding,
            closing.response_id,
            closing.response_created_at,
            closing.response_expires_at,
            turn.input_items,
            types,
            item_ids,
            data,
            [call.continuation for call in calls],
            [call.url for call in calls],
            [call.body.decode() for call in calls],
            [call.dropped_items for call in calls],
            [call.status for call in calls],
            [call.response_id for call in calls],
            [_json(call.error) for call in calls],
            [call.started_at for call in calls],
            [call.finished_at for call in calls],
            closing.error_status,
            turn.actor.key_id,
            turn.actor.address,
            [ids.new_uuid() for _ in records],
            [action for action, _, _ in records],
            [detail for _, detail, _ in records],
            [content for _, _, content in records],
            *documents(kept.item for kept in closing.output),
            pace,
            turn.thread_id,
        )
        row = await self._database.fetchrow(statements.CLOSE_TURN, *arguments)
        return row is not None or await self._closed_by_us(turn.project_id, turn.id, closing)

    async def _closed_by_us(self, project_id: UUID, turn_id: UUID, closing: Closing) -> bool:
        """Whether an earlier try of ours closed the turn, and only its confirmation was lost."""
        row = await self._database.fetchrow(statements.CLOSED_AS, project_id, turn_id)
        return row is not None and (row["status"], row["response_id"]) == (closing.status, closing.response_id)

    async def same_key(
        self, project_id: UUID, address: Address, origin: Origin, *, holds_seconds: float
    ) -> asyncpg.Record | None:
        """The turn with this Idempotency-Key where the request goes, and whether it is older than a key holds."""
        scope, value = _scope(project_id, address)
        statement = statements.SAME_KEY.format(scope=scope)
        return await self._database.fetchrow(statement, project_id, value, origin.idempotency_key, holds_seconds)

    async def free_key(self, project_id: UUID, turn_id: UUID, key: str) -> None:
        """Let the next request with this Idempotency-Key be a new one. A turn that still runs keeps it."""
        await self._database.fetchrow(statements.FREE_KEY, project_id, turn_id, key)

    async def client_left(self, project_id: UUID, turn_id: UUID) -> None:
        """Write down that nobody was given a byte of a turn's answer. Where that fails, it counts as given."""
        with suppress(DatabaseUnavailable):
            await self._database.fetchrow(statements.CLIENT_LEFT, project_id, turn_id)

    async def claim_first_attempt(
        self, project_id: UUID, address: Address, parent_id: UUID | None, origin: Origin, within_seconds: float
    ) -> UUID | None:
        """The turn that a client's automatic retry repeats, if it is certain that it does.

        Args:
            within_seconds: how long ago the first attempt may have been made.
        """
        by, value = _by(address)
        since = ids.first_uuid(datetime.now(UTC) - timedelta(seconds=within_seconds + CLOCKS_APART_SECONDS))
        row = await self._database.fetchrow(
            statements.CLAIM_FIRST_ATTEMPT.format(by=by),
            project_id,
            value,
            origin.body_hash,
            origin.api_key_id,
            parent_id,
            since,
            within_seconds,
        )
        return None if row is None else row["id"]

    async def request_cancel(self, project_id: UUID, turn_id: UUID) -> None:
        """Ask the worker that runs a turn, whichever it is, to stop it."""
        await self._database.fetchrow(statements.REQUEST_CANCEL, project_id, turn_id)

    async def renew_leases(self, turn_ids: Sequence[UUID]) -> list[asyncpg.Record]:
        """Renew the leases of turns of this worker. Gives each turn's id and whether it is to be cancelled."""
        return await self._database.fetch(statements.RENEW_LEASES, self._worker_id, self._lease_seconds, turn_ids)

    async def close_unconfirmed(self) -> None:
        """Close the turns that may have been opened without our hearing of it: the model was never asked.

        Their clients were told to send the request again. A statement that Postgres is still at may be done later
        than this: its turn is looked for until its lease would have run out.

        Raises:
            DatabaseUnavailable: Postgres is still away.
        """
        for entry in list(self._unconfirmed):
            turn, until = entry
            try:
                closed = await self.close(turn, NEVER_ASKED) or await self.exists(turn.project_id, turn.id)
            except asyncpg.PostgresError as error:
                log.error("a turn whose opening was not confirmed cannot be closed", turn=ids.turn_id(turn.id),
                          sqlstate=error.sqlstate)  # fmt: skip
                closed = True  # Its lease runs out.
            if (closed or time.monotonic() > until) and entry in self._unconfirmed:
                self._unconfirmed.remove(entry)

    async def take_expired(self) -> list[asyncpg.Record]:
        """Take over turns whose lease has run out, a few at a time. Two workers never take the same one."""
        return await self._database.fetch(statements.TAKE_EXPIRED, self._worker_id, self._lease_seconds)

    async def queue(self, project_id: UUID, thread_id: UUID, ticket: UUID, *, seconds: float, limit: int) -> bool:
        """Take a place in a busy thread's queue for some seconds, or keep it for that long. False if it is full."""
        row = await self._database.fetchrow(statements.QUEUE, project_id, thread_id, ticket, seconds, limit)
        return row is not None

    async def leave_queue(self, project_id: UUID, thread_id: UUID, ticket: UUID) -> None:
        await self._database.fetchrow(statements.LEAVE_QUEUE, project_id, thread_id, ticket)

    async def parent(self, project_id: UUID, turn_id: UUID) -> asyncpg.Record | None:
        """A turn's response id with all that decides whether it is live; None if there is nothing to chain on."""
        return await self._database.fetchrow(statements.PARENT, project_id, turn_id, CALLS)

    async def forget_response(self, project_id: UUID, turn_id: UUID) -> None:
        """Remember that the provider does not know a turn's response id."""
        await self._database.fetchrow(statements.FORGET_RESPONSE, project_id, turn_id)

    async def history(self, project_id: UUID, turn_id: UUID) -> list[Item]:
        """Every item of a branch, from its first turn to `turn_id`."""
        rows = await self._database.fetch(statements.HISTORY, project_id, turn_id)
        return [kept_row(row).item for row in rows]

    async def referenced(
        self, project_id: UUID, item_ids: Sequence[str], thread_id: UUID | None
    ) -> dict[str, asyncpg.Record]:
        """Items by their ids, and whether each is `within` the history of a thread."""
        rows = await self._database.fetch(statements.REFERENCED, project_id, list(item_ids), thread_id)
        return {row["item_id"]: row for row in rows}

    async def messages(
        self, project_id: UUID, turn_id: UUID | None, turns: int | None = None
    ) -> tuple[list[asyncpg.Record], bool]:
        """The items of a branch's last turns, oldest first, and whether it has turns before them.

        Args:
            turn_id: the branch's last turn; None for a thread that has none yet.
            turns: how many; None for all.
        """
        if turn_id is None:
            return [], False
        rows = await self._database.fetch(statements.MESSAGES, project_id, turn_id, turns)
        return [row for row in rows if row["item_id"] is not None], bool(rows and rows[0]["more"])

    async def chain(self, project_id: UUID, turn_id: UUID) -> list[asyncpg.Record]:
        return await self._database.fetch(statements.CHAIN, project_id, turn_id)

    async def get(self, project_id: UUID, turn_id: UUID) -> asyncpg.Record | None:
        return await self._database.fetchrow(statements.GET_TURN, project_id, turn_id)

    async def exists(self, project_id: UUID, turn_id: UUID) -> bool:
        return await self._database.fetchrow(statements.CLOSED_AS, project_id, turn_id) is not None

    async def in_history(self, project_id: UUID, thread_id: UUID, turn_id: UUID) -> bool:
        """Whether a turn is one of the thread's, or one that it shares with the thread it was forked from."""
        row = await self._database.fetchrow(statements.IN_HISTORY, project_id, thread_id, turn_id)
        return bool(row and row["found"])

    async def turns(self, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, asyncpg.Record]:
        """Turns with their pace, by id. Deleted ones are left out."""
        rows = await self._database.fetch(statements.TURNS, project_id, list(turn_ids))
        return {row["id"]: row for row in rows}

    async def calls(self, project_id: UUID, turn_id: UUID) -> list[asyncpg.Record]:
        """Every attempt at the provider, with the exact body sent."""
        return await self._database.fetch(statements.CALLS, project_id, turn_id)

    async def branches(
        self, project_id: UUID, thread_id: UUID, *, after: UUID | None, limit: int
    ) -> list[asyncpg.Record]:
        """The turns that none continues, latest first: each ends a branch."""
        return await self._database.fetch(statements.BRANCHES, project_id, thread_id, after, limit)

    async def items(self, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, list[asyncpg.Record]]:
        """The items of turns, by turn."""
        found: dict[UUID, list[asyncpg.Record]] = {turn_id: [] for turn_id in turn_ids}
        for row in await self._database.fetch(statements.ITEMS, project_id, list(turn_ids)):
            found[row["turn_id"]].append(row)
        return found

    async def thread(self, project_id: UUID, address: Address) -> asyncpg.Record:
        """A thread's id and head.

        Raises:
            NotFound: there is none at this address.
        """
        by, value = _by(address)
        row = await self._database.fetchrow(statements.FIND_THREAD.format(by=by), project_id, value)
        if row is None:
            raise address.unknown()
        return row

    async def list_page(self, project_id: UUID, thread_id: UUID, page: Page) -> tuple[Sequence[asyncpg.Record], bool]:
        """One page of a thread's turns, and whether more rows follow it."""
        cursor, descending = page.scan(ids.TURN_PREFIXES)
        statement = f"""
            SELECT {statements.TURN_COLUMNS} FROM turns t
            WHERE t.project_id = $1 AND t.thread_id = $2 AND t.deleted_at IS NULL
                AND ($3::uuid IS NULL OR t.id {"<" if descending else ">"} $3)
            ORDER BY t.id {"DESC" if descending else "ASC"} LIMIT $4
        """  # noqa: S608
        rows = await self._database.fetch(statement, project_id, thread_id, cursor, page.limit + 1)
        return page.cut(rows)

    async def _busy(self, project_id: UUID, address: Address) -> Busy:
        thread = await self.thread(project_id, address)
        running = await self._database.fetchrow(statements.ACTIVE_TURN, project_id, thread["id"])
        named = f"its turn {ids.turn_id(running['id'])} is" if running else "a turn of it was"
        return Busy(
            f"The thread is busy: {named} in progress. Wait for its end, then send this again; "
            "or send if_busy=wait to queue, or if_busy=cancel to stop the running one.",
            thread["id"],
            running["id"] if running else None,
        )


def _opening(address: Address) -> tuple[str, UUID | str]:
    """The statement that opens a turn at an address, and the address's value in it."""
    if address.turn is not None:
        return statements.OPEN_TURN_AFTER_TURN, address.turn
    if address.new is not None:
        return statements.OPEN_TURN_IN_NEW_THREAD, address.new
    if address.id is not None:
        return statements.OPEN_TURN, address.id
    assert address.name is not None
    return statements.OPEN_TURN_BY_NAME, address.name


def _by(address: Address) -> tuple[str, UUID | str | None]:
    """What a thread is found by, and the value of it."""
    if address.turn is not None:
        return f"id = {statements.ITS_THREAD}", address.turn
    return ("id = $2", address.id) if address.id is not None else ("name = $2", address.name)


def _scope(project_id: UUID, address: Address) -> tuple[str, UUID | str | None]:
    """Where an Idempotency-Key holds, and the value of it."""
    if address.new is not None:
        return "$2::uuid", project_id
    by, value = _by(address)
    return f"(SELECT th.id FROM threads th WHERE th.project_id = $1 AND th.{by})", value  # noqa: S608


def _json(value: Any) -> str | None:
    return None if value is None else _dumps(value)


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()
