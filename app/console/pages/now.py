"""Now page: running turns, throttled accounts, limits and queues. A script renews it when the stream has an event."""

from typing import Any

from starlette.responses import Response

from app.console.pages.settings import LIMITS
from app.console.view import View


async def page(view: View) -> Response:
    return view.page("now.html", **await _shown(view))


async def part(view: View) -> Response:
    """The page's content as it is by now."""
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
