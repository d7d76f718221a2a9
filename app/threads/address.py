"""A thread's address in a path, its id or its name, resolved once for every route below it."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from app.db import ids
from app.errors import APIError, BadRequest, NotFound
from app.projects.auth import Authenticated, Caller
from app.threads.names import Names

BY_ID = "/threads/{thread_id}"
BY_NAME = "/threads/by-name/{name}"


@dataclass(frozen=True, slots=True)
class Address:
    """One of `id`, `turn` and `new` is given."""

    id: UUID | None = None
    name: str | None = None
    """Beside the id: the name that the thread must have, being addressed by it."""
    turn: UUID | None = None
    """A turn of the thread."""
    new: UUID | None = None
    """The id of a thread that its first turn makes."""

    @property
    def bucket(self) -> int:
        """Where the thread lies."""
        found = self.id or self.turn or self.new
        assert found is not None
        return ids.bucket_of(found)

    def unknown(self) -> APIError:
        if self.turn is not None:
            return BadRequest(
                f"Previous response with id '{ids.response_id(self.turn)}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        if self.name is not None:
            return unknown_name(self.name)
        assert self.id is not None
        return NotFound(
            f"There is no thread {ids.thread_id(self.id)} in this project.", param="thread_id", code="thread_not_found"
        )


def unknown_name(name: str) -> NotFound:
    return NotFound(f"There is no thread named {name!r} in this project.", param="name", code="thread_not_found")


async def address(request: Request, caller: Authenticated) -> Address:
    """The address in the path.

    Raises:
        NotFound: the id in the path is not the id of any thread, or no thread has the name.
    """
    return await addressed(request, caller)


async def addressed(request: Request, caller: Caller, *, cached: bool = False) -> Address:
    """The same.

    Args:
        cached: whether a name may be taken for the thread that had it a moment ago: the caller sees to it that the
            thread still has it.
    """
    name = request.path_params.get("name")
    if name is not None:
        if "\0" in name:
            raise NotFound("There is no thread with a NUL character in its name.", param="name")
        names: Names = request.app.state.names
        thread_id = (names.known(caller.project_id, name) if cached else None) or await names.find(
            caller.project_id, name
        )
        if thread_id is None:
            raise unknown_name(name)
        return Address(id=thread_id, name=name)
    given = request.path_params["thread_id"]
    found = ids.parse(given, ids.THREAD_PREFIXES)
    if found is None:
        raise NotFound(
            f"There is no thread {given[:80]!r}: an id is thread_ and 32 hex digits. "
            "By its name, a thread is reached as /v1/threads/by-name/NAME.",
            param="thread_id",
            code="thread_not_found",
        )
    return Address(id=found)


Addressed = Annotated[Address, Depends(address)]
