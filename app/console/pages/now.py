"""Now page: running turns, throttled accounts, limits and queues. A script reloads it at each event of the stream."""

from typing import Any

from starlette.responses import Response

from app.console.pages.settings import LIMITS
from app.console.view import View


async def page(view: View) -> Response:
    return view.page("now.html", **await _shown(view))


async def part(view: View) -> Response:
    """Return the present content of the page."""
    return view.page("_now.html", **await _shown(view))


async def _shown(view: View) -> dict[str, Any]:
    now = await view.api.get("/now")
    limits = sorted(now["limits"], key=lambda limit: -(limit["share"] or 0))
    return {
        "now": now,
        "limits": limits,
        "names": LIMITS,
        "near": sum(limit["near"] for limit in limits),
        "queues": {queue["name"]: queue for queue in now["queues"]},
    }
