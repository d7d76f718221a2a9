"""Searching in Postgres."""

from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from app.db.engine import Database

CANDIDATES = 2000
"""Of what is found, so many of the newest are ranked: a word that stands everywhere costs no more than that."""

TITLE_WEIGHT = 2.0

BEGINNING = datetime.fromtimestamp(0, UTC)

SEARCH = f"""
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
), hit AS (
    SELECT bucket, id, role, rank FROM ranked
    WHERE $8::float8 IS NULL OR (rank, id, role) < ($8, $9::uuid, $10::text)
    ORDER BY rank DESC, id DESC, role DESC LIMIT $11
)
SELECT hit.id, hit.role, hit.rank, t.thread_id, t.created_at, th.title, th.name, th.id AS titled,
    th.created_at AS thread_created_at, i.data
FROM hit
LEFT JOIN turns t ON t.project_id = $1 AND t.bucket = hit.bucket AND t.id = hit.id AND hit.role <> 'title'
LEFT JOIN threads th ON th.project_id = $1 AND th.bucket = hit.bucket AND th.id = coalesce(t.thread_id, hit.id)
LEFT JOIN LATERAL (
    SELECT json_agg(data ORDER BY position) AS data FROM items
    WHERE project_id = $1 AND bucket = hit.bucket AND turn_id = t.id AND type = 'message'
) i ON true
ORDER BY hit.rank DESC, hit.id DESC, hit.role DESC
"""  # noqa: S608


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


async def search(
    database: Database,
    project_id: UUID,
    tsquery: str,
    filters: Filters,
    after: Cursor | None,
    bound: datetime,
    limit: int,
) -> list[asyncpg.Record]:
    """The best hits, best first.

    Args:
        bound: hits are older than this.
    """
    until = bound if filters.until is None else min(bound, filters.until)
    return await database.fetch(
        SEARCH,
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
