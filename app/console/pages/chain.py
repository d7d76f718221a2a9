"""Page of a thread's chain: each turn's continuation, the life of its response id, and what its call sent."""

import time
from typing import Any

import orjson
from starlette.responses import Response

from app.console.pages.thread import left_out
from app.console.view import View
from app.http.services import services
from app.items.shapes import fields_of
from app.process.killable import Killable, LimitExceeded

MOST_DRAWN = 100
"""Turns, from the end on: a page of the chain."""

WIDTH = 640

DIFFERENCE = "app.console.difference:lines"


async def page(view: View) -> Response:
    thread_id = view.request.path_params["thread_id"]
    found = await view.api.get(f"/threads/{thread_id}/chain", until=view.asked("until"), limit=MOST_DRAWN, order="desc")
    links = found["data"][::-1]
    shown = [_link(view, link, before) for before, link in zip([None, *links], links, strict=False)]
    if found["has_more"]:
        del shown[0]  # Why it was rebuilt depends on the turn before it.
    thread = await view.api.find(f"/threads/{thread_id}")
    return view.page(
        "chain.html", thread_id=thread_id, thread=thread, links=shown, line=_line(shown), cut=found["has_more"]
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


def _link(view: View, link: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
    now = time.time()
    expires = link["response_expires_at"]
    state = None if expires is None else "live" if link["live"] else "expired" if expires <= now else "none"
    why = view.t(_why(link, before)) if link["continuation"] == "rebuilt" else None
    return {**link, **left_out(link), "why": why, "state": state}


def _why(link: dict[str, Any], before: dict[str, Any] | None) -> str:
    """Why a turn was rebuilt, as far as the chain tells."""
    if before is None or before["response_id"] is None or before["response_expires_at"] is None:
        return "the turn before had left no id"
    if before["model"] != link["model"]:
        return "another model"
    if before["account"] != link["account"]:
        return "another account"
    made = link["response_created_at"]
    if made is not None and made >= before["response_expires_at"] - 3600:
        return "the id had expired"
    if fields_of(link["context"]).get("compaction_id") != fields_of(before["context"]).get("compaction_id"):
        return "its history was compacted"
    return "the provider did not know the id, or the history had changed"


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
