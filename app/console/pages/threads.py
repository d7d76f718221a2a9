"""All threads: listed, filtered, searched."""

from datetime import UTC, datetime
from typing import Any

from starlette.responses import Response

from app.console.view import View

ROWS = 30
FOUND = 20


async def page(view: View) -> Response:
    return view.page("threads.html", filters=_asked(view), **await _rows(view))


async def rows(view: View) -> Response:
    """The next rows of the list, or its first ones as they are by now."""
    return view.page("_thread_rows.html", **await _rows(view))


async def search(view: View) -> Response:
    """Return the results while the user types: threads with the words, and those whose name or user begins so."""
    asked = view.asked("q")
    if not asked:
        return view.page("_thread_rows.html", **await _rows(view))
    hits = await view.api.find("/search", q=asked, limit=FOUND)
    named = await view.api.find("/threads", name=asked, limit=FOUND)
    of_user = await view.api.find("/threads", user=asked, limit=FOUND)
    return view.page("_found.html", **{
        name: [] if found is None else found["data"]
        for name, found in (("hits", hits), ("named", named), ("of_user", of_user))
    })  # fmt: skip


def _asked(view: View) -> dict[str, str]:
    fields = ("user", "name", "metadata", "archived", "since", "until", "order_by", "status")
    return {name: view.asked(name) for name in fields}


async def _rows(view: View) -> dict[str, Any]:
    filters = _asked(view)
    key, _, value = filters["metadata"].partition("=")
    params: dict[str, Any] = {
        "user": filters["user"], "name": filters["name"], "status": filters["status"],
        "archived": None if filters["archived"] == "any" else filters["archived"] or "false",
        "order_by": filters["order_by"] or "activity", "created_after": _day(filters["since"]),
        "created_before": _day(filters["until"]), "limit": ROWS, "after": view.asked("after"),
    }  # fmt: skip
    if key and value:
        params[f"metadata[{key}]"] = value
    found = await view.api.get("/threads", **params)
    return {"threads": found["data"], "more": view.more(found)}


def _day(given: str) -> int | None:
    """A day of a form, as Unix seconds; None for none."""
    try:
        return int(datetime.strptime(given, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError:
        return None
