"""A thread's address in a path, its id or its name, resolved once for every route below it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, TypeVar, assert_never, overload
from urllib.parse import quote
from uuid import UUID

from fastapi import Depends, Request

from app.db import ids
from app.http.errors import APIError, BadRequest, Forbidden, NotFound
from app.http.services import services
from app.process.values import value
from app.projects.auth import Auditing, Authenticated, Caller
from app.projects.reads import THREAD
from app.threads.names import Names

BY_ID = "/threads/{thread_id}"
BY_NAME = "/threads/by-name/{name}"

LONGEST_NAME = 256

SAFE_IN_USERS = "@+.-_~!$&'()*,;= "
"""Characters of a user that stand in a name as they are."""


@value
class ById:
    id: UUID
    user: str | None = None
    """User that the thread must belong to; None: any."""


@dataclass(frozen=True, slots=True)
class ByName:
    id: UUID
    """Id of the thread that had the name at the look-up."""
    name: str
    """Name that the thread must still have."""
    user: str | None = None


@dataclass(frozen=True, slots=True)
class OfTurn:
    """The thread that a turn is in."""

    turn: UUID
    user: str | None = None
    thread_id: UUID | None = None
    """Thread that it must be; None: any."""


@dataclass(frozen=True, slots=True)
class New:
    """A thread that its first turn makes."""

    id: UUID


ThreadAddress = ById | ByName
Address = ThreadAddress | OfTurn | New


def path_of(given: str) -> str:
    """The path of a thread that somebody has named by its id or its name."""
    if ids.parse(given, ids.THREAD_PREFIXES) is not None:
        return f"/threads/{given}"
    return f"/threads/by-name/{quote(given, safe='')}"


def bucket_at(address: Address) -> int:
    """Return the bucket of an address."""
    return ids.bucket_of(address.turn if isinstance(address, OfTurn) else address.id)


def unknown(address: Address) -> APIError:
    """The error for an address at which there is no thread."""
    match address:
        case OfTurn(turn=turn):
            return BadRequest(
                f"Previous response with id '{ids.response_id(turn)}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        case ByName(name=name, user=user):
            return unknown_name(_without_prefix(user, name))
        case ById(id=id_) | New(id=id_):
            shown = ids.thread_id(id_)
            return NotFound(f"There is no thread {shown} in this project.", param="thread_id", code="thread_not_found")
        case _:
            assert_never(address)


@overload
def owned(caller: Caller, address: ById) -> ById: ...
@overload
def owned(caller: Caller, address: OfTurn) -> OfTurn: ...
@overload
def owned(caller: Caller, address: ThreadAddress) -> ThreadAddress: ...
@overload
def owned(caller: Caller, address: Address) -> Address: ...
def owned(caller: Caller, address: Address) -> Address:
    """An address at which who comes with a user's token finds what is the user's own, and else nothing: the statements
    that look there say so themselves.

    Raises:
        APIError: the token is for another thread.
    """
    grant = caller.grant
    if grant.user is None:
        return address
    match address:
        case New():
            if grant.thread_id is not None:
                raise Forbidden("This token is for one thread. Name that.", code="not_for_users")
            return address
        case OfTurn(turn=turn):
            return OfTurn(turn, grant.user, grant.thread_id)
        case _:
            own = replace(address, user=grant.user)
            if grant.thread_id not in (None, address.id):
                raise unknown(own)
            # The token's thread stays the one that it opens, whatever it is called by now.
            return own if grant.thread_id is None else ById(address.id, grant.user)


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
    return None if name is None else _without_prefix(caller.grant.user, name)


def name_after_claim(caller: Caller, former: str, name: str | None) -> str | None:
    """Return the name of a thread that the caller takes over from another user: None if it would be too long."""
    if name is None or not name.startswith(_prefix(former)):
        return name
    try:
        return name_of(caller, _without_prefix(former, name))
    except BadRequest:
        return None


def _without_prefix(user: str | None, name: str) -> str:
    return name if user is None else name.removeprefix(_prefix(user))


def _prefix(user: str) -> str:
    # No two users' names can meet: the first colon ends the user.
    return f"{quote(user, safe=SAFE_IN_USERS)}:"


def unknown_name(name: str) -> NotFound:
    return NotFound(f"There is no thread named {name!r} in this project.", param="name", code="thread_not_found")


async def address(request: Request, caller: Authenticated) -> ThreadAddress:
    """The address in the path.

    Raises:
        NotFound: the id in the path is not the id of any thread, or no thread has the name.
    """
    return await addressed(request, caller)


async def _audited(request: Request, caller: Auditing) -> ThreadAddress:
    return await addressed(request, caller)


async def addressed(request: Request, caller: Caller, *, cached: bool = False) -> ThreadAddress:
    """The same.

    Args:
        cached: whether a name may be taken for the thread that had it a moment ago: the caller sees to it that the
            thread still has it.
    """
    given = request.scope["path_params"].get("thread_id")
    by_id = None if given is None else ids.parse(given, ids.THREAD_PREFIXES)
    here = ById(by_id) if by_id is not None else await _named(request, caller, cached=cached)
    found = owned(caller, here)
    request.scope["state"][THREAD] = found.id
    return found


async def _named(request: Request, caller: Caller, *, cached: bool) -> ByName:
    name = request.path_params.get("name")
    if name is None:
        raise NotFound(
            f"There is no thread {request.path_params['thread_id'][:80]!r}: an id is thread_ and 32 hex digits. "
            "By its name, a thread is reached as /v1/threads/by-name/NAME.",
            param="thread_id",
            code="thread_not_found",
        )
    called, name, names = name, name_of(caller, name), services(request)[Names]
    thread_id = (names.known(caller.project_id, name) if cached else None) or await names.find(caller.project_id, name)
    if thread_id is None:
        raise unknown_name(called)
    return ByName(thread_id, name)


Addressed = Annotated[ThreadAddress, Depends(address)]
Audited = Annotated[ThreadAddress, Depends(_audited)]
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
