"""Page of all threads: listed, filtered, and found by id, name, user or words."""

import asyncio
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from app.console.ranges import CUSTOM, Range
from app.console.view import View

ROWS = 30
FOUND = 20
BESIDE = 5
"""Threads found by name or user, shown above those found by their texts."""

FIELDS = ("q", "user", "name", "status", "model", "metadata", "range", "from", "to", "archived", "order_by", "thread")
"""Query parameters of the list, in the order of its filters."""

LAST_TURNS = ("failed", "incomplete", "cancelled")
"""States that are those of a thread's last turn."""

PAGE = "/console/threads"

RESULTS = "list"
"""The id of the element that shows the results on the page of all threads."""

_ID = re.compile(r"\S{8,256}")


async def page(view: View) -> Response:
    return view.page("threads.html", **await _results(view))


async def rows(view: View) -> Response:
    """Show results on the page of all threads or in the column beside a thread, and further rows of either."""
    headers = view.request.headers
    on_page = headers.get("hx-current-url", "").partition("?")[0].partition("#")[0].endswith(PAGE)
    results = await _results(view)
    answer = view.page("_results.html", counted=on_page and "hx-target" in headers, **results)
    if on_page and headers.get("hx-target") == RESULTS:
        answer.headers["HX-Replace-Url"] = PAGE + (f"?{results['kept']}" if results["kept"] else "")
    return answer


async def _results(view: View) -> dict[str, Any]:
    asked = {name: value for name in FIELDS if (value := view.asked(name))}
    chosen = Range.of(view) if "range" in asked else None
    filters = _filters(asked, chosen)
    found = await (_found(view, asked, filters, chosen) if "q" in asked else _listed(view, asked, filters))
    query = {name: value for name, value in asked.items() if name not in ("range", "from", "to")}
    query |= {} if chosen is None else chosen.query
    kept = urlencode({name: query[name] for name in FIELDS if name in query})
    return {
        "asked": asked,
        "range": chosen,
        "kept": kept,
        "beside": urlencode({"list": kept}) if kept else "",
        "chips": _chips(view, query),
        "first": "after" not in view.request.query_params,
        "found": None,
        "threads": [],
        **found,
    }


def _filters(asked: dict[str, str], chosen: Range | None) -> dict[str, Any]:
    """Return the filters as the API takes them."""
    user, status = asked.get("user", ""), asked.get("status", "")
    archived = asked.get("archived", "false")
    filters: dict[str, Any] = {
        "user_prefix" if user.endswith("*") else "user": user.removesuffix("*"),
        "name": asked.get("name"),
        "model": asked.get("model"),
        "archived": None if archived == "any" else archived,
        "last_turn" if status in LAST_TURNS else "status": status,
    }
    key, _, value = asked.get("metadata", "").partition("=")
    if key and value:
        filters[f"metadata[{key.strip()}]"] = value.strip()
    if chosen is not None:
        filters |= {"active_after": chosen.since - 1, "active_before": chosen.until}
    return filters


async def _listed(view: View, asked: dict[str, str], filters: dict[str, Any]) -> dict[str, Any]:
    order_by = asked.get("order_by", "activity")
    found = await view.api.get("/threads", **filters, order_by=order_by, limit=ROWS, after=view.asked("after"))
    return {"threads": found["data"], "more": view.more(found), "count": _count(view, len(found["data"]), found)}


async def _found(view: View, asked: dict[str, str], filters: dict[str, Any], chosen: Range | None) -> dict[str, Any]:
    """Return the thread of an id, the threads of a name or a user, and the threads with the words."""
    q = asked["q"]
    of_hits = {name: value for name, value in filters.items() if not name.startswith("active_")}
    of_hits |= {} if chosen is None else chosen.api
    hits = view.api.find(
        "/search", **of_hits, q=q, thread=asked.get("thread"), group_by="thread", limit=FOUND, after=view.asked("after")
    )
    if view.asked("after") or "thread" in asked:
        groups = await hits
        place, named, of_user = None, None, None
    else:
        of_name = {**filters, "name": q} if "name" not in asked else None
        with_user = {name: value for name, value in filters.items() if name != "user"} | {"user_prefix": q}
        groups, place, named, of_user = await asyncio.gather(
            hits,
            _place(view, q),
            _threads(view, of_name),
            _threads(view, with_user if "user" not in asked else None),
        )
    groups = groups or {"data": [], "has_more": False, "last_id": None}
    beside = [_and_more(view, named, {"name": q}), _and_more(view, of_user, {"user": f"{q}*"})]
    shown = len(groups["data"]) + sum(len(threads) for threads, _ in beside) + (place is not None)
    return {
        "found": {
            "place": place,
            "beside": [(label, *each) for label, each in zip(("By name", "By user"), beside, strict=True) if each[0]],
            "groups": groups["data"],
            "words": [_within(view, group) for group in groups["data"]],
        },
        "more": view.more(groups),
        "count": _count(view, shown, groups),
    }


async def _place(view: View, q: str) -> dict[str, Any] | None:
    """Return the place that an id leads to, with its thread; None if the query is not an id."""
    place = await view.api.find("/find", id=q) if _ID.fullmatch(q) else None
    thread = None if place is None else await view.api.find(f"/threads/{place['thread_id']}")
    return None if place is None or thread is None else {**place, "thread": thread}


async def _threads(view: View, filters: dict[str, Any] | None) -> dict[str, Any] | None:
    if filters is None:
        return None
    found: dict[str, Any] | None = await view.api.find("/threads", **filters, order_by="activity", limit=BESIDE)
    return found


def _and_more(view: View, found: dict[str, Any] | None, filters: dict[str, str]) -> tuple[list[Any], str | None]:
    """Return threads, and the address of the full list; None if these are all."""
    if found is None:
        return [], None
    kept = {name: value for name, value in view.request.query_params.items() if name in FIELDS and name != "q"}
    return found["data"], f"{PAGE}?{urlencode(kept | filters)}" if found["has_more"] else None


def _within(view: View, group: dict[str, Any]) -> str:
    """Return the address of all hits in one thread."""
    kept = {name: value for name, value in view.request.query_params.items() if name in FIELDS}
    return f"{PAGE}?{urlencode(kept | {'thread': group['thread']['id']})}"


def _count(view: View, shown: int, found: dict[str, Any]) -> str:
    """Return the number of results as text."""
    if "after" in view.request.query_params:
        return view.t("{n} more results", n=shown)
    if not any(view.asked(name) for name in FIELDS):
        return ""
    if found["has_more"]:
        return view.t("{n} results, and more", n=shown) if shown else view.t("No results so far")
    return view.t("1 result") if shown == 1 else view.t("{n} results", n=shown)


STATES = {
    "busy": "running", "idle": "idle", "failed": "last turn failed", "incomplete": "last turn incomplete",
    "cancelled": "last turn cancelled",
}  # fmt: skip
RANGES = {"1h": "Last hour", "24h": "24 hours", "7d": "7 days", "30d": "30 days"}


def _chips(view: View, query: dict[str, str]) -> Sequence[tuple[str, str, str]]:
    """Return each active filter: its label, its value, and the address of the list without it."""
    t = view.t
    said = {
        "user": (t("User"), query.get("user", "")),
        "name": (t("Name"), f"{query.get('name', '')}*"),
        "status": (t("State"), t(STATES.get(query.get("status", ""), query.get("status", "")))),
        "model": (t("Model"), query.get("model", "")),
        "metadata": (t("Metadata"), query.get("metadata", "")),
        "range": (t("Time"), _range_said(view, query)),
        "archived": (t("Archived"), {"true": t("yes"), "any": t("any")}.get(query.get("archived", ""), "")),
        "order_by": (t("Order"), t("by creation") if query.get("order_by") == "created" else ""),
        "thread": (t("Thread"), f"…{query.get('thread', '')[-8:]}"),
    }
    chips = []
    for name, (label, value) in said.items():
        if name in query and value:
            gone = ("range", "from", "to") if name == "range" else (name,)
            kept = urlencode({each: value for each, value in query.items() if each not in gone})
            chips.append((label, value, f"{PAGE}?{kept}" if kept else PAGE))
    return chips


def _range_said(view: View, query: dict[str, str]) -> str:
    if query.get("range") == CUSTOM:
        return f"{query['from'].replace('T', ' ')} – {query['to'].replace('T', ' ')} UTC"
    return view.t(RANGES.get(query.get("range", ""), ""))
