"""A thread's address in a path, its id or its name, resolved once for every route below it."""

from dataclasses import dataclass
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Request

from app.db import ids
from app.errors import APIError, BadRequest, NotFound

BY_ID = "/threads/{thread_id}"
BY_NAME = "/threads/by-name/{name}"


@dataclass(frozen=True, slots=True)
class Address:
    """One of these is given."""

    id: UUID | None = None
    name: str | None = None
    turn: UUID | None = None
    """A turn of the thread."""
    new: UUID | None = None
    """The id of a thread that its first turn makes."""

    def unknown(self) -> APIError:
        if self.turn is not None:
            return BadRequest(
                f"Previous response with id '{ids.response_id(self.turn)}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        said = ids.thread_id(self.id) if self.id is not None else f"named {self.name!r}"
        return NotFound(
            f"There is no thread {said} in this project.",
            param="thread_id" if self.id is not None else "name",
            code="thread_not_found",
        )


async def address(request: Request) -> Address:
    """The address in the path.

    Raises:
        NotFound: the id in the path is not the id of any thread.
    """
    name = request.path_params.get("name")
    if name is not None:
        if "\0" in name:
            raise NotFound("There is no thread with a NUL character in its name.", param="name")
        return Address(name=name)
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
