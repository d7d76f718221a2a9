"""Page of a thread's chain: each turn's continuation, and the lifetime of its response id."""

import time
from typing import Any

from starlette.responses import Response

from app.console.pages import paging
from app.console.pages.thread import left_out
from app.console.view import View

MOST_DRAWN = 100
"""Turns on a page of the chain."""

WIDTH = 640


async def page(view: View) -> Response:
    thread_id = view.request.path_params["thread_id"]
    asked = {name: view.asked(name) for name in ("until", "after", "before")}
    found = await view.api.get(f"/threads/{thread_id}/chain", limit=MOST_DRAWN, order="desc", **asked)
    links = [_link(link) for link in found["data"][::-1]]
    thread = await view.api.find(f"/threads/{thread_id}")
    return view.page(
        "chain.html",
        thread_id=thread_id,
        thread=thread,
        links=links,
        line=_line(links),
        paging=await paging.of_links(view, found),
    )


def _link(link: dict[str, Any]) -> dict[str, Any]:
    expires = link["response_expires_at"]
    state = None if expires is None else "live" if link["live"] else "expired" if expires <= time.time() else "none"
    return {**link, **left_out(link), "state": state}


def _line(links: list[dict[str, Any]]) -> dict[str, Any]:
    """The lives of response ids as bars over time."""
    lives = [link for link in links if link["response_created_at"] is not None]
    if not lives:
        return {"bars": [], "height": 0, "width": WIDTH, "now": None}
    first: int = min(link["response_created_at"] for link in lives)
    ends = [link[name] for link in lives for name in ("response_created_at", "response_expires_at")]
    last: int = max(int(time.time()), *(end for end in ends if end is not None))
    span = max(last - first, 1)

    def at(moment: float) -> float:
        return round(10.0 + (WIDTH - 20) * (moment - first) / span, 1)

    bars = []
    for row, link in enumerate(lives):
        begins, ends = link["response_created_at"], link["response_expires_at"] or link["response_created_at"]
        bars.append({**link, "x": at(begins), "w": max(3.0, round(at(ends) - at(begins), 1)), "y": 10 + 16 * row})
    return {"bars": bars, "height": 20 + 16 * len(bars), "width": WIDTH, "now": at(time.time())}
