"""A thread's address in a path, its id or its name, resolved once for every route below it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar, assert_never
from urllib.parse import quote
from uuid import UUID

from fastapi import Depends, Request

from app.db import ids
from app.db.engine import Database
from app.errors import APIError, BadRequest, Forbidden, NotFound
from app.projects.auth import Auditing, Authenticated, Caller
from app.services import services
from app.threads.names import Names

BY_ID = "/threads/{thread_id}"
BY_NAME = "/threads/by-name/{name}"

LONGEST_NAME = 256

SAFE_IN_USERS = "@+.-_~!$&'()*,;= "
"""Characters of a user that stand in a name as they are."""

OWN_THREAD = "SELECT id FROM threads WHERE project_id = $1 AND bucket = $2 AND id = $3 AND user_id = $4"

OWN_TURN = """
SELECT th.id FROM turns t
JOIN threads th ON th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
WHERE t.project_id = $1 AND t.bucket = $2 AND t.id = $3 AND t.deleted_at IS NULL AND th.user_id = $4
"""


@dataclass(frozen=True, slots=True)
class ById:
    id: UUID


@dataclass(frozen=True, slots=True)
class ByName:
    id: UUID
    """Of the thread that had the name when it was looked up."""
    name: str
    """What the thread must still be called."""


@dataclass(frozen=True, slots=True)
class OfTurn:
    """The thread that a turn is in."""

    turn: UUID


@dataclass(frozen=True, slots=True)
class New:
    """A thread that its first turn makes."""

    id: UUID


Place = ById | ByName
Address = Place | OfTurn | New


def path_of(given: str) -> str:
    """The path of a thread that somebody has named by its id or its name."""
    if ids.parse(given, ids.THREAD_PREFIXES) is not None:
        return f"/threads/{given}"
    return f"/threads/by-name/{quote(given, safe='')}"


def bucket_at(address: Address) -> int:
    """Where the thread lies."""
    return ids.bucket_of(address.turn if isinstance(address, OfTurn) else address.id)


def known_id(address: Address) -> UUID | None:
    """The thread's id, as far as the address tells it."""
    return None if isinstance(address, OfTurn) else address.id


def unknown(address: Address) -> APIError:
    """The error for an address at which there is no thread."""
    match address:
        case OfTurn(turn):
            return BadRequest(
                f"Previous response with id '{ids.response_id(turn)}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        case ByName(name=name):
            return unknown_name(name)
        case ById(id_) | New(id_):
            shown = ids.thread_id(id_)
            return NotFound(f"There is no thread {shown} in this project.", param="thread_id", code="thread_not_found")
        case _:
            assert_never(address)


class Owners:
    """Whose a thread is, for who comes with the token of an end user: what is another's is as if it were not there."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def owns(self, caller: Caller, address: Address) -> bool:
        """Whether the caller may reach what is at an address: who has a key, all; a user, what is the user's own.

        Raises:
            Forbidden: a token that is for one thread makes no other.
        """
        grant = caller.grant
        if grant.user is None:
            return True
        match address:
            case New():
                if grant.thread_id is not None:
                    raise Forbidden("This token is for one thread. Name that.", code="not_for_users")
                return True
            case OfTurn(turn):
                return await self.owns_turn(caller, turn)
            case _:
                return await self._is_own(caller, OWN_THREAD, address.id)

    async def owns_turn(self, caller: Caller, turn_id: UUID) -> bool:
        return caller.grant.user is None or await self._is_own(caller, OWN_TURN, turn_id)

    async def _is_own(self, caller: Caller, statement: str, id_: UUID) -> bool:
        grant = caller.grant
        row = await self._database.fetchrow(statement, grant.project_id, ids.bucket_of(id_), id_, grant.user)
        return row is not None and grant.thread_id in (None, row["id"])


def name_of(caller: Caller, name: str) -> str:
    """The name that a caller's name for a thread stands for: an end user's are apart from all others.

    Raises:
        BadRequest: it is too long together with the user's.
    """
    if caller.grant.user is None:
        return name
    whole = f"{_prefix(caller.grant.user)}{name}"
    if len(whole) > LONGEST_NAME:
        raise BadRequest(f"'name' and the user's have more than {LONGEST_NAME} characters together.", param="name")
    return whole


def name_for(caller: Caller, name: str | None) -> str | None:
    """A thread's name as the caller knows it."""
    return name if name is None or caller.grant.user is None else name.removeprefix(_prefix(caller.grant.user))


def _prefix(user: str) -> str:
    # No two users' names can meet: the first colon ends the user.
    return f"{quote(user, safe=SAFE_IN_USERS)}:"


def unknown_name(name: str) -> NotFound:
    return NotFound(f"There is no thread named {name!r} in this project.", param="name", code="thread_not_found")


async def address(request: Request, caller: Authenticated) -> Place:
    """The address in the path.

    Raises:
        NotFound: the id in the path is not the id of any thread, or no thread has the name.
    """
    return await addressed(request, caller)


async def _audited(request: Request, caller: Auditing) -> Place:
    return await addressed(request, caller)


async def addressed(request: Request, caller: Caller, *, cached: bool = False) -> Place:
    """The same.

    Args:
        cached: whether a name may be taken for the thread that had it a moment ago: the caller sees to it that the
            thread still has it.
    """
    place = await _found(request, caller, cached=cached)
    if not await services(request)[Owners].owns(caller, place):
        raise unknown(replace(place, name=request.path_params["name"]) if isinstance(place, ByName) else place)
    return place


async def _found(request: Request, caller: Caller, *, cached: bool) -> Place:
    name = request.path_params.get("name")
    if name is not None:
        if "\0" in name:
            raise NotFound("There is no thread with a NUL character in its name.", param="name")
        called, name, names = name, name_of(caller, name), services(request)[Names]
        thread_id = (names.known(caller.project_id, name) if cached else None) or await names.find(
            caller.project_id, name
        )
        if thread_id is None:
            raise unknown_name(called)
        return ByName(thread_id, name)
    given = request.path_params["thread_id"]
    found = ids.parse(given, ids.THREAD_PREFIXES)
    if found is None:
        raise NotFound(
            f"There is no thread {given[:80]!r}: an id is thread_ and 32 hex digits. "
            "By its name, a thread is reached as /v1/threads/by-name/NAME.",
            param="thread_id",
            code="thread_not_found",
        )
    return ById(found)


Addressed = Annotated[Place, Depends(address)]
Audited = Annotated[Place, Depends(_audited)]
"""The same, for keys with the scope audit."""

Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


def at(register: Callable[..., Any], path: str = "", **how: Any) -> Callable[[Endpoint], Endpoint]:
    """A route under a thread, reached by its id and by its name.

    Args:
        register: a router's decorator for a method.
        path: behind the thread's.
        how: what the decorator takes.
    """

    def decorate(endpoint: Endpoint) -> Endpoint:
        for place in (BY_ID, BY_NAME):
            register(f"{place}{path}", **how)(endpoint)
        return endpoint

    return decorate
