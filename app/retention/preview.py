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
"""Threads and turns of a user that a preview looks at. Of a user with more, the counts are lower bounds."""

MOST_ROWS = 100_000
"""Rows of a kind that belong to these turns."""

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
    """Turns that threads of other users share, or have copied: their contents are deleted, too."""


class Remaining(TypedDict):
    what: str
    why: str
    until: int | None
    hold: str | None


class PurgePreview(TypedDict):
    object: Literal["user.purge.preview"]
    user: str
    at: int
    exact: bool
    """False if the user has more than is counted: the counts are lower bounds."""
    counts: PurgeCounts
    bytes: int
    """Size of items and media."""
    feedback: int
    shares: int
    running_turns: int
    """Turns that are cancelled."""
    provider_copies: int
    forks: int
    """Threads of other users that lose contents. The threads remain, with their own turns."""
    refused: Refusal | None
    """Code of the error with which the purge is refused; null if it is not. Keys without the scope audit get null."""
    remains: list[Remaining]


class Counted(TypedDict):
    at: datetime
    exact: bool
    counts: PurgeCounts
    bytes: int
    feedback: int
    shares: int
    running_turns: int
    provider_copies: int
    forks: int


async def snapshot(session: AsyncSession) -> None:
    """Let all later statements of the transaction see the database as of one moment."""
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
    """Return the turns that are in the history of others' threads: those that these continue from, and all before."""
    parents = {each.id: each.parent_id for each in turns}
    shared: set[UUID] = set()
    for turn_id in last:
        at: UUID | None = turn_id
        while at is not None and at in parents and at not in shared:
            shared.add(at)
            at = parents[at]
    return shared


def remaining(found: Mapping[str, Any]) -> Remaining:
    """Return something that remains as the preview shows it."""
    until = found.get("until")
    return {
        "what": found["what"],
        "why": found["why"],
        "until": None if until is None else int(until.timestamp()),
        "hold": found.get("hold"),
    }
