"""What was used, counted from the turns themselves."""

from datetime import datetime
from uuid import UUID

import asyncpg

from app.db.engine import Database
from app.items.weights import MOST_COUNTED

GROUPS = {
    "day": "to_char(t.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD')",
    "model": "t.model",
    "user": "th.user_id",
    "thread": "t.thread_id::text",
}
"""The expression that each way of grouping puts turns together by."""

# `token_count` takes whatever the provider has reported, and gives 0 for what is no number.
# A turn arrives when it is made, or later: the index by arrival begins where the range does.
_USAGE = """
SELECT {group} AS key,
    count(*) AS turns,
    count(*) FILTER (WHERE t.status = 'failed') AS failed_turns,
    least(sum(token_count(t.usage->'input_tokens')), {most})::bigint AS input_tokens,
    least(sum(token_count(t.usage->'input_tokens_details'->'cached_tokens')), {most})::bigint AS cached_tokens,
    least(sum(token_count(t.usage->'output_tokens')), {most})::bigint AS output_tokens,
    least(sum(token_count(t.usage->'output_tokens_details'->'reasoning_tokens')), {most})::bigint AS reasoning_tokens,
    least(coalesce(sum((
        SELECT sum(token_count(tool.value->'count')) FROM json_each(
            CASE WHEN json_typeof(t.usage->'x_tools') = 'object' THEN t.usage->'x_tools' END
        ) AS tool WHERE json_typeof(tool.value) = 'object'
    )), 0), {most})::bigint AS tool_calls,
    count(*) FILTER (WHERE t.continuation = 'rebuilt') AS rebuilt_turns,
    least(coalesce(sum(token_count(t.usage->'input_tokens')) FILTER (WHERE t.continuation = 'rebuilt'), 0), {most})
        ::bigint AS rebuilt_input_tokens
FROM turns t JOIN threads th ON th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id
WHERE t.project_id = $1 AND t.arrived_at >= $2 AND t.created_at >= $2 AND t.created_at < $3
    AND t.status <> 'in_progress' AND t.model <> '' AND t.copied_from_id IS NULL
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
    statement = _USAGE.format(group=GROUPS[group_by], most=MOST_COUNTED)
    return await database.fetch(statement, project_id, since, until, limit, after)
