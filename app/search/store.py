"""Searching in Postgres."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from app.db.engine import Database

CANDIDATES = 2000
"""Of what is found, so many of the newest are ranked: a word that stands everywhere costs no more than that."""

TITLE_WEIGHT = 2.0

BEGINNING = datetime.fromtimestamp(0, UTC)

HITS = f"""
WITH found AS (
    (
        SELECT x.bucket, x.turn_id AS id, x.role, x.document FROM texts x
        WHERE x.project_id = $1 AND x.document @@ $2::tsquery AND x.role = ANY($3::text[])
            AND x.created_at >= $4 AND x.created_at < $5
            AND ($6::text IS NULL AND $7::uuid IS NULL OR EXISTS (
                SELECT FROM turns t
                JOIN threads th ON th.project_id = $1 AND th.bucket = x.bucket AND th.id = t.thread_id
                WHERE t.project_id = $1 AND t.bucket = x.bucket AND t.id = x.turn_id
                    AND ($6::text IS NULL OR th.user_id = $6) AND ($7::uuid IS NULL OR th.id = $7)
            ))
        ORDER BY x.created_at DESC, x.turn_id DESC LIMIT {CANDIDATES}
    ) UNION ALL (
        SELECT bucket, id, 'title', title_document FROM threads
        WHERE project_id = $1 AND title_document @@ $2::tsquery AND 'title' = ANY($3::text[])
            AND created_at >= $4 AND created_at < $5
            AND ($6::text IS NULL OR user_id = $6) AND ($7::uuid IS NULL OR id = $7)
        ORDER BY created_at DESC, id DESC LIMIT {CANDIDATES}
    )
), ranked AS (
    SELECT bucket, id, role, (
        ts_rank(document, $2::tsquery, 1) * CASE WHEN role = 'title' THEN {TITLE_WEIGHT} ELSE 1 END
    )::float8 AS rank
    FROM found
)
SELECT bucket, id, role, rank FROM ranked
WHERE $8::float8 IS NULL OR (rank, id, role) < ($8, $9::uuid, $10::text)
ORDER BY rank DESC, id DESC, role DESC LIMIT $11
"""  # noqa: S608

# What the hits of a page are shown with.
TURNS = """
SELECT t.id, t.thread_id, t.created_at, th.title, th.name FROM turns t
JOIN threads th ON th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
WHERE t.project_id = $1 AND t.bucket = ANY($2::smallint[]) AND t.id = ANY($3::uuid[])
"""

THREADS = """
SELECT id, id AS thread_id, created_at, title, name FROM threads
WHERE project_id = $1 AND bucket = ANY($2::smallint[]) AND id = ANY($3::uuid[])
"""

SAID = """
SELECT turn_id, data FROM items
WHERE project_id = $1 AND bucket = ANY($2::smallint[]) AND turn_id = ANY($3::uuid[]) AND type = 'message'
ORDER BY turn_id, position
"""


@dataclass(frozen=True, slots=True)
class Filters:
    roles: tuple[str, ...]
    user: str | None = None
    thread_id: UUID | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last hit of a page, and up to when its search could see: later turns do not move the pages."""

    bound: datetime
    rank: float
    id: UUID
    role: str


async def now(database: Database) -> datetime:
    """The database's moment: what turns are dated by."""
    row = await database.fetchrow("SELECT clock_timestamp() AS now")
    assert row is not None
    moment: datetime = row["now"]
    return moment


@dataclass(frozen=True, slots=True)
class Hit:
    """A text that was found, with the thread and the turn that it is of."""

    id: UUID
    role: str
    rank: float
    row: asyncpg.Record
    said: list[Any]
    """The turn's messages; none for a title."""


async def search(
    database: Database,
    project_id: UUID,
    tsquery: str,
    filters: Filters,
    after: Cursor | None,
    bound: datetime,
    limit: int,
) -> list[Hit]:
    """The best hits, best first.

    Args:
        bound: hits are older than this.
    """
    until = bound if filters.until is None else min(bound, filters.until)
    found = await database.fetch(
        HITS,
        project_id,
        tsquery,
        list(filters.roles),
        BEGINNING if filters.since is None else filters.since,
        until,
        filters.user,
        filters.thread_id,
        None if after is None else after.rank,
        None if after is None else after.id,
        None if after is None else after.role,
        limit,
    )
    turns = [row for row in found if row["role"] != "title"]
    titles = [row for row in found if row["role"] == "title"]
    rows = await _rows(database, TURNS, project_id, turns) | await _rows(database, THREADS, project_id, titles)
    said: dict[UUID, list[Any]] = {}
    for item in await database.fetch(SAID, project_id, *_places(turns)) if turns else []:
        said.setdefault(item["turn_id"], []).append(item["data"])
    # What has been deleted since the look-up is no hit.
    return [
        Hit(row["id"], row["role"], row["rank"], rows[row["id"]], said.get(row["id"], []))
        for row in found
        if row["id"] in rows
    ]


async def _rows(
    database: Database, statement: str, project_id: UUID, found: list[asyncpg.Record]
) -> dict[UUID, asyncpg.Record]:
    if not found:
        return {}
    return {row["id"]: row for row in await database.fetch(statement, project_id, *_places(found))}


def _places(found: list[asyncpg.Record]) -> tuple[list[int], list[UUID]]:
    return list({row["bucket"] for row in found}), list({row["id"] for row in found})
