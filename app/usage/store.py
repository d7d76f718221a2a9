"""Usage reports, counted from the turns themselves and from the charges for everything else."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypedDict
from uuid import UUID

from app.db.engine import Database
from app.http.errors import BadRequest
from app.items.weights import MOST_COUNTED
from app.provider.account import BATCH
from app.provider.models import CALLS_BY_TOOL, Models

_ACCOUNT = r"regexp_replace(t.binding, '^[a-z]+://([^/#]*@)?([^/#]*).*#([0-9a-f]{0,8}).*$', '\2#\3')"
"""As `provider/account.py` shows one."""

GROUPS = {
    "day": (
        "to_char(t.created_at AT TIME ZONE '{tz}', 'YYYY-MM-DD')",
        "to_char(t.at AT TIME ZONE '{tz}', 'YYYY-MM-DD')",
    ),
    "model": ("t.model", "t.model"),
    "user": ("th.user_id", "t.user_id"),
    "thread": ("t.thread_id::text", "t.thread_id::text"),
    "account": (_ACCOUNT, _ACCOUNT),
}
"""The expressions that each way of grouping puts turns together by, and charges."""

UTC = "UTC"

ZONE = "SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1 AND name ~ '^[A-Z][A-Za-z0-9_+/-]*$')"
"""True for the exact name of a zone of the IANA database: the check is Postgres's own, since it computes the days."""

# Each value is taken out of the document once: reading JSON is most of what a report costs.
_READ = """
    CROSS JOIN LATERAL (
        SELECT t.usage->'input_tokens' AS input, t.usage->'input_tokens_details'->'cached_tokens' AS cached,
            t.usage->'x_details'->0->'prompt_tokens_details'->'cache_creation_input_tokens' AS written,
            t.usage->'output_tokens' AS output, t.usage->'output_tokens_details'->'reasoning_tokens' AS reasoning,
            t.usage->'x_tools' AS tools OFFSET 0
    ) u
"""

# `token_count` takes whatever the provider has reported, and gives 0 for what is no number.
_SUMS = f"""
        sum(token_count(u.input)) AS input_tokens,
        sum(token_count(u.cached)) AS cached_tokens,
        sum(token_count(u.written)) AS cache_write_tokens,
        sum(token_count(u.output)) AS output_tokens,
        sum(token_count(u.reasoning)) AS reasoning_tokens,
        coalesce(sum((
            SELECT sum(token_count(tool.value->'count')) FROM json_each(u.tools) AS tool
            WHERE json_typeof(tool.value) = 'object'
        )) FILTER (WHERE json_typeof(u.tools) = 'object'), 0) AS tool_calls,
        {CALLS_BY_TOOL} AS tools
"""  # noqa: S608

_BATCH = f"coalesce(t.binding ~ '{BATCH}', false) AS batch"

_THREADS = "JOIN threads th ON th.project_id = t.project_id AND th.bucket = t.bucket AND th.id = t.thread_id"

# A turn arrives when it is made, or later: the index by arrival begins where the range does.
_USAGE = """
SELECT key, json_agg(model_rows) AS models FROM (
    SELECT {turns} AS key, t.model, {batch}, count(*) AS turns,
        count(*) FILTER (WHERE t.status = 'failed') AS failed_turns, {sums},
        count(*) FILTER (WHERE t.continuation = 'rebuilt') AS rebuilt_turns,
        coalesce(sum(token_count(u.input)) FILTER (WHERE t.continuation = 'rebuilt'), 0)
            AS rebuilt_input_tokens,
        0 AS chat_completions, 0 AS titles, 0 AS compactions, 0 AS compaction_input_tokens,
        0 AS compaction_output_tokens
    FROM turns t {threads} {read}
    WHERE t.project_id = $1 AND t.arrived_at >= $2 AND t.created_at >= $2 AND t.created_at < $3
        AND t.status <> 'in_progress' AND t.model <> '' AND t.copied_from_id IS NULL
        AND ($5::text IS NULL OR {turns} > $5)
    GROUP BY {turns_by}, t.model, t.binding
    UNION ALL
    SELECT {charges} AS key, t.model, {batch}, count(*) FILTER (WHERE t.kind = 'response'), 0, {sums}, 0, 0,
        count(*) FILTER (WHERE t.kind = 'chat'), count(*) FILTER (WHERE t.kind = 'title'), 0, 0, 0
    FROM charges t {read}
    WHERE t.project_id = $1 AND t.at >= $2 AND t.at < $3 AND t.kind <> 'compaction'
        AND ($5::text IS NULL OR {charges} > $5)
    GROUP BY {charges_by}, t.model, t.binding
    UNION ALL
    SELECT {charges} AS key, t.model, {batch}, 0, 0, 0, 0, 0, 0, 0, 0, NULL, 0, 0, 0, 0, count(*),
        sum(token_count(t.usage->'input_tokens')), sum(token_count(t.usage->'output_tokens'))
    FROM charges t
    WHERE t.project_id = $1 AND t.at >= $2 AND t.at < $3 AND t.kind = 'compaction'
        AND ($5::text IS NULL OR {charges} > $5)
    GROUP BY {charges_by}, t.model, t.binding
) AS model_rows
GROUP BY key ORDER BY key NULLS FIRST LIMIT $4
"""

COUNTED = (
    "turns", "failed_turns", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "tool_calls", "rebuilt_turns", "rebuilt_input_tokens", "chat_completions", "titles",
    "compactions", "compaction_input_tokens", "compaction_output_tokens",
)  # fmt: skip

COSTS = ("cost", "rebuilt_input_cost", "compaction_cost", "saved_by_cache")
"""In the currency of the price table; None where the price of one of the models is not known."""


class UsageRow(TypedDict):
    key: str | None
    models: list[dict[str, Any]]
    """The counts of each model."""


async def usage(
    database: Database,
    project_id: UUID,
    group_by: str,
    since: datetime,
    until: datetime,
    *,
    limit: int,
    after: str | None,
    tz: str = UTC,
) -> list[UsageRow]:
    """Return the rows of counts, ordered by the group's key.

    Args:
        group_by: one of GROUPS.
        after: the last key of the page before.
        tz: the time zone of the days.

    Raises:
        BadRequest: Postgres does not know the zone.
    """
    if tz != UTC and not await database.fetchval(ZONE, tz):
        raise BadRequest(
            "'tz' must be the name of a time zone in the IANA database, such as 'Asia/Shanghai'.", param="tz"
        )
    turns, charges = (each.replace("{tz}", tz) for each in GROUPS[group_by])
    threads = _THREADS if group_by == "user" else ""
    # Grouped by binding: the expression of an account is computed once for each binding, not for each turn.
    turns_by, charges_by = ("t.binding", "t.binding") if group_by == "account" else (turns, charges)
    statement = _USAGE.format(
        turns=turns, charges=charges, turns_by=turns_by, charges_by=charges_by, sums=_SUMS, batch=_BATCH, read=_READ,
        threads=threads,
    )  # fmt: skip
    return await database.fetch(statement, project_id, since, until, limit, after)


def counted(row: UsageRow) -> dict[str, int]:
    """The counts of all models together."""
    return {name: min(sum(int(model[name]) for model in row["models"]), MOST_COUNTED) for name in COUNTED}


def costs(row: UsageRow, models: Models) -> dict[str, float | None]:
    """Return the row's cost, and what the session cache has saved of it."""
    found = [_costs(model, models) for model in row["models"]]
    return {
        name: None if any(each is None for each in found) else round(sum(each[name] for each in found if each), 6)
        for name in COSTS
    }


def _costs(row: Mapping[str, Any], models: Models) -> dict[str, float] | None:
    price = models.of(row["model"]).price
    if price is None:
        return None
    cached, written = int(row["cached_tokens"]), int(row["cache_write_tokens"])
    charged = price.charged(batch=row["batch"])
    made = charged.cost(
        input=int(row["compaction_input_tokens"]), cached=0, written=0, output=int(row["compaction_output_tokens"])
    )
    turns = charged.cost(
        input=int(row["input_tokens"]), cached=cached, written=written, output=int(row["output_tokens"])
    )
    return {
        "cost": turns + made + price.of_tools(row["tools"] or {}),
        "rebuilt_input_cost": charged.cost(input=int(row["rebuilt_input_tokens"]), cached=0, written=0, output=0),
        "compaction_cost": made,
        "saved_by_cache": charged.saved(cached=cached, written=written),
    }
