"""Cursor pages over rows in an order that the database gives: a number under a lock, or its own moment.

A cursor is the id of a row. Where the row stands never changes, so that a page neither skips nor repeats a row that is
touched while somebody is paging; and it is known of a deleted row too, so that its id is still a good cursor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Depends, Query
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import TypedDict

from app.http.errors import BadRequest

Row = TypeVar("Row")
T = TypeVar("T")

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

    def scan(self) -> tuple[str | None, bool]:
        """The cursor to read on from, and whether downwards. A page before a cursor is read backwards from it."""
        cursor = self.after if self.before is None else self.before
        return cursor, (self.order == "desc") != (self.before is not None)

    def bad_cursor(self) -> BadRequest:
        """That the cursor is no id from the list."""
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


# A row's moment is never before the beginning of its transaction. One that has written nothing for as long as nobody
# needs between the two is a reader, and holds nobody up.
OLDEST_WRITER = text(
    """SELECT least(clock_timestamp(), min(xact_start)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid()
        AND (backend_xid IS NOT NULL OR xact_start > clock_timestamp() - interval '2 seconds')"""
)


@dataclass(frozen=True, slots=True)
class ReadHorizon:
    """Up to which moment nothing can be added any more: who follows a list upwards reads no further."""

    seconds: float | None = None
    """How long a transaction may take until its rows are seen; None to look at those that are open."""

    async def until(self, session: AsyncSession) -> datetime:
        """The moment, to be asked for before the list is read."""
        if self.seconds is not None:
            settling = select(func.clock_timestamp() - timedelta(seconds=self.seconds))
            waited: datetime = (await session.execute(settling)).scalar_one()
            return waited
        until: datetime = (await session.execute(OLDEST_WRITER)).scalar_one()
        return until
