"""Purges: those of users' data with their progress, and those of threads, each with its certificate."""

from starlette.responses import Response

from app.console.view import View

ROWS = 100
FIRST_WAIT_SECONDS = 1
LONGEST_WAIT_SECONDS = 15


async def page(view: View) -> Response:
    kind = "thread" if view.asked("kind") == "thread" else "user"
    found = await view.api.get("/purges", kind=kind, limit=ROWS)
    return view.page("purges.html", kind=kind, purges=found["data"], has_more=found["has_more"])


async def progress(view: View) -> Response:
    """Show a purge, and follow it until it is complete."""
    return await _shown(view, "purge.html", FIRST_WAIT_SECONDS)


async def state(view: View) -> Response:
    """Show the present progress of a purge. The browser waits longer before each next request."""
    waited = view.asked("waited")
    wait = int(waited[:2]) * 2 if waited.isascii() and waited.isdecimal() else FIRST_WAIT_SECONDS
    return await _shown(view, "_purge.html", max(FIRST_WAIT_SECONDS, min(wait, LONGEST_WAIT_SECONDS)))


async def _shown(view: View, template: str, wait: int) -> Response:
    purge = await view.api.get(f"/purges/{view.request.path_params['purge_id']}")
    return view.page(template, purge=purge, wait=wait)
