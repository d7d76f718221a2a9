"""Page of a thread's chain: each turn's continuation, the life of its response id, and what its call sent."""

import time
from typing import Any

import orjson
from starlette.responses import Response

from app.console.pages import paging
from app.console.pages.thread import left_out
from app.console.view import View
from app.http.services import services
from app.process.killable import Killable, LimitExceeded

MOST_DRAWN = 100
"""Turns on a page of the chain."""

WIDTH = 640

DIFFERENCE = "app.console.difference:lines"


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


async def calls(view: View) -> Response:
    thread_id, turn_id = view.request.path_params["thread_id"], view.request.path_params["turn_id"]
    path = f"/threads/{thread_id}/turns/{turn_id}"
    made = (await view.api.get(f"{path}/calls"))["data"]
    parent = (await view.api.get(path))["parent_id"]
    last: str | None = None
    if parent is not None:
        of_parent = await view.api.find(f"/threads/{thread_id}/turns/{parent}/calls")
        last = _set_out(of_parent["data"][-1]["body"]) if of_parent is not None and of_parent["data"] else None
    shown = []
    for call in made:
        curl = await view.api.get(f"/calls/{call['id']}", format="curl")
        body = _set_out(call["body"])
        differs = None if last is None or body is None else await _difference(view, last, body)
        shown.append({**call, "curl": curl, "body": body, "differs": differs})
        last = body
    thread = await view.api.find(f"/threads/{thread_id}")
    return view.page("calls.html", thread_id=thread_id, thread=thread, turn_id=turn_id, calls=shown)


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


def _set_out(body: Any) -> str | None:
    return None if body is None else orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()


async def _difference(view: View, before: str, now: str) -> list[tuple[str, str]] | None:
    """Return the lines that differ; None where comparing them takes too long."""
    try:
        found: list[tuple[str, str]] = await services(view.request)[Killable].run(
            view.grant.project_id, DIFFERENCE, before, now
        )
    except LimitExceeded:
        return None
    return found
