"""Links through which a thread is readable without a key."""

from starlette.responses import Response

from app.console.view import View

MOST = 100
"""Links that are shown: the newest."""


async def listed(view: View) -> Response:
    """Show the links to a thread."""
    thread_id = view.request.path_params["thread_id"]
    found = await view.api.get(f"/threads/{thread_id}/shares", limit=MOST)
    return view.page("_shares.html", shares=found["data"], has_more=found["has_more"])
