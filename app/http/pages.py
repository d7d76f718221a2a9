"""Cursor pages over rows in an order that the database gives: a number under a lock, or its own moment.

A cursor is the id of a row. Where the row stands never changes, so that a page neither skips nor repeats a row that is
touched while somebody is paging; and it is known of a deleted row too, so that its id is still a good cursor.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Depends, Query
from typing_extensions import TypedDict

from app.http.errors import BadRequest

Row = TypeVar("Row")
T = TypeVar("T")

Seconds = Annotated[int | None, Query(ge=0, le=253_402_300_799, description="Unix seconds.")]
"""A moment in a query."""


def moment(seconds: int | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


PAGE_BYTES = 16_000_000
"""The most bytes of stored contents on a page of a list. A larger entry is a page of its own."""


@dataclass(frozen=True, slots=True)
class Page:
    limit: int
    order: Literal["asc", "desc"]
    after: str | None
    before: str | None

    def scan(self) -> tuple[str | None, bool]:
        """The cursor to read on from, and whether downwards. A page before a cursor is read backwards from it."""
        cursor = self.after if self.before is None else self.before
        return cursor, (self.order == "desc") != (self.before is not None)

    def bad_cursor(self) -> BadRequest:
        """Return the error for a cursor that is no id from the list."""
        name = "after" if self.before is None else "before"
        return BadRequest(
            f"'{name}' must be an id from this list, and {(self.scan()[0] or '')[:80]!r} is none. Begin without.",
            param=name,
            code="invalid_cursor",
        )

    def cut(self, rows: Sequence[Row]) -> tuple[Sequence[Row], bool]:
        """The page in its order, and whether more rows follow it.

        Args:
            rows: as they were read in the direction of `scan`, one more than the limit if there are more.
        """
        found = rows[: self.limit]
        return (found if self.before is None else found[::-1]), len(rows) > self.limit


Order = Literal["asc", "desc"]


def _paged(rows: str, order_by: str, default: Order) -> Callable[..., Awaitable[Page]]:
    """Return the dependency that reads a page's parameters from a query.

    Args:
        rows, order_by: the descriptions of `limit` and `order`.
        default: the order if none is given.
    """

    async def page(
        limit: Annotated[int, Query(ge=1, le=100, description=f"{rows} on a page.")] = 20,
        order: Annotated[Order, Query(description=order_by)] = default,
        after: Annotated[str | None, Query(description="The last_id of the page before this one.")] = None,
        before: Annotated[str | None, Query(description="The first_id of the page after this one.")] = None,
    ) -> Page:
        if after is not None and before is not None:
            raise BadRequest("'after' and 'before' exclude each other. Send one of them.", param="before")
        return Page(limit, order, after, before)

    return page


Paged = Annotated[Page, Depends(_paged("Rows", "By the time of creation.", "desc"))]

PagedTurns = Annotated[Page, Depends(_paged("Turns", "From the first turn on, or from the last.", "asc"))]
"""A page of a branch's turns."""


class ListObject(TypedDict, Generic[T]):
    object: Literal["list"]
    data: list[T]
    first_id: str | None
    last_id: str | None
    has_more: bool


def list_object(rows: Sequence[Row], show: Callable[[Row], Mapping[str, Any]], *, has_more: bool) -> dict[str, Any]:
    data = [show(row) for row in rows]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }
