"""Preview of a user's purge: what it would delete, counted in one snapshot of the database."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession
from typing_extensions import TypedDict

from app.db.sql import statements_of

MOST_TURNS = 10_000
"""Threads and turns of a user that a preview reads. If there are more, the counts are lower bounds."""

MOST_ROWS = 100_000
"""Rows of each kind that a preview counts."""

SQL = statements_of(__file__)


Refusal = Literal["user_held", "minimum_retention"]


class PurgeCounts(TypedDict):
    """The numbers that the certificate of the purge states."""

    threads: int
    turns: int
    items: int
    calls: int
    media: int
    turns_of_forks: int
    """Turns that other users' threads share or have copied. Their contents are deleted too."""


class Remaining(TypedDict):
    what: str
    why: str
    until: int | None
    hold: str | None


class PurgeNumbers(TypedDict):
    exact: bool
    """False if the counts are lower bounds, because there is more than was counted."""
    counts: PurgeCounts
    bytes: int
    """Size of items and media."""
    feedback: int
    shares: int
    running_turns: int
    """Running turns that the purge cancels."""
    provider_copies: int
    forks: int
    """Threads of other users that lose contents. The threads remain, with their own turns."""


class PurgePreview(PurgeNumbers):
    object: Literal["user.purge.preview"]
    user: str
    at: int
    refused: Refusal | None
    """Error code with which the purge would be refused, or null. Always null for keys without the scope audit."""
    remains: list[Remaining]


class Counted(PurgeNumbers):
    at: datetime


async def snapshot(session: AsyncSession) -> None:
    """Make all statements of the transaction read one snapshot of the database."""
    await session.execute(SQL.begin_snapshot.clause)


async def counted(session: AsyncSession, project_id: UUID, user: str) -> Counted:
    """Count what the purge of a user would delete now."""
    of_user = {"project_id": project_id, "user_id": user}
    threads = (await session.execute(SQL.threads_of_user.clause, {**of_user, "most": MOST_TURNS + 1})).all()
    of_threads = {
        "project_id": project_id,
        "buckets": [each.bucket for each in threads],
        "thread_ids": [each.id for each in threads],
    }
    turns = (await session.execute(SQL.turns_of_threads.clause, {**of_threads, "most": MOST_TURNS + 1})).all()
    of_turns: dict[str, Any] = {"turn_ids": [each.id for each in turns], "most": MOST_ROWS}
    buckets = {"buckets": [each.bucket for each in turns]}
    heirs = (await session.execute(SQL.heirs_of_user.clause, {**of_user, **of_turns, **buckets})).all()
    copies = (await session.execute(SQL.copies_of_turns.clause, {**of_user, **of_turns})).all()
    shared = _shared(turns, [each.turn_id for each in heirs])
    own = [each for each in turns if each.id not in shared]
    place = {"buckets": [each.bucket for each in own], "turn_ids": [each.id for each in own]}
    rows = (
        (await session.execute(SQL.rows_of_turns.clause, {"project_id": project_id, **place, "most": MOST_ROWS}))
        .mappings()
        .one()
    )
    shares = await session.scalar(SQL.shares_of_threads.clause, {**of_threads, "most": MOST_ROWS})
    many = (*(rows[name] for name in ("items", "calls", "places", "feedback")), shares, len(heirs), len(copies))
    return {
        "at": rows["at"],
        "exact": len(threads) <= MOST_TURNS and len(turns) <= MOST_TURNS and max(many) < MOST_ROWS,
        "counts": {
            "threads": min(len(threads), MOST_TURNS),
            "turns": min(len(own), MOST_TURNS),
            "items": rows["items"],
            "calls": rows["calls"],
            "media": rows["media"],
            "turns_of_forks": len(shared) + len(copies),
        },
        "bytes": rows["bytes"],
        "feedback": rows["feedback"],
        "shares": shares,
        "running_turns": sum(each.running for each in turns),
        "provider_copies": len({each.response_id for each in (*turns, *copies)} - {None}),
        "forks": len({each.thread_id for each in (*heirs, *copies)}),
    }


def _shared(turns: Sequence[Row[Any]], last: Sequence[UUID]) -> set[UUID]:
    """Return the turns in the history of other users' threads: those that they continue from, and their ancestors."""
    parents = {each.id: each.parent_id for each in turns}
    shared: set[UUID] = set()
    for turn_id in last:
        at: UUID | None = turn_id
        while at is not None and at in parents and at not in shared:
            shared.add(at)
            at = parents[at]
    return shared


def remaining(found: Mapping[str, Any]) -> Remaining:
    """Return an entry of `remains` in the form of the preview."""
    until = found.get("until")
    return {
        "what": found["what"],
        "why": found["why"],
        "until": None if until is None else int(until.timestamp()),
        "hold": found.get("hold"),
    }
