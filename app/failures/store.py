"""Failed and incomplete turns of a project, read from Postgres.

In an encrypted project, errors and their codes are sealed; they are compared and counted here after decryption. A
request checks a bounded number of failures, even if few of them match, so that its cost is bounded.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, NotRequired, TypedDict
from uuid import UUID

from app.db.engine import Database
from app.db.ids import bucket_of
from app.db.sql import statements_of
from app.items.shapes import fields_of, string
from app.provider.account import account
from app.sealing.columns import TITLES, rows_of
from app.turns.tables import Turn

MOST_LOOKED_AT = 10_000
"""Failures that a page or a summary checks."""

LONGEST_CODE = 200
LONGEST_MESSAGE = 4000

AT_ONCE = 500
"""Failures that are read at once for a code that may be sealed, and that are counted between two yields to the loop."""

FOREVER = datetime(9999, 1, 1, tzinfo=UTC)

SQL = statements_of(__file__)

Status = Literal["failed", "incomplete"]


@dataclass(frozen=True, slots=True)
class Filters:
    since: datetime | None = None
    until: datetime | None = None
    status: Status | None = None
    code: str | None = None
    model: str | None = None
    account: str | None = None
    user: str | None = None
    thread_id: UUID | None = None

    def in_sql(self) -> dict[str, Any]:
        return {
            "status": self.status,
            "code": self.code,
            "model": self.model,
            "account": self.account,
            "user_id": self.user,
            "thread_id": self.thread_id,
        }


@dataclass(frozen=True, slots=True)
class Place:
    """Place of a failure in the order by end."""

    completed_at: datetime
    turn_id: UUID


class CountedRow(TypedDict):
    id: UUID
    completed_at: datetime
    status: Status
    model: str
    binding: str | None
    user_id: str | None
    code: str | None
    error: dict[str, Any] | None
    """None unless it was sealed."""
    incomplete_details: dict[str, Any] | None
    unreadable: NotRequired[list[str]]


class FailureRow(CountedRow):
    bucket: int
    thread_id: UUID
    title: str | None
    name: str | None
    is_last: bool
    continuation: str | None
    error_status: int | None
    created_at: datetime
    message: str | None
    place: int
    """Its number among the failures that are checked."""
    attempts: NotRequired[int]
    provider_status: NotRequired[int | None]
    """The HTTP status of the last attempt."""


@dataclass(slots=True)
class Counts:
    failures: int = 0
    of_status: Counter[str] = field(default_factory=Counter)
    of_code: Counter[str | None] = field(default_factory=Counter)
    of_model: Counter[str | None] = field(default_factory=Counter)
    of_account: Counter[str | None] = field(default_factory=Counter)
    of_user: Counter[str | None] = field(default_factory=Counter)
    over_time: Counter[tuple[Hashable, str | None]] = field(default_factory=Counter)
    """By bucket of time and code."""
    since: datetime | None = None
    """End of the earliest failure that is counted; None if all are counted."""


def account_of(binding: str | None) -> str | None:
    return None if binding is None else account(binding)


async def place_of(database: Database, project_id: UUID, turn_id: UUID) -> Place | None:
    """Return the place of a failure; None if the project has no such turn."""
    at = {"project_id": project_id, "bucket": bucket_of(turn_id), "turn_id": turn_id}
    completed_at = await database.fetchval(*SQL.place(**at))
    return None if completed_at is None else Place(completed_at, turn_id)


async def page(
    database: Database, project_id: UUID, filters: Filters, after: Place | None, limit: int
) -> tuple[list[FailureRow], UUID | None]:
    """Return the next failures, the latest first, and the cursor of the next page; None on the last page.

    The cursor is the last failure that was checked, which may not match.
    """
    found: list[FailureRow] = []
    left = MOST_LOOKED_AT
    while True:
        wanted = limit + 1 - len(found) if filters.code is None else max(limit + 1 - len(found), AT_ONCE)
        rows: list[FailureRow] = await database.fetch(
            *SQL.page(
                **_range(project_id, filters, after),
                **filters.in_sql(),
                looked_at=left,
                limit=wanted,
            )
        )
        opened = [_opened(project_id, row) for row in rows]
        found += [row for row in opened if filters.code in (None, row["code"])]
        if len(found) > limit:
            return await _with_attempts(database, project_id, found[:limit]), found[limit - 1]["id"]
        if len(rows) < wanted or rows[-1]["place"] >= left:
            break
        left -= rows[-1]["place"]
        after = Place(rows[-1]["completed_at"], rows[-1]["id"])
    behind = await database.fetch(*SQL.nth(**_range(project_id, filters, after), before=left - 1))
    return await _with_attempts(database, project_id, found), behind[0]["id"] if len(behind) > 1 else None


async def count(
    database: Database, project_id: UUID, filters: Filters, bucket: Callable[[datetime], Hashable]
) -> Counts:
    """Count the latest failures of a range. Args: bucket: maps a time to its bucket."""
    asked = _range(project_id, filters, None)
    rows: list[CountedRow] = await database.fetch(*SQL.counted(**asked, **filters.in_sql(), looked_at=MOST_LOOKED_AT))
    behind = await database.fetch(*SQL.nth(**asked, before=MOST_LOOKED_AT - 1))
    counts = Counts(since=behind[0]["completed_at"] if len(behind) > 1 else None)
    of_binding: Counter[str | None] = Counter()
    for at in range(0, len(rows), AT_ONCE):
        for row in rows[at : at + AT_ONCE]:
            code = _with_code(project_id, row)["code"]
            if filters.code not in (None, code):
                continue
            counts.failures += 1
            counts.of_status[row["status"]] += 1
            counts.of_code[code] += 1
            counts.of_model[row["model"]] += 1
            of_binding[row["binding"]] += 1
            counts.of_user[row["user_id"]] += 1
            counts.over_time[bucket(row["completed_at"]), code] += 1
        await asyncio.sleep(0)
    for binding, failures in of_binding.items():
        counts.of_account[account_of(binding)] += failures
    return counts


def _range(project_id: UUID, filters: Filters, after: Place | None) -> dict[str, Any]:
    return {
        "project_id": project_id,
        "since": filters.since or datetime.fromtimestamp(0, UTC),
        "until": filters.until or FOREVER,
        "completed_at": None if after is None else after.completed_at,
        "turn_id": None if after is None else after.turn_id,
    }


def _with_code(project_id: UUID, row: Any) -> Any:
    """Return a row with the code and the message of an error that was sealed."""
    if row["error"] is None and row["incomplete_details"] is None:
        return row
    opened = rows_of(Turn).opened(project_id, row)
    error, details = fields_of(opened["error"]), fields_of(opened["incomplete_details"])
    code = string(error.get("code")) or string(details.get("reason"))
    return {**opened, "code": code[:LONGEST_CODE] or None, "message": string(error.get("message"))[:LONGEST_MESSAGE]}


def _opened(project_id: UUID, row: FailureRow) -> FailureRow:
    found: FailureRow = dict(_with_code(project_id, row))  # type: ignore[assignment]
    titled = TITLES.opened(project_id, {"id": row["thread_id"], "title": row["title"]})
    found["title"] = titled["title"]
    if "unreadable" in titled:
        found["unreadable"] = [*found.get("unreadable", ()), "thread_title"]
    return found


async def _with_attempts(database: Database, project_id: UUID, rows: list[FailureRow]) -> list[FailureRow]:
    asked = SQL.attempts(
        project_id=project_id, buckets=[row["bucket"] for row in rows], turn_ids=[row["id"] for row in rows]
    )
    calls = {row["turn_id"]: row for row in await database.fetch(*asked)} if rows else {}
    for row in rows:
        if row["id"] in calls:
            row["attempts"] = calls[row["id"]]["attempts"]
            row["provider_status"] = calls[row["id"]]["provider_status"]
    return rows
