"""Cursor pages over rows that are ordered by their id.

An id is a UUIDv7 and never changes, so that a page neither skips nor repeats a row that is touched
while somebody is paging, and a deleted row is still a good cursor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import Depends, Query

from app.db import ids
from app.errors import BadRequest

Row = TypeVar("Row")

Seconds = Annotated[int | None, Query(ge=0, le=253_402_300_799, description="Unix seconds.")]
"""A moment in a query."""


def moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True, slots=True)
class Page:
    limit: int
    order: Literal["asc", "desc"]
    after: str | None
    before: str | None

    def bounds(self, prefixes: tuple[str, ...]) -> tuple[UUID | None, UUID | None]:
        """The two cursors as row ids.

        Raises:
            BadRequest: naming the cursor that is not an id of this list.
        """
        return _cursor("after", self.after, prefixes), _cursor("before", self.before, prefixes)

    def scan(self, prefixes: tuple[str, ...]) -> tuple[UUID | None, bool]:
        """The cursor to read on from, and whether downwards. A page before a cursor is read backwards from it."""
        after, before = self.bounds(prefixes)
        return (after if before is None else before), (self.order == "desc") != (before is not None)

    def cut(self, rows: Sequence[Row]) -> tuple[Sequence[Row], bool]:
        """The page in its order, and whether more rows follow it.

        Args:
            rows: as they were read in the direction of `scan`, one more than the limit if there are more.
        """
        found = rows[: self.limit]
        return (found if self.before is None else found[::-1]), len(rows) > self.limit


async def page(
    limit: Annotated[int, Query(ge=1, le=100, description="Rows on a page.")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="By the time of creation.")] = "desc",
    after: Annotated[str | None, Query(description="The last_id of the page before this one.")] = None,
    before: Annotated[str | None, Query(description="The first_id of the page after this one.")] = None,
) -> Page:
    if after is not None and before is not None:
        raise BadRequest("'after' and 'before' exclude each other. Send one of them.", param="before")
    return Page(limit, order, after, before)


Paged = Annotated[Page, Depends(page)]


def list_object(rows: Sequence[Row], show: Callable[[Row], dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    data = [show(row) for row in rows]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def _cursor(name: str, value: str | None, prefixes: tuple[str, ...]) -> UUID | None:
    if value is None:
        return None
    found = ids.parse(value, prefixes)
    if found is None:
        raise BadRequest(
            f"'{name}' must be an id from this list, such as {prefixes[0]}_0192…, not {value[:80]!r}.",
            param=name,
            code="invalid_cursor",
        )
    return found
