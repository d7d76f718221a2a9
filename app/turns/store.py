"""Turns in Postgres. The hot path is two statements: OPEN_TURN and CLOSE_TURN, a transaction each."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from app.db import ids
from app.db.engine import Database
from app.db.pagination import Page
from app.errors import Conflict, NotFound
from app.threads.address import Address
from app.turns.schemas import Origin, TurnRequest

Item = dict[str, Any]

# The thread's row is locked, so that the head which is read here is the one that the last turn left:
# its closing either has committed, or turns_one_active_per_thread refuses this turn.
_OPEN_TURN = """
WITH thread AS (
    {thread}
), turn AS (
    INSERT INTO turns (
        project_id, id, thread_id, parent_id, status, model, params, metadata, ignored, worker_id, lease_expires_at,
        api_key_id, idempotency_key, body_hash
    )
    SELECT $1, $3, thread.id, coalesce($4, thread.head_turn_id), 'in_progress', $5, $6::text::json, $7::text::jsonb,
        $8::text[], $9, now() + $10::float8 * interval '1 second', $14, $15, $16
    FROM thread
    WHERE ($4::uuid IS NULL OR EXISTS (
        SELECT FROM turns p
        WHERE p.project_id = $1 AND p.thread_id = thread.id AND p.id = $4 AND p.deleted_at IS NULL
    )) AND ($17::uuid IS NULL OR NOT EXISTS (
        SELECT FROM waiters w
        WHERE w.project_id = $1 AND w.thread_id = thread.id AND w.id < $17 AND w.expires_at > now()
    ))
    RETURNING parent_id, created_at
), item AS (
    INSERT INTO items (project_id, turn_id, position, origin, type, item_id, data)
    SELECT $1, $3, i.position - 1, 'input', i.type, i.item_id, i.data::json
    FROM turn, unnest($11::text[], $12::text[], $13::text[]) WITH ORDINALITY AS i (type, item_id, data, position)
)
SELECT thread.id AS thread_id, turn.parent_id, turn.created_at,
    $4::uuid IS NULL OR EXISTS (
        SELECT FROM turns p
        WHERE p.project_id = $1 AND p.thread_id = thread.id AND p.id = $4 AND p.deleted_at IS NULL
    ) AS parent_found
FROM thread LEFT JOIN turn ON true
"""
_LOCKED = "SELECT id, head_turn_id FROM threads WHERE project_id = $1 AND {by} FOR NO KEY UPDATE"
_THREAD_OF_TURN = "(SELECT thread_id FROM turns WHERE project_id = $1 AND id = $2 AND deleted_at IS NULL)"

OPEN_TURN = _OPEN_TURN.format(thread=_LOCKED.format(by="id = $2"))
OPEN_TURN_BY_NAME = _OPEN_TURN.format(thread=_LOCKED.format(by="name = $2"))
OPEN_TURN_AFTER_TURN = _OPEN_TURN.format(thread=_LOCKED.format(by=f"id = {_THREAD_OF_TURN}"))
OPEN_TURN_IN_NEW_THREAD = _OPEN_TURN.format(
    thread="INSERT INTO threads (project_id, id) VALUES ($1, $2) RETURNING id, head_turn_id"
)

# Everything that a turn leaves behind, in one transaction. It names the state it leaves: a turn that somebody
# else has closed stays as it is, and no row comes back.
CLOSE_TURN = """
WITH turn AS (
    UPDATE turns SET
        status = $3, continuation = $4, response = $5::text::json, usage = $6::text::json, error = $7::text::json,
        incomplete_details = $8::text::json, binding = $9, response_id = $10, response_created_at = $11,
        response_expires_at = $12, completed_at = clock_timestamp(), lease_expires_at = NULL, error_status = $26
    WHERE project_id = $1 AND id = $2 AND status = 'in_progress'
    RETURNING thread_id, completed_at
), item AS (
    INSERT INTO items (project_id, turn_id, position, origin, type, item_id, data)
    SELECT $1, $2, $13 + i.position - 1, 'output', i.type, i.item_id, i.data::json
    FROM turn, unnest($14::text[], $15::text[], $16::text[]) WITH ORDINALITY AS i (type, item_id, data, position)
), call AS (
    INSERT INTO calls (
        project_id, turn_id, attempt, continuation, url, body, dropped_items, status, response_id, error,
        started_at, finished_at
    )
    SELECT $1, $2, c.attempt, c.continuation, c.url, c.body::json, c.dropped_items, c.status, c.response_id,
        c.error::json, c.started_at, c.finished_at
    FROM turn, unnest(
        $17::text[], $18::text[], $19::text[], $20::int[], $21::int[], $22::text[], $23::text[],
        $24::timestamptz[], $25::timestamptz[]
    ) WITH ORDINALITY AS c (
        continuation, url, body, dropped_items, status, response_id, error, started_at, finished_at, attempt
    )
), thread AS (
    UPDATE threads SET
        head_turn_id = CASE WHEN $3 = 'failed' THEN head_turn_id ELSE $2 END,
        turn_count = turn_count + 1, updated_at = now()
    FROM turn WHERE threads.project_id = $1 AND threads.id = turn.thread_id
)
SELECT completed_at FROM turn
"""

PARENT = """
SELECT response_id, binding, model, extract(epoch FROM response_expires_at)::float8 AS expires_at,
    coalesce((usage->>'total_tokens')::int, 0) AS context_tokens
FROM turns
WHERE project_id = $1 AND id = $2 AND status IN ('completed', 'incomplete')
    AND response_expires_at IS NOT NULL AND response_unknown_at IS NULL
"""

FORGET_RESPONSE = """
UPDATE turns SET response_unknown_at = now() WHERE project_id = $1 AND id = $2 AND response_unknown_at IS NULL
RETURNING id
"""

BRANCH = """
WITH RECURSIVE branch AS (
    SELECT id, parent_id, 0 AS depth FROM turns WHERE project_id = $1 AND id = $2
    UNION ALL
    SELECT t.id, t.parent_id, branch.depth + 1
    FROM branch JOIN turns t ON t.project_id = $1 AND t.id = branch.parent_id
)
"""

HISTORY = (
    BRANCH
    + """
SELECT items.data FROM branch JOIN items ON items.project_id = $1 AND items.turn_id = branch.id
ORDER BY branch.depth DESC, items.position
"""
)

MESSAGES = (
    BRANCH
    + """
SELECT items.turn_id, items.position, items.origin, items.item_id, items.data, turns.created_at
FROM branch
JOIN turns ON turns.project_id = $1 AND turns.id = branch.id
JOIN items ON items.project_id = $1 AND items.turn_id = branch.id
ORDER BY branch.depth DESC, items.position
"""
)

_TURN_COLUMNS = """
    t.id, t.thread_id, t.parent_id, t.status, t.continuation, t.model, t.params, t.metadata, t.ignored, t.created_at,
    t.completed_at, t.response, t.usage, t.error, t.error_status, t.incomplete_details
"""

CHAIN = (
    BRANCH
    + """
SELECT t.id, t.parent_id, t.status, t.continuation, t.model, t.binding, t.response_id, t.response_created_at,
    t.response_expires_at, t.response_unknown_at
FROM branch JOIN turns t ON t.project_id = $1 AND t.id = branch.id
ORDER BY branch.depth DESC
"""
)

GET_TURN = f"SELECT {_TURN_COLUMNS} FROM turns t WHERE t.project_id = $1 AND t.id = $2 AND t.deleted_at IS NULL"  # noqa: S608

CALLS = """
SELECT attempt, continuation, url, body::text AS body, dropped_items, status, response_id, error, started_at,
    finished_at
FROM calls WHERE project_id = $1 AND turn_id = $2 ORDER BY attempt
"""

BRANCHES = """
SELECT t.id, t.status, t.created_at FROM turns t
WHERE t.project_id = $1 AND t.thread_id = $2 AND t.deleted_at IS NULL AND ($3::uuid IS NULL OR t.id < $3)
    AND NOT EXISTS (
        SELECT FROM turns c WHERE c.project_id = $1 AND c.thread_id = $2 AND c.parent_id = t.id AND c.deleted_at IS NULL
    )
ORDER BY t.id DESC LIMIT $4
"""

ITEMS = """
SELECT turn_id, origin, item_id, data FROM items WHERE project_id = $1 AND turn_id = ANY($2::uuid[])
ORDER BY turn_id, position
"""

THREAD_OF_TURN = "SELECT thread_id FROM turns WHERE project_id = $1 AND id = $2 AND deleted_at IS NULL"

CLOSED_AS = "SELECT status, response_id FROM turns WHERE project_id = $1 AND id = $2"

SAME_KEY = """
SELECT id, thread_id, parent_id, body_hash FROM turns WHERE project_id = $1 AND idempotency_key = $2
"""

FIRST_ATTEMPT = """
SELECT id FROM turns
WHERE project_id = $1 AND body_hash = $2 AND api_key_id = $3 AND status IN ('in_progress', 'completed', 'incomplete')
    AND ($4::uuid IS NULL OR parent_id = $4) AND created_at > now() - $5::float8 * interval '1 second'
    AND deleted_at IS NULL
ORDER BY id DESC LIMIT 1
"""

CANCEL_CHANNEL = "everthread_cancel"

REQUEST_CANCEL = f"""
WITH turn AS (
    UPDATE turns SET cancel_requested_at = now() WHERE project_id = $1 AND id = $2 AND status = 'in_progress'
    RETURNING id
)
SELECT pg_notify('{CANCEL_CHANNEL}', id::text) FROM turn
"""  # noqa: S608

RENEW_LEASES = """
UPDATE turns SET lease_expires_at = now() + $2::float8 * interval '1 second'
WHERE worker_id = $1 AND status = 'in_progress'
RETURNING id, cancel_requested_at IS NOT NULL AS cancel
"""

TAKE_EXPIRED = """
UPDATE turns t SET worker_id = $1, lease_expires_at = now() + $2::float8 * interval '1 second'
FROM (
    SELECT project_id, id FROM turns
    WHERE status = 'in_progress' AND lease_expires_at < now()
    ORDER BY lease_expires_at LIMIT 20 FOR UPDATE SKIP LOCKED
) expired
WHERE t.project_id = expired.project_id AND t.id = expired.id
RETURNING t.project_id, t.id, t.thread_id, t.parent_id, t.created_at, t.model, t.params, t.metadata, t.ignored,
    t.cancel_requested_at IS NOT NULL AS cancel,
    (SELECT count(*) FROM items i WHERE i.project_id = t.project_id AND i.turn_id = t.id)::int AS input_items
"""

QUEUE = """
INSERT INTO waiters (project_id, thread_id, id, expires_at)
SELECT $1, $2, $3, now() + $4::float8 * interval '1 second'
WHERE (
    SELECT count(*) FROM waiters WHERE project_id = $1 AND thread_id = $2 AND expires_at > now()
) < $5::int
ON CONFLICT DO NOTHING RETURNING id
"""

LEAVE_QUEUE = """
DELETE FROM waiters WHERE project_id = $1 AND thread_id = $2 AND (id = $3 OR expires_at < now()) RETURNING id
"""

ACTIVE_TURN = "SELECT id FROM turns WHERE project_id = $1 AND thread_id = $2 AND status = 'in_progress'"

FIND_THREAD = "SELECT id, head_turn_id, coalesce(title, name) AS title FROM threads WHERE project_id = $1 AND {by}"


@dataclass(frozen=True, slots=True)
class Opened:
    """A turn that is in progress in Postgres."""

    project_id: UUID
    id: UUID
    thread_id: UUID
    parent_id: UUID | None
    created_at: datetime
    request: TurnRequest


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
    output: Sequence[Item] = ()
    response: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    binding: str | None = None
    response_id: str | None = None
    response_created_at: datetime | None = None
    response_expires_at: datetime | None = None
    error_status: int | None = None
    """The HTTP status that the client is answered with."""


class Busy(Conflict):
    """Another turn of the thread is in progress."""

    code = "thread_busy"

    def __init__(self, message: str, thread_id: UUID, running_id: UUID | None) -> None:
        headers = {"Everthread-Running-Turn": ids.turn_id(running_id)} if running_id else None
        super().__init__(message, headers=headers)
        self.thread_id = thread_id
        self.running_id = running_id


class SameKey(Exception):
    """The project has a turn with this Idempotency-Key."""


class TurnStore:
    def __init__(self, database: Database, *, worker_id: UUID, lease_seconds: float) -> None:
        self._database = database
        self._worker_id = worker_id
        self._lease_seconds = lease_seconds

    async def open(
        self, project_id: UUID, address: Address, request: TurnRequest, ticket: UUID | None = None
    ) -> Opened:
        """Write a turn and its input, in progress.

        Args:
            ticket: the request's place in the thread's queue; None for one that does not queue.

        Raises:
            APIError: no such thread, or no such parent in it.
            Busy: another turn of the thread is in progress, or others have waited longer.
            SameKey: a turn with this Idempotency-Key is there.
        """
        turn_id = ids.new_uuid()
        types, item_ids, data = columns(request.items)
        statement, value = _opening(address)
        try:
            row = await self._database.fetchrow(
                statement,
                project_id,
                value,
                turn_id,
                request.parent_id,
                request.model,
                orjson.dumps(request.params).decode(),
                orjson.dumps(request.metadata).decode(),
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
            )
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
        return Opened(project_id, turn_id, row["thread_id"], row["parent_id"], row["created_at"], request)

    async def close(self, project_id: UUID, turn_id: UUID, input_items: int, closing: Closing) -> bool:
        """Close a turn with all that it leaves. False if it was closed by somebody else, or deleted, meanwhile.

        Args:
            input_items: how many items of input it has: those of the output come after them.
        """
        calls = closing.calls
        row = await self._database.fetchrow(
            CLOSE_TURN,
            project_id,
            turn_id,
            closing.status,
            closing.continuation,
            _json(closing.response),
            _json(closing.usage),
            _json(closing.error),
            _json(closing.incomplete_details),
            closing.binding,
            closing.response_id,
            closing.response_created_at,
            closing.response_expires_at,
            input_items,
            *columns(closing.output),
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
        )
        return row is not None or await self._closed_by_us(project_id, turn_id, closing)

    async def _closed_by_us(self, project_id: UUID, turn_id: UUID, closing: Closing) -> bool:
        """Whether an earlier try of ours closed the turn, and only its confirmation was lost."""
        row = await self._database.fetchrow(CLOSED_AS, project_id, turn_id)
        return row is not None and (row["status"], row["response_id"]) == (closing.status, closing.response_id)

    async def same_key(self, project_id: UUID, origin: Origin) -> asyncpg.Record | None:
        """The turn with this Idempotency-Key."""
        return await self._database.fetchrow(SAME_KEY, project_id, origin.idempotency_key)

    async def first_attempt(self, project_id: UUID, parent_id: UUID | None, origin: Origin) -> UUID | None:
        """The turn that a client's automatic retry repeats, if it is running or has been answered."""
        row = await self._database.fetchrow(
            FIRST_ATTEMPT,
            project_id,
            origin.body_hash,
            origin.api_key_id,
            parent_id,
            origin.retry_within_seconds,
        )
        return None if row is None else row["id"]

    async def request_cancel(self, project_id: UUID, turn_id: UUID) -> None:
        """Ask the worker that runs a turn, whichever it is, to stop it."""
        await self._database.fetchrow(REQUEST_CANCEL, project_id, turn_id)

    async def renew_leases(self) -> list[asyncpg.Record]:
        """Renew the leases of this worker's turns. Gives each turn's id and whether it is to be cancelled."""
        return await self._database.fetch(RENEW_LEASES, self._worker_id, self._lease_seconds)

    async def take_expired(self) -> list[asyncpg.Record]:
        """Take over turns whose lease has run out, a few at a time. Two workers never take the same one."""
        return await self._database.fetch(TAKE_EXPIRED, self._worker_id, self._lease_seconds)

    async def queue(self, project_id: UUID, thread_id: UUID, ticket: UUID, *, seconds: float, limit: int) -> bool:
        """Take a place in a busy thread's queue. False if it is full."""
        row = await self._database.fetchrow(QUEUE, project_id, thread_id, ticket, seconds, limit)
        return row is not None

    async def leave_queue(self, project_id: UUID, thread_id: UUID, ticket: UUID) -> None:
        await self._database.fetchrow(LEAVE_QUEUE, project_id, thread_id, ticket)

    async def parent(self, project_id: UUID, turn_id: UUID) -> asyncpg.Record | None:
        """A turn's response id with all that decides whether it is live; None if there is nothing to chain on."""
        return await self._database.fetchrow(PARENT, project_id, turn_id)

    async def forget_response(self, project_id: UUID, turn_id: UUID) -> None:
        """Remember that the provider does not know a turn's response id."""
        await self._database.fetchrow(FORGET_RESPONSE, project_id, turn_id)

    async def history(self, project_id: UUID, turn_id: UUID) -> list[Item]:
        """Every item of a branch, from its first turn to `turn_id`."""
        rows = await self._database.fetch(HISTORY, project_id, turn_id)
        return [row["data"] for row in rows]

    async def messages(self, project_id: UUID, turn_id: UUID) -> list[asyncpg.Record]:
        return await self._database.fetch(MESSAGES, project_id, turn_id)

    async def chain(self, project_id: UUID, turn_id: UUID) -> list[asyncpg.Record]:
        return await self._database.fetch(CHAIN, project_id, turn_id)

    async def get(self, project_id: UUID, turn_id: UUID) -> asyncpg.Record | None:
        return await self._database.fetchrow(GET_TURN, project_id, turn_id)

    async def calls(self, project_id: UUID, turn_id: UUID) -> list[asyncpg.Record]:
        """Every attempt at the provider, with the exact body sent."""
        return await self._database.fetch(CALLS, project_id, turn_id)

    async def branches(
        self, project_id: UUID, thread_id: UUID, *, after: UUID | None, limit: int
    ) -> list[asyncpg.Record]:
        """The turns that none continues, latest first: each ends a branch."""
        return await self._database.fetch(BRANCHES, project_id, thread_id, after, limit)

    async def items(self, project_id: UUID, turn_ids: Sequence[UUID]) -> dict[UUID, list[asyncpg.Record]]:
        """The items of turns, by turn."""
        found: dict[UUID, list[asyncpg.Record]] = {turn_id: [] for turn_id in turn_ids}
        for row in await self._database.fetch(ITEMS, project_id, list(turn_ids)):
            found[row["turn_id"]].append(row)
        return found

    async def thread(self, project_id: UUID, address: Address) -> asyncpg.Record:
        """A thread's id and head.

        Raises:
            NotFound: there is none at this address.
        """
        by, value = ("id = $2", address.id) if address.id is not None else ("name = $2", address.name)
        if address.turn is not None:
            by, value = f"id = {_THREAD_OF_TURN}", address.turn
        row = await self._database.fetchrow(FIND_THREAD.format(by=by), project_id, value)
        if row is None:
            raise address.unknown()
        return row

    async def list_page(self, project_id: UUID, thread_id: UUID, page: Page) -> tuple[list[asyncpg.Record], bool]:
        """One page of a thread's turns, and whether more rows follow it."""
        after, before = page.bounds(ids.TURN_PREFIXES)
        descending = (page.order == "desc") != (before is not None)
        cursor = before if before is not None else after
        statement = f"""
            SELECT {_TURN_COLUMNS} FROM turns t
            WHERE t.project_id = $1 AND t.thread_id = $2 AND t.deleted_at IS NULL
                AND ($3::uuid IS NULL OR t.id {"<" if descending else ">"} $3)
            ORDER BY t.id {"DESC" if descending else "ASC"} LIMIT $4
        """  # noqa: S608
        rows = await self._database.fetch(statement, project_id, thread_id, cursor, page.limit + 1)
        found = rows[: page.limit]
        return (found[::-1] if before is not None else found), len(rows) > page.limit

    async def thread_of(self, project_id: UUID, turn_id: UUID) -> UUID | None:
        """The thread of a turn that is not deleted."""
        row = await self._database.fetchrow(THREAD_OF_TURN, project_id, turn_id)
        return None if row is None else row["thread_id"]

    async def _busy(self, project_id: UUID, address: Address) -> Busy:
        thread = await self.thread(project_id, address)
        running = await self._database.fetchrow(ACTIVE_TURN, project_id, thread["id"])
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
        return OPEN_TURN_AFTER_TURN, address.turn
    if address.new is not None:
        return OPEN_TURN_IN_NEW_THREAD, address.new
    if address.id is not None:
        return OPEN_TURN, address.id
    assert address.name is not None
    return OPEN_TURN_BY_NAME, address.name


def columns(items: Sequence[Item]) -> tuple[list[str], list[str], list[str]]:
    """Items as the arrays (types, ids, data) that an insert unnests."""
    types = [str(item.get("type") or "message") for item in items]
    return types, [_item_id(item) for item in items], [orjson.dumps(item).decode() for item in items]


ID_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}


def _item_id(item: Item) -> str:
    """The item's own id, or a new one of ours."""
    given = item.get("id")
    if isinstance(given, str) and given:
        return given
    return f"{ID_PREFIXES.get(str(item.get('type') or 'message'), 'item')}_{ids.new_uuid().hex}"


def _json(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value).decode()
