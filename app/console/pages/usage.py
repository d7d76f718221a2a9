"""Usage page: turns, tokens and money, by day, model and user."""

import time
from collections import Counter
from typing import Any

from starlette.responses import Response

from app.console.view import View, money
from app.usage.hours import added, percentile

DAYS = 30
ENDED = ("completed", "incomplete", "cancelled")
"""Outcomes that are no error."""
GROUPS = ("day", "model", "user", "account")


async def page(view: View) -> Response:
    since = int(time.time()) - DAYS * 86_400
    groups = {group: (await view.api.get("/usage", group_by=group, since=since))["data"] for group in GROUPS}
    for row in (row for rows in groups.values() for row in rows):
        row["money"] = "" if _is_unknown(row) else money(row["costs"], 6)
    project = await view.api.get("/project")
    accounts = await view.api.find(f"/admin/projects/{project['id']}/accounts") if view.may("admin") else None
    hours = (await view.api.get("/usage/hours", since=int(time.time()) - 7 * 86_400, limit=5000))["data"]
    return view.page(
        "usage.html",
        groups=groups,
        total=_total(groups["day"]),
        hours=_by_hour(hours),
        errors=_errors(hours),
        purges=(await view.api.get("/purges"))["data"],
        certificates=view.may("audit"),
        accounts=None if accounts is None else accounts["data"],
    )


def _by_hour(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All models and outcomes of an hour together."""
    hours: dict[int, dict[str, Any]] = {}
    for row in rows:
        sums = hours.setdefault(
            row["hour"], {"hour": row["hour"], "turns": 0, "errors": 0, "durations": [0] * len(row["durations"])}
        )
        sums["turns"] += row["turns"]
        sums["errors"] += 0 if row["outcome"] in ENDED else row["turns"]
        sums["durations"] = added(sums["durations"], row["durations"])
    return [
        {**sums, **{f"p{share}": percentile(sums["durations"], share / 100) for share in (50, 95, 99)}}
        for _, sums in sorted(hours.items())
    ]


def _errors(rows: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return the number of occurrences of each error, the most frequent first."""
    counts: Counter[str] = Counter()
    for row in rows:
        if row["outcome"] not in ENDED:
            counts[row["outcome"]] += row["turns"]
    return counts.most_common()


def _total(days: list[dict[str, Any]]) -> dict[str, Any]:
    """All days together."""
    names = ("turns", "failed_turns", "rebuilt_turns", "input_tokens", "cached_tokens", "output_tokens")
    costs: Counter[str] = Counter()
    for day in days:
        costs.update(day["costs"])
    known = not any(map(_is_unknown, days))
    return {**{name: sum(day[name] for day in days) for name in names}, "money": money(costs, 4) if known else None}


def _is_unknown(row: dict[str, Any]) -> bool:
    """Return True if a price was not known. There is no one cost either where there are several currencies."""
    return row["cost"] is None and len(row["costs"]) < 2
