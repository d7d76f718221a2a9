"""Records of reads: `thread.read` on the chain of the thread, or on the project's chain for lists and searches.

The decorator `reads` marks each route whose answers show contents. The answer is computed first, so that a refused
read leaves no record. It is sent after the record is in Postgres: a read that cannot be recorded is refused. Records
contain no contents, titles or search words. Reads with user tokens are never recorded.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar
from uuid import UUID

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

from app.db import ids
from app.db.engine import Database
from app.db.sql import statements_of
from app.http.services import services
from app.projects.auth import CALLER, Caller, Grant
from app.trail.append import Record, append_alone

SECONDS = 60.0
"""Time during which a worker records repeated reads by the same reader once."""

MOST_REMEMBERED = 10_000
"""Largest number of reads that a worker remembers. Beyond it, a read may be recorded again earlier."""

SQL = statements_of(__file__)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])
Task = asyncio.Task[None]

TURN = "read_turn_id"
"""Key in the request's state: the turn whose contents the answer shows, if the path does not name it, or None."""

THREAD = "thread_id"
"""Key in the request's state: the id of the thread in the path."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Contents that a route shows."""

    kind: str
    """Noun for `detail` of the record."""
    of: Literal["thread", "project"]
    """Chain of the record. The detail of a record on the project's chain has the number of entries in the answer."""
    exported: bool
    """True if the reads of every key are recorded, as exports are."""
    always: bool
    """True if the reads of every key are recorded, whatever the project's setting."""


_marks: dict[Any, Mark] = {}


def reads(
    kind: str, *, of: Literal["thread", "project"] = "thread", exported: bool = False, always: bool = False
) -> Callable[[Endpoint], Endpoint]:
    """Mark a route whose answers show contents. Its router must make `RecordedRoute`s."""

    def mark(endpoint: Endpoint) -> Endpoint:
        _marks[endpoint] = Mark(kind, of, exported, always)
        return endpoint

    return mark


def mark_of(endpoint: object) -> Mark | None:
    return _marks.get(endpoint)


class RecordedRoute(APIRoute):
    """A route that records reads of its answers if it is marked."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def recorded(request: Request) -> Response:
            response = await answer(request)
            mark = mark_of(self.endpoint)
            if mark is not None:
                await services(request)[Reads].record(request, response, mark)
            return response

        return recorded


class Reads:
    """Writer of read records, with a cache of the last minute's reads."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._written: dict[Hashable, tuple[float, Task]] = {}

    async def record(self, request: Request, response: Response, mark: Mark) -> None:
        """Record a read, if the project's setting requires it.

        Raises:
            DatabaseUnavailable: the record is not in Postgres. The answer must not be sent.
        """
        caller: Caller = getattr(request.state, CALLER)
        if not _is_recorded(caller.grant, mark) or not _is_read(request, response, mark):
            return
        chain, which = caller.project_id, 0
        if mark.of == "thread":
            chain = await self._thread(request, response, caller.project_id) or chain
        else:
            which = hash((request.scope["path"], request.scope["query_string"]))
        key = (caller.key_id, caller.grant.session_id is None, chain, mark.kind, which)
        # The entries of a list are counted only for a record that is written.
        await self._once(key, lambda: self._append(caller, chain, _detail(caller, request, response, mark)))

    async def _once(self, key: Hashable, write: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Write a record, or wait for the write of the same record that another request has begun."""
        now = time.monotonic()
        if key not in self._written or self._written[key][0] + SECONDS <= now:
            if len(self._written) >= MOST_REMEMBERED:
                self._written = {each: kept for each, kept in self._written.items() if kept[0] + SECONDS > now}
            if len(self._written) >= MOST_REMEMBERED:
                self._written.clear()
            task = asyncio.create_task(write())
            self._written[key] = (now, task)
            task.add_done_callback(partial(self._forget_failed, key))
        await asyncio.shield(self._written[key][1])

    def _forget_failed(self, key: Hashable, task: Task) -> None:
        if task.cancelled() or task.exception() is not None:
            self._written.pop(key, None)

    async def _append(self, caller: Caller, chain: UUID, detail: str) -> None:
        thread_id = None if chain == caller.project_id else chain
        record = Record("thread.read", detail=detail)
        await append_alone(self._database, caller.actor, caller.project_id, thread_id, record)

    async def _thread(self, request: Request, response: Response, project_id: UUID) -> UUID | None:
        """Return the thread whose contents an answer shows; None if it was deleted meanwhile."""
        state, path = request.scope["state"], request.path_params
        if THREAD in state:
            found: UUID | None = state[THREAD]
        elif "conversation_id" in path:
            found = ids.parse(path["conversation_id"], ids.THREAD_PREFIXES)
        elif "response_id" in path or "call_id" in path or TURN in state:
            turn_id = state[TURN] if TURN in state else _turn(path)
            at = {"project_id": project_id, "bucket": ids.bucket_of(turn_id), "turn_id": turn_id}
            found = await self._database.fetchval(*SQL.thread_of_turn(**at))
        else:
            found = ids.parse(orjson.loads(response.body)["id"], ids.THREAD_PREFIXES)
        return found


def _turn(path: dict[str, str]) -> UUID:
    """Return the turn of a path that names a response or a call."""
    response_id = path["response_id"] if "response_id" in path else f"turn_{path['call_id'].split('_')[-2]}"
    turn_id = ids.parse(response_id, ids.TURN_PREFIXES)
    assert turn_id is not None  # The route has found it.
    return turn_id


def _is_recorded(grant: Grant, mark: Mark) -> bool:
    if mark.always or grant.user is not None or grant.record_reads == "off":
        return mark.always
    watched = grant.session_id is not None or "admin" in grant.scopes or mark.exported
    return watched or grant.record_reads == "all"


def _detail(caller: Caller, request: Request, response: Response, mark: Mark) -> str:
    detail = mark.kind
    if mark.of == "project":
        detail += _subject(request)
        if (number := _number(response)) is not None:
            detail += f": {number}"
    return detail if caller.grant.session_id is None else f"{detail} in the console"


def _subject(request: Request) -> str:
    """Return the suffix of the detail that names the thread or hold in the path; an empty string if there is none."""
    if (thread_id := request.scope["state"].get(THREAD)) is not None:
        return f" of {ids.thread_id(thread_id)}"
    return f" of {request.path_params['hold_id']}" if "hold_id" in request.path_params else ""


def _is_read(request: Request, response: Response, mark: Mark) -> bool:
    """Return False for an answer that shows only contents that the request itself created."""
    if mark.kind == "thread" and response.status_code == 201:
        return False
    return getattr(request.state, TURN, True) is not None


def _number(response: Response) -> int | None:
    """Return the number of entries in a list; None for streams and other answers."""
    body = getattr(response, "body", None)
    entries = None if body is None else orjson.loads(body).get("data")
    return None if entries is None else len(entries)
