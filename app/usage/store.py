"""What was used, counted from the turns themselves."""

from datetime import datetime
from uuid import UUID

import asyncpg

from app.db import ids
from app.db.engine import Database

GROUPS = {
    "day": "to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "model": "t.model",
    "user": "th.user_id",
    "thread": "t.thread_id::text",
}
"""The expression that each way of grouping puts turns together by."""

# Turn ids are UUIDv7: a range of time is a range of the primary key.
_USAGE = """
SELECT {group} AS key,
    count(*) AS turns,
    count(*) FILTER (WHERE t.status = 'failed') AS failed_turns,
    coalesce(sum((t.usage->>'input_tokens')::bigint), 0)::bigint AS input_tokens,
    coalesce(sum((t.usage->'input_tokens_details'->>'cached_tokens')::bigint), 0)::bigint AS cached_tokens,
    coalesce(sum((t.usage->>'output_tokens')::bigint), 0)::bigint AS output_tokens,
    coalesce(sum((t.usage->'output_tokens_details'->>'reasoning_tokens')::bigint), 0)::bigint AS reasoning_tokens,
    coalesce(sum((
        SELECT sum((tool.value->>'count')::bigint) FROM json_each(t.usage->'x_tools') AS tool
    )), 0)::bigint AS tool_calls,
    count(*) FILTER (WHERE t.continuation = 'rebuilt') AS rebuilt_turns,
    coalesce(sum((t.usage->>'input_tokens')::bigint) FILTER (WHERE t.continuation = 'rebuilt'), 0)::bigint
        AS rebuilt_input_tokens
FROM turns t JOIN threads th ON th.project_id = t.project_id AND th.id = t.thread_id
WHERE t.project_id = $1 AND t.id >= $2 AND t.id < $3 AND t.status <> 'in_progress' AND t.model <> ''
    AND ($5::text IS NULL OR {group} > $5)
GROUP BY 1 ORDER BY 1 NULLS FIRST LIMIT $4
"""

COUNTED = (
    "turns", "failed_turns", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens", "tool_calls",
    "rebuilt_turns", "rebuilt_input_tokens",
)  # fmt: skip


async def usage(
    database: Database,
    project_id: UUID,
    group_by: str,
    since: datetime,
    until: datetime,
    *,
    limit: int,
    after: str | None,
) -> list[asyncpg.Record]:
    """Rows of counts, by the group's key, in its order.

    Args:
        group_by: one of GROUPS.
        after: the key to go on from.
    """
    statement = _USAGE.format(group=GROUPS[group_by])
    return await database.fetch(statement, project_id, ids.first_uuid(since), ids.first_uuid(until), limit, after)
