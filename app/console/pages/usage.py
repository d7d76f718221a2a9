"""Usage pages: cost, turns, tokens and latencies in a time range, and tables by model, account, user and thread."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from app.console.api import Refused
from app.console.ranges import HOUR, Range
from app.console.view import View, money
from app.usage.routes import MOST_LINES

GROUPS = {"model": "By model", "account": "By account", "user": "By user", "thread": "By thread"}
SORTS = ("cost", "turns")
FILTERS = ("user", "model")

TOP = 8
"""Rows of each table on the overview."""

ROWS = 50
"""Rows of a page of a table."""

MOST_CURRENCIES = 3
"""The most currencies with a chart each."""

COUNTED = ("turns", "failed_turns", "rebuilt_turns", "input_tokens", "cached_tokens", "output_tokens")


async def page(view: View) -> Response:
    span, only, sort = _asked(view)
    step = "hour" if span.step == HOUR else "day"
    over_time = await view.api.get("/usage", group_by=step, limit=1000, **span.api, **only)
    before = await view.api.get("/usage", group_by="model", limit=1, **span.before.api, **only)
    hours = None
    if "user" not in only:  # Latencies are not counted by user.
        since = span.since // HOUR * HOUR
        hours = await view.api.get(
            "/usage/hours", group_by=step, limit=5000, since=since, until=span.until, model=only.get("model")
        )
    totals = over_time["totals"]
    return view.page(
        "usage.html",
        **_shared(span, only, sort),
        headings=GROUPS,
        totals=_shown(totals),
        unpriced=totals["unpriced"],
        tiles=_tiles(totals, before["totals"]),
        costs=_costs(span, over_time),
        tokens=_tokens(span, over_time),
        latencies=None if hours is None else _latencies(span, hours["data"]),
    )


async def top(view: View) -> Response:
    """Show the first rows of a table. The overview loads each table by itself, because each is slow."""
    group, found, shared = await _table(view, TOP)
    return view.page(
        "_usage_top.html", group=group, rows=_rows(group, found, shared["sort"]), more=found["has_more"], **shared
    )


async def table(view: View) -> Response:
    """Show one table, page by page."""
    group, found, shared = await _table(view, ROWS)
    return view.page(
        "usage_table.html",
        group=group,
        heading=GROUPS[group],
        rows=_rows(group, found, shared["sort"]),
        totals=_shown(found["totals"]),
        unpriced=found["totals"]["unpriced"],
        more=view.more(found),
        **shared,
    )


async def _table(view: View, limit: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """Return the group of a table, a page of its rows, and the values that it shares with the overview."""
    group = view.request.path_params["group"]
    if group not in GROUPS:
        raise Refused(404, f"There is no usage by {group[:80]!r}.")
    span, only, sort = _asked(view)
    found = await view.api.get(
        "/usage", group_by=group, sort=sort, limit=limit, after=view.asked("after"), **span.api, **only
    )
    return group, found, _shared(span, only, sort)


def _asked(view: View) -> tuple[Range, dict[str, str], str]:
    """Return the page's time range, its user and model filters, and its order."""
    only = {name: value for name in FILTERS if (value := view.asked(name))}
    sort = view.asked("sort")
    return Range.of(view, default="7d"), only, sort if sort in SORTS else SORTS[0]


def _shared(span: Range, only: dict[str, str], sort: str) -> dict[str, Any]:
    """Return the values that both pages show, with the queries of pages and files of the same range and order."""

    def query_of(**changes: str | None) -> str:
        query = {**span.query, **only, "sort": sort, **changes}
        return urlencode({name: value for name, value in query.items() if value is not None})

    def csv_query(group: str) -> str:
        shape = {"group_by": group, "sort": sort, "format": "csv", "limit": MOST_LINES}
        return urlencode({**shape, **span.api, **only})

    return {"span": span, "only": only, "sort": sort, "query_of": query_of, "csv_query": csv_query}


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **row,
        "tokens": row["input_tokens"] + row["output_tokens"],
        "money": money(row["costs"]),
        "is_whole": not row["unpriced_turns"],
    }


def _rows(group: str, found: dict[str, Any], sort: str) -> list[dict[str, Any]]:
    """Return the rows of a table with their share of the cost; of the turns if costs cannot be compared."""
    totals = found["totals"]
    by_cost = sort == "cost" and len(totals["costs"]) == 1
    whole = sum(totals["costs"].values()) if by_cost else totals["turns"]
    return [
        {
            **_shown(row),
            "key": row[group],
            "share": (sum(row["costs"].values()) if by_cost else row["turns"]) / whole if whole else 0,
        }
        for row in found["data"]
    ]


def _tiles(now: dict[str, Any], before: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each number with its change since the period before."""

    def tile(value: float, former: float) -> dict[str, Any]:
        return {"value": value, "before": former, "change": (value - former) / former if former else None}

    def share(row: dict[str, Any], name: str) -> float:
        return row[name] / row["turns"] if row["turns"] else 0

    tiles = {name: tile(now[name], before[name]) for name in COUNTED}
    tiles |= {
        f"{name}_share": tile(share(now, name), share(before, name)) for name in ("failed_turns", "rebuilt_turns")
    }
    for name in ("cost", "saved_by_cache"):
        if now[name] is not None and before[name] is not None and before["currency"] in (None, now["currency"]):
            tiles[name] = tile(now[name], before[name])
            tiles[name]["money"] = {
                row: money({now["currency"] or "": tiles[name][row]}) for row in ("value", "before")
            }
    return tiles


def _points(span: Range, found: dict[str, Any]) -> list[tuple[int, dict[str, Any] | None]]:
    """Return the row of each hour or day of a range; None where nothing was counted."""
    name = "hour" if span.step == HOUR else "day"
    rows = {int(datetime.fromisoformat(row[name]).replace(tzinfo=UTC).timestamp()): row for row in found["data"]}
    return [(moment, rows.get(moment)) for moment in span.times()]


def _costs(span: Range, found: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the cost over time in each currency."""
    return [
        (
            currency,
            [
                {"time": moment, "values": {"cost": row["costs"].get(currency, 0) if row else 0}}
                for moment, row in _points(span, found)
            ],
        )
        for currency in list(found["totals"]["costs"])[:MOST_CURRENCIES]
    ]


def _tokens(span: Range, found: dict[str, Any]) -> list[dict[str, Any]]:
    if not found["data"]:
        return []
    return [
        {
            "time": moment,
            "values": {
                "input": row["input_tokens"] - row["cached_tokens"] if row else 0,
                "cached": row["cached_tokens"] if row else 0,
                "output": row["output_tokens"] if row else 0,
            },
        }
        for moment, row in _points(span, found)
    ]


def _latencies(span: Range, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not rows:
        return []
    found = {row["hour"]: row for row in rows}
    return [
        {"time": moment, "values": {name: found.get(moment, {}).get(f"{name}_ms") for name in ("p50", "p95", "p99")}}
        for moment in span.times()
    ]
