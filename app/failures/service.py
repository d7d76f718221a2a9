"""Pages and counts of a project's failures."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, NotRequired
from uuid import UUID

from typing_extensions import TypedDict

from app.db import ids
from app.db.engine import Database
from app.db.replica import ReplicaReads
from app.failures import store
from app.failures.store import Counts, FailureRow, Filters, Status
from app.http.errors import BadRequest
from app.http.pages import list_object, moment
from app.items.unreadable import marked

DEFAULT_SECONDS = 86_400
"""The range of a summary if `since` is left out."""

MOST_BUCKETS = 62
"""Buckets of a time series: of an hour by minutes, of 30 days by half days."""

DAY = 86_400
STEPS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, DAY)
"""Lengths of a bucket in seconds. Longer buckets are whole days."""

TOP = 20
"""Maximum number of values of a field in a summary."""


class FailureObject(TypedDict):
    """A turn that has failed, or whose answer is incomplete."""

    id: str
    """Id of the turn."""
    object: Literal["failure"]
    thread_id: str
    thread_title: str | None
    thread_name: str | None
    user: str | None
    model: str
    account: str | None
    """The provider account that was called last."""
    status: Status
    code: str | None
    """The code of the turn's error; of an incomplete turn, the reason."""
    message: str | None
    """None for an incomplete turn."""
    continuation: Literal["new", "chained", "rebuilt"] | None
    error_status: int | None
    """The HTTP status of the response to the client; None if its answer had already begun."""
    provider_status: int | None
    """The HTTP status of the last call to the provider; None without a call or without an answer."""
    attempts: int
    """Number of calls to the provider."""
    is_last: bool
    """True if the thread has no later turn."""
    created_at: int
    completed_at: int
    unreadable: NotRequired[list[str]]
    """The fields that cannot be decrypted. Left out if there are none."""


class FailurePage(TypedDict):
    object: Literal["list"]
    data: list[FailureObject]
    first_id: str | None
    last_id: str | None
    """The cursor of the next page: the last failure that was checked, which may not be in `data`."""
    has_more: bool


class FailuresOfValue(TypedDict):
    """Number of failures with one value of a field."""

    value: str | None
    failures: int


class FailuresByValue(TypedDict):
    """Numbers of failures by the values of a field, the most frequent first."""

    data: list[FailuresOfValue]
    other: int
    """Number of failures with other values."""


class FailuresOfTime(TypedDict):
    """Numbers of failures in one bucket of the range, by code."""

    start: int
    failures: int
    codes: list[FailuresOfValue]
    other: int
    """Number of failures with codes that the summary does not name."""


class FailuresSummary(TypedDict):
    """Counts of the failures of a time range."""

    object: Literal["failures.summary"]
    since: int
    until: int
    failures: int
    failed: int
    incomplete: int
    truncated: bool
    """True if only the latest failures are counted: those that ended at `counted_since` or later."""
    counted_since: int
    by_code: FailuresByValue
    by_model: FailuresByValue
    by_account: FailuresByValue
    by_user: FailuresByValue
    bucket_seconds: int
    series: list[FailuresOfTime]


class Failures:
    def __init__(self, database: Database, reads: ReplicaReads) -> None:
        """Args: reads: the database in which failures are counted. They are listed from `database`, so that nothing
        deleted is shown."""
        self._database = database
        self._reads = reads

    async def list_page(self, project_id: UUID, filters: Filters, after: str | None, limit: int) -> dict[str, Any]:
        """Return a page of failures, the latest first.

        Raises:
            BadRequest: the cursor is not the id of a failure.
        """
        place = None
        if after is not None:
            turn_id = ids.parse(after, ids.TURN_PREFIXES)
            place = None if turn_id is None else await store.place_of(self._database, project_id, turn_id)
            if place is None:
                message = "'after' must be the last_id of a page of this list. Begin without."
                raise BadRequest(message, param="after", code="invalid_cursor")
        rows, behind = await store.page(self._database, project_id, filters, place, limit)
        found = list_object(rows, _shown, has_more=behind is not None)
        return found if behind is None else {**found, "last_id": ids.turn_id(behind)}

    async def summary(
        self, project_id: UUID, filters: Filters, since: int | None, until: int | None
    ) -> FailuresSummary:
        """Return the failures of a time range, counted by code, model, account, user and time."""
        end = int(time.time()) + 1 if until is None else until
        begin = max(0, end - DEFAULT_SECONDS) if since is None else since
        if begin >= end:
            raise BadRequest("'until' must be later than 'since'.", param="until")
        seconds = bucket_seconds(begin, end)
        counts = await self._reads.read(
            lambda database: store.count(
                database,
                project_id,
                replace(filters, since=moment(begin), until=moment(end)),
                lambda at: _seconds(at) // seconds * seconds,
            )
        )
        by_code = _top(counts.of_code)
        return {
            "object": "failures.summary",
            "since": begin,
            "until": end,
            "failures": counts.failures,
            "failed": counts.of_status["failed"],
            "incomplete": counts.of_status["incomplete"],
            "truncated": counts.since is not None,
            "counted_since": begin if counts.since is None else _seconds(counts.since),
            "by_code": by_code,
            "by_model": _top(counts.of_model),
            "by_account": _top(counts.of_account),
            "by_user": _top(counts.of_user),
            "bucket_seconds": seconds,
            "series": _series(counts, by_code, begin, end, seconds),
        }


def bucket_seconds(since: int, until: int) -> int:
    """Return the length of a range's buckets. Buckets begin at multiples of it."""
    for seconds in STEPS:
        if (until - 1) // seconds - since // seconds < MOST_BUCKETS:
            return seconds
    return DAY * -(-(until - since) // (DAY * (MOST_BUCKETS - 1)))


def _series(counts: Counts, by_code: FailuresByValue, since: int, until: int, seconds: int) -> list[FailuresOfTime]:
    named = {entry["value"] for entry in by_code["data"]}
    series: list[FailuresOfTime] = []
    by_start: dict[Any, Counter[str | None]] = {}
    for (start, code), number in counts.over_time.items():
        by_start.setdefault(start, Counter())[code] += number
    for start in range(since // seconds * seconds, until, seconds):
        of_code = by_start.get(start, Counter())
        shown = Counter({code: number for code, number in of_code.items() if code in named})
        series.append(
            {
                "start": start,
                "failures": of_code.total(),
                "codes": _values(shown, TOP),
                "other": of_code.total() - shown.total(),
            }
        )
    return series


def _top(counts: Counter[str | None]) -> FailuresByValue:
    data = _values(counts, TOP)
    return {"data": data, "other": counts.total() - sum(entry["failures"] for entry in data)}


def _values(counts: Mapping[str | None, int], most: int) -> list[FailuresOfValue]:
    ordered = sorted(counts.items(), key=lambda one: (-one[1], one[0] or ""))
    return [{"value": value, "failures": number} for value, number in ordered[:most]]


def _seconds(at: datetime) -> int:
    return int(at.timestamp())


def _shown(row: FailureRow) -> FailureObject:
    return {
        "id": ids.turn_id(row["id"]),
        "object": "failure",
        "thread_id": ids.thread_id(row["thread_id"]),
        "thread_title": row["title"],
        "thread_name": row["name"],
        "user": row["user_id"],
        "model": row["model"],
        "account": store.account_of(row["binding"]),
        "status": row["status"],
        "code": row["code"],
        "message": row["message"] or None,
        "continuation": row["continuation"],  # type: ignore[typeddict-item]
        "error_status": row["error_status"],
        "provider_status": row.get("provider_status"),
        "attempts": row.get("attempts", 0),
        "is_last": row["is_last"],
        "created_at": _seconds(row["created_at"]),
        "completed_at": _seconds(row["completed_at"]),
        **marked(row),
    }
