"""Monthly usage and stored bytes per project, read from Postgres for limit checks."""

from datetime import datetime
from uuid import UUID

from app.db import ids
from app.db.engine import Database
from app.items.weights import BYTES_PER_TOKEN, MOST_COUNTED
from app.limits.rules import Asks
from app.projects.auth import read_kept
from app.projects.settings import KeyLimits, ProjectSettings
from app.provider.account import BATCH
from app.provider.models import CALLS_BY_TOOL, Models

_READ = "CROSS JOIN LATERAL (SELECT t.usage->'x_tools' AS tools OFFSET 0) u"
"""The calls of tools, taken out of the document once."""

_SUMS = f"""
    sum(token_count(t.usage->'total_tokens'))::float8 AS total_tokens,
    sum(token_count(t.usage->'input_tokens'))::float8 AS input_tokens,
    sum(token_count(t.usage->'input_tokens_details'->'cached_tokens'))::float8 AS cached_tokens,
    sum(token_count(t.usage->'x_details'->0->'prompt_tokens_details'->'cache_creation_input_tokens'))::float8
        AS cache_write_tokens,
    sum(token_count(t.usage->'output_tokens'))::float8 AS output_tokens,
    {CALLS_BY_TOOL} AS tools
"""

USED = f"""
SELECT t.model, coalesce(t.binding ~ '{BATCH}', false) AS batch, {_SUMS}
FROM turns t {_READ}
WHERE t.project_id = $1 AND t.arrived_at >= $2 AND t.copied_from_id IS NULL AND t.usage IS NOT NULL
    AND ($3::uuid IS NULL OR t.api_key_id = $3)
    AND ($4::text IS NULL OR EXISTS (
        SELECT FROM threads th WHERE th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
            AND th.user_id = $4
    ))
GROUP BY 1, 2
UNION ALL
SELECT t.model, coalesce(t.binding ~ '{BATCH}', false) AS batch, {_SUMS}
FROM charges t {_READ}
WHERE t.project_id = $1 AND t.at >= $2 AND ($3::uuid IS NULL OR t.api_key_id = $3)
    AND ($4::text IS NULL OR t.user_id = $4)
GROUP BY 1, 2
"""  # noqa: S608

# A compaction or a title goes on behalf of whoever asked for the turn that it stands behind.
CAUSE = """
SELECT t.api_key_id, th.user_id, p.settings, k.limits
FROM turns t
JOIN threads th ON th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
JOIN projects p ON p.project_id = t.project_id
LEFT JOIN api_keys k ON k.project_id = t.project_id AND k.id = t.api_key_id
WHERE t.project_id = $1 AND t.bucket = $2 AND t.id = $3
"""

THREADS = """
SELECT count(*) AS count FROM (
    SELECT 1 FROM threads WHERE project_id = $1 AND ($2::text IS NULL OR user_id = $2) LIMIT $3
) AS there
"""

_OF_USER = """($2::text IS NULL OR EXISTS (
        SELECT FROM threads th WHERE th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
            AND th.user_id = $2
    ))"""

BYTES = f"""
SELECT sum(bytes)::bigint AS count FROM (
    SELECT coalesce(sum(pg_column_size(i.data)), 0) AS bytes FROM items i
    WHERE i.project_id = $1 AND ($2::text IS NULL OR EXISTS (
        SELECT FROM turns t
        WHERE t.project_id = i.project_id AND t.bucket = i.bucket AND t.id = i.turn_id AND {_OF_USER}
    ))
    UNION ALL
    SELECT coalesce(sum(pg_column_size(t.params) + pg_column_size(t.metadata)), 0) FROM turns t
    WHERE t.project_id = $1 AND {_OF_USER}
    UNION ALL
    SELECT coalesce(sum(coalesce(pg_column_size(th.title), 0) + pg_column_size(th.metadata)), 0) FROM threads th
    WHERE th.project_id = $1 AND ($2::text IS NULL OR th.user_id = $2)
    UNION ALL
    SELECT coalesce(sum(coalesce(pg_column_size(f.comment), 0) + coalesce(pg_column_size(f.label), 0)), 0)
    FROM feedback f WHERE f.project_id = $1 AND ($2::text IS NULL OR f.user_id = $2)
) AS stored
"""  # noqa: S608


# Size of the history that the next turn continues: as the provider has counted it, else estimated by size.
HISTORY = """
SELECT greatest(token_count(t.context->'tokens'), token_count(t.usage->'total_tokens'))::bigint AS tokens
FROM turns t
WHERE t.project_id = $1 AND t.bucket = $2 AND t.id = coalesce(
    (SELECT th.head_turn_id FROM threads th WHERE th.project_id = $1 AND th.bucket = $2 AND th.id = $3), $3
)
"""

ITEMS_OF_THREAD = """
SELECT sum(pg_column_size(i.data))::bigint
FROM turns t JOIN items i ON i.project_id = t.project_id AND i.bucket = t.bucket AND i.turn_id = t.id
WHERE t.project_id = $1 AND t.bucket = $2 AND t.thread_id = coalesce(
    (SELECT of.thread_id FROM turns of WHERE of.project_id = $1 AND of.bucket = $2 AND of.id = $3), $3
)
"""


async def history(database: Database, project_id: UUID, id_: UUID) -> int:
    """Return how many tokens of history a turn sends that goes on from a turn, or from a thread's head.

    A history that no provider has counted, such as an imported one, is estimated by its stored size.
    """
    place = (project_id, ids.bucket_of(id_), id_)
    counted = await database.fetchval(HISTORY, *place)
    if counted:
        return int(counted)
    return int(await database.fetchval(ITEMS_OF_THREAD, *place) or 0) // BYTES_PER_TOKEN


async def used(
    database: Database, models: Models, project_id: UUID, key_id: UUID | None, user: str | None, since: datetime
) -> tuple[int, float]:
    """Return how many tokens were used since a moment, and what they cost, as far as prices are known.

    Args:
        key_id: of the turns that one key has asked for; `user`, of those in one end user's threads.
    """
    tokens, cost = 0, 0.0
    for row in await database.fetch(USED, project_id, since, key_id, user):
        tokens += min(int(row["total_tokens"]), MOST_COUNTED)
        price = models.of(row["model"]).price
        if price is not None:
            price = price.charged(batch=row["batch"])
            cost += price.cost(
                input=int(row["input_tokens"]),
                cached=int(row["cached_tokens"]),
                written=int(row["cache_write_tokens"]),
                output=int(row["output_tokens"]),
            ) + price.of_tools(row["tools"])
    return tokens, cost


async def threads(database: Database, project_id: UUID, user: str | None, limit: int) -> int:
    """How many threads there are, up to a limit."""
    found: int = await database.fetchval(THREADS, project_id, user, limit)
    return found


async def stored_bytes(database: Database, project_id: UUID, user: str | None, limit: int) -> int:
    """Return the stored size of contents: items, turns' parameters, titles, metadata and feedback."""
    found: int = await database.fetchval(BYTES, project_id, user)
    return found


async def cause(database: Database, project_id: UUID, turn_id: UUID) -> Asks | None:
    """Return who asked for a turn, for calls that are made on its behalf later; None if the turn was deleted."""
    row = await database.fetchrow(CAUSE, project_id, ids.bucket_of(turn_id), turn_id)
    if row is None:
        return None
    settings = read_kept(ProjectSettings, row["settings"])
    limits = read_kept(KeyLimits, row["limits"]) if row["limits"] else settings.key_limits
    return Asks(project_id, row["api_key_id"], row["user_id"], settings, limits, lambda: 0)
