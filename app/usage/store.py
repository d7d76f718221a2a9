"""Usage reports from sums per quarter of an hour, turns that are not in a sum yet, and charges."""

import re
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID

from app.db.engine import Database
from app.db.sql import statements_of
from app.http.errors import BadRequest
from app.items.weights import MOST_COUNTED

SQL = statements_of(__file__)

UTC = "UTC"

SUMMED = (
    "turns", "failed_turns", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens",
    "reasoning_tokens", "tool_calls", "rebuilt_turns", "rebuilt_input_tokens", "chat_completions", "titles",
    "compactions",
)  # fmt: skip

COUNTED = (*SUMMED, "compaction_input_tokens", "compaction_output_tokens")

COSTS = ("cost", "rebuilt_input_cost", "compaction_cost", "saved_by_cache")


MOST_UNPRICED = 20
"""The most models that a row names as the reason why its cost is unknown."""

BY_KEY = "key"

_POSITION = re.compile(r"([0-9]{1,40}(?:\.[0-9]{1,40})?):(-|=.*)", re.DOTALL)


class UsageRow(TypedDict):
    is_total: bool
    """True for the sums of all keys."""
    key: str | None
    parts: list[dict[str, Any]]
    """The counts and costs in each currency, those of compactions apart, and those of each model without a price."""
    position: str
    """The row's place in the order by turns or cost."""


class UsedRow(TypedDict):
    currency: str
    """Empty if no price was known."""
    tokens: float
    cost: float


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
    sort: str = BY_KEY,
    user: str | None = None,
    model: str | None = None,
) -> tuple[UsageRow | None, list[UsageRow]]:
    """Return the sums of all rows, None if there are none, and a page of the rows.

    Args:
        group_by: hour, day, model, user, thread or account.
        after: the last key of the page before; of a list that is sorted by turns or cost, its last position.
        tz: the time zone of the days.
        sort: key, or turns or cost for the highest first; a cost is the highest in any one currency.
        user: restricts the report to the threads of one end user.
        model: restricts the report to the calls of one model.

    Raises:
        BadRequest: Postgres does not know the zone, or `after` is no position.
    """
    if tz != UTC and not await database.fetchval(*SQL.is_zone(name=tz)):
        raise BadRequest(
            "'tz' must be the name of a time zone in the IANA database, such as 'Asia/Shanghai'.", param="tz"
        )
    after_rank = "0"
    if after is not None and sort != BY_KEY:
        position = _POSITION.fullmatch(after)
        if position is None:
            raise BadRequest(
                "'after' must be the last_id of a page with the same sort.", param="after", code="invalid_cursor"
            )
        after_rank, after = position.groups()
    partial = {_quarter(edge) for edge in (since, until)} - {since, until}
    rows: list[UsageRow] = await database.fetch(
        *SQL.usage(
            project_id=project_id,
            group_by=group_by,
            since=since,
            until=until,
            partial=list(partial),
            tz=tz,
            sort=sort,
            after=after,
            after_rank=Decimal(after_rank),
            user_id=user,
            model=model,
            limit=limit + 1,
        )
    )
    total = rows.pop(0) if rows and rows[0]["is_total"] else None
    return total, rows[:limit]


def counted(parts: list[dict[str, Any]]) -> dict[str, int]:
    """Return the counts of all parts together."""
    made = [part for part in parts if part["compacts"]]
    others = [part for part in parts if not part["compacts"]]
    found = {name: sum(int(part[name]) for part in others) for name in SUMMED}
    found["compactions"] = sum(int(part["compactions"]) for part in made)
    found["compaction_input_tokens"] = sum(int(part["input_tokens"]) for part in made)
    found["compaction_output_tokens"] = sum(int(part["output_tokens"]) for part in made)
    return {name: min(found[name], MOST_COUNTED) for name in COUNTED}


def costs(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the costs, by the prices of their day, the cost in each currency, and the models without a price.

    Amounts in different currencies are never added up: if there are several currencies, or if a price was unknown,
    `cost` and the other amounts are None.
    """
    by_currency: dict[str, float] = {}
    for part in parts:
        if part["currency"]:
            by_currency[part["currency"]] = by_currency.get(part["currency"], 0.0) + part["cost"]
    unpriced: Counter[str] = Counter()
    for part in parts:
        if part["unpriced_turns"]:
            unpriced[part["unpriced_model"]] += int(part["unpriced_turns"])
    one = next(iter(by_currency), None) if len(by_currency) == 1 else None
    known = len(by_currency) < 2 and not unpriced
    sums = {
        "cost": _sum(parts, "cost"),
        "rebuilt_input_cost": _sum(parts, "rebuilt_input_cost"),
        "compaction_cost": _sum([part for part in parts if part["compacts"]], "cost"),
        "saved_by_cache": _sum(parts, "saved"),
    }
    return {
        **{name: amount if known else None for name, amount in sums.items()},
        "currency": one,
        "costs": {name: round(cost, 6) for name, cost in sorted(by_currency.items())},
        "unpriced_turns": min(unpriced.total(), MOST_COUNTED),
        "unpriced": [{"model": model, "turns": turns} for model, turns in unpriced.most_common(MOST_UNPRICED)],
    }


def _sum(parts: list[dict[str, Any]], name: str) -> float:
    return round(float(sum(part[name] for part in parts)), 6)


def _quarter(moment: datetime) -> datetime:
    """Return the beginning of a moment's quarter of an hour."""
    return moment.replace(minute=moment.minute - moment.minute % 15, second=0, microsecond=0)


async def used(
    database: Database, project_id: UUID, key_id: UUID | None, user: str | None, since: datetime
) -> tuple[int, Mapping[str, float]]:
    """Return the number of tokens since the beginning of a month, and the cost in each currency.

    Args:
        key_id: restricts both to the requests of one key.
        user: restricts both to the threads of one end user.
    """
    rows: list[UsedRow] = await database.fetch(
        *SQL.used(project_id=project_id, since=since, key_id=key_id, user_id=user)
    )
    tokens = min(sum(int(row["tokens"]) for row in rows), MOST_COUNTED)
    return tokens, {row["currency"]: row["cost"] for row in rows}
