"""Pages over the links of a chain: the numbers of the shown turns, their total, and links to the pages beside."""

from typing import Any
from urllib.parse import urlencode

from app.console.view import View


async def of_links(view: View, found: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of the turns on a page, and the queries of the pages beside it.

    Args:
        found: a page of the API's, the latest turns first.
    """
    links, kept = found["data"], {"until": view.asked("until")} if view.asked("until") else {}
    backwards = bool(view.asked("before"))  # The page was read from an older one on.
    older = backwards or found["has_more"]
    newer = found["has_more"] if backwards else bool(view.asked("after"))
    if not links:
        return {"first": 0, "last": 0, "total": 0, "older": None, "newer": None}
    thread_id = view.request.path_params["thread_id"]
    newest = await view.api.get(f"/threads/{thread_id}/chain", all_branches="true", order="desc", limit=1)
    numbers = [link["number"] for link in (*links, *newest["data"])]
    return {
        "first": links[-1]["number"],
        "last": links[0]["number"],
        "total": max(numbers),
        "older": "?" + urlencode({**kept, "after": found["last_id"]}) if older else None,
        "newer": "?" + urlencode({**kept, "before": found["first_id"]}) if newer else None,
    }
