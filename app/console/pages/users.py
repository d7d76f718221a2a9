"""Page of an end user, and the preview of a purge of the user's data."""

from urllib.parse import quote

from starlette.responses import Response

from app.console.view import View

ROWS = 20


async def page(view: View) -> Response:
    """Show a user's threads, and actions on the user's data."""
    user = view.asked("user")
    found = await view.api.get("/threads", user=user, limit=ROWS, order_by="activity") if user else None
    threads = [] if found is None else found["data"]
    return view.page(
        "user.html", user=user, address=address(user), threads=threads, has_more=found is not None and found["has_more"]
    )


async def preview(view: View) -> Response:
    """Show the preview of a purge."""
    user = view.asked("user")
    found = await view.api.get(f"{address(user)}/preview")
    return view.page("purge_preview.html", user=user, address=address(user), preview=found)


def address(user: str) -> str:
    """Return the path of a user's data in the API."""
    return f"/users/{quote(user, safe='')}/data"
