"""A thread: the conversation as people read it, from its end upwards, branch by branch."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from markupsafe import Markup
from starlette.responses import Response

from app.console.api import Refused
from app.console.meanings import meaning_of
from app.console.pages.panel import beside
from app.console.view import View
from app.http.nesting import excess
from app.http.services import services
from app.items.media import is_data, source_of
from app.items.shapes import fields_of, media_of, modality_of, objects, string, text_of, words
from app.process.killable import Killable, LimitExceeded

TURNS = 50
"""On a page; a longer conversation is read on upwards."""

MARKDOWN = "app.console.markdown:rendered"

MOST_RENDERED = 1_000_000
"""Characters of a page's texts that are rendered as Markdown; the others are shown as they are."""

LONGEST_SET_OUT = 200_000
"""Characters of JSON that is set out on lines of its own; longer JSON is shown as it is."""

MOST_SET_OUT = 10_000
"""Its values."""

DEEPEST_SET_OUT = 64


async def page(view: View) -> Response:
    """The end of the conversation, or that of one of its branches."""
    thread_id = view.request.path_params["thread_id"]
    until = view.asked("until") or None
    thread, found = await asyncio.gather(
        view.api.get(f"/threads/{thread_id}"), view.api.get(f"/threads/{thread_id}/turns", limit=TURNS)
    )
    last = until
    if not found["data"] and last is None:
        last = thread["head_id"]  # A new fork has no turns of its own.
    if last is not None and all(turn["id"] != last for turn in found["data"]):
        shown = await _upwards(view, thread_id, last)
    else:
        shown = _shown(view, found["data"], until)
    await _render(view, shown["turns"])
    newest = found["data"][0] if found["data"] else None
    if (
        newest is not None
        and until == newest["id"]
        and (newest["status"] == "in_progress" or until == thread["head_id"])
    ):
        until = None  # It is the thread as it is: after an edit, another answer or a retry.
    return view.page(
        "thread.html", until=until, thread=thread, **{"thread_id": thread_id, **shown, **await beside(view)}
    )


async def earlier(view: View) -> Response:
    """Show the turns before the oldest one on the page."""
    thread_id, last = view.request.path_params["thread_id"], view.asked("last")
    if not last:
        raise Refused(404, view.t("There is no such turn."))
    shown = await _upwards(view, thread_id, last)
    await _render(view, shown["turns"])
    return view.page("_turns.html", thread_id=thread_id, until=None, **shown)


async def turn(view: View) -> Response:
    """One turn, as it is now."""
    thread_id = view.request.path_params["thread_id"]
    found = await view.api.get(f"/threads/{thread_id}/turns/{view.request.path_params['turn_id']}")
    turns = [_turn(view, found, [])]
    await _render(view, turns)
    return view.page("_turns.html", thread_id=thread_id, until=None, turns=turns, earlier=None)


async def about(view: View) -> Response:
    """Show the thread's title, its user and its actions."""
    thread = await view.api.get(f"/threads/{view.request.path_params['thread_id']}")
    return view.page("_about.html", thread=thread, until=view.asked("until") or None)


async def _render(view: View, turns: Sequence[dict[str, Any]]) -> None:
    """Add the rendered messages to the parts of some turns: `html`, None where the text is shown as it is."""
    parts = [part for turn in turns for part in (*turn["input"], *turn["output"]) if "html" in part]
    left, texts = MOST_RENDERED, []
    for part in reversed(parts):  # The newest are what the page is opened for.
        texts.append(part["text"] if len(part["text"]) <= left else "")
        left -= len(texts[-1])
    try:
        made = await services(view.request)[Killable].run(view.grant.project_id, MARKDOWN, texts)
    except LimitExceeded:
        return
    for part, text, html in zip(reversed(parts), texts, made, strict=True):
        part["html"] = None if html is None or text != part["text"] else Markup(html)  # noqa: S704


async def _upwards(view: View, thread_id: str, last: str) -> dict[str, Any]:
    """The turns of a branch that ends with a turn which may be far back, or another thread's."""
    newest = await view.api.get(f"/threads/{thread_id}/turns/{last}")
    home = newest["thread_id"]  # What a fork shares is listed where it was said.
    found = await view.api.find(f"/threads/{home}/turns", limit=TURNS - 1, after=last)
    before = [] if found is None else found["data"]
    return _shown(view, [newest, *before], last)


def _shown(view: View, latest_first: Sequence[dict[str, Any]], until: str | None) -> dict[str, Any]:
    """A branch of some turns, oldest first; and the turn with which what stands before it ends."""
    by_id = {turn["id"]: turn for turn in latest_first}
    siblings: dict[str | None, list[str]] = {}
    for turn in reversed(latest_first):
        siblings.setdefault(turn["parent_id"], []).append(turn["id"])
    at = until if until in by_id else latest_first[0]["id"] if latest_first else None
    branch: list[dict[str, Any]] = []
    while at is not None and at in by_id:
        turn = by_id[at]
        branch.append(_turn(view, turn, [_leaf(each, siblings) for each in siblings[turn["parent_id"]]]))
        at = turn["parent_id"]
    return {"turns": branch[::-1], "earlier": at}


def _leaf(turn_id: str, siblings: dict[str | None, list[str]]) -> tuple[str, str]:
    """Return a turn and its newest known descendant."""
    at = turn_id
    while at in siblings:
        at = siblings[at][-1]
    return turn_id, at


def _turn(view: View, turn: dict[str, Any], beside: list[tuple[str, str]]) -> dict[str, Any]:
    """A turn as a page shows it. Args: beside: the turns that have the same parent, with their branches' ends."""
    place = next((number for number, (id_, _) in enumerate(beside) if id_ == turn["id"]), 0)
    return {
        "id": turn["id"],
        "status": turn["status"],
        "continuation": turn["continuation"] or ("" if turn["model"] else "added"),
        "reason": turn["continuation_reason"] or "",
        "model": turn["model"],
        "created_at": turn["created_at"],
        "seconds": None if turn["completed_at"] is None else turn["completed_at"] - turn["created_at"],
        "tokens": fields_of(turn["usage"]).get("total_tokens"),
        **left_out(turn),
        "notice": notice(turn),
        "input": [part(item) for item in turn["input"]],
        "output": [part(item) for item in turn["output"]],
        "own_input": "\n".join(text_of(item) for item in turn["input"] if item.get("role") == "user"),
        "branch": place + 1,
        "branches": len(beside),
        "before": beside[place - 1][1] if place > 0 else None,
        "after": beside[place + 1][1] if place + 1 < len(beside) else None,
    }


def notice(turn: dict[str, Any]) -> dict[str, Any] | None:
    """Return the reason why a turn has no complete answer; None for other turns."""
    if turn["status"] not in ("failed", "incomplete", "cancelled"):
        return None
    error = fields_of(turn["error"])
    code = string(error.get("code")) or string(fields_of(turn["incomplete_details"]).get("reason"))
    message = string(error.get("message"))
    meaning = None if turn["status"] == "cancelled" else meaning_of(turn["status"], code, message)
    return {"meaning": meaning, "code": code, "message": message}


def left_out(turn: dict[str, Any]) -> dict[str, Any]:
    """Return what part of the history was not sent with a turn."""
    context = fields_of(turn["context"])
    return {"dropped": context.get("dropped_items") or 0, "compacted": bool(context.get("compaction"))}


def part(item: dict[str, Any]) -> dict[str, Any]:
    """An item, as one of the few forms that a page has."""
    type_ = string(item.get("type")) or "message"
    if type_ == "message":
        media = list(map(_medium, media_of(item.get("content"))))
        cited = [
            _source(note)
            for each in objects(item.get("content"))
            for note in objects(each.get("annotations"))
        ]  # fmt: skip
        sources = [each for each in cited if each is not None]
        return {
            "form": "message", "role": string(item.get("role")), "text": text_of(item), "html": None,
            "media": media, "sources": sources,
        }  # fmt: skip
    if type_ == "reasoning":
        said = [string(each.get("text")) for each in objects(item.get("summary")) + objects(item.get("content"))]
        return {"form": "reasoning", "text": "\n\n".join(said), "html": None}
    if type_.endswith("_output"):
        output = item.get("output")
        media = list(map(_medium, media_of(output)))
        said_ = "".join(string(each.get("text")) for each in objects(output)) if isinstance(output, list) else output
        return {"form": "output", "text": _pretty(said_), "media": media}
    details = {name: value for name, value in item.items() if name not in ("id", "type", "status", "call_id")}
    action = fields_of(details.get("action"))
    sources = [found for each in objects(action.get("sources")) if (found := _source(each)) is not None]
    name = string(details.pop("name", None)) or type_
    arguments = details.get("arguments")
    return {
        "form": "call", "name": name, "text": _pretty(arguments if arguments is not None else details),
        "sources": sources,
    }  # fmt: skip


def _medium(found: dict[str, Any]) -> dict[str, Any]:
    """An image that was sent inline is shown; any other medium is named, and is a link where it lies elsewhere. No link
    is fetched."""
    url = string(source_of(found)[1])
    inline = url.startswith(("data:image/png;", "data:image/jpeg;", "data:image/gif;", "data:image/webp;"))
    return {
        "kind": modality_of(found),
        "name": string(found.get("filename")),
        "inline": url if inline and modality_of(found) == "image" else None,
        "link": url if not is_data(found) and url.startswith(("https://", "http://")) else None,
    }


def _source(found: dict[str, Any]) -> dict[str, str] | None:
    url = string(found.get("url"))
    return {"url": url, "title": string(found.get("title")) or url} if url.startswith(("http://", "https://")) else None


def _pretty(value: Any) -> str:
    """JSON, set out, where it is some; else the text."""
    if isinstance(value, str):
        if len(value) > LONGEST_SET_OUT or excess(value.encode(), values=MOST_SET_OUT, levels=DEEPEST_SET_OUT):
            return value
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError:
            return str(value)
        if not isinstance(value, dict | list):
            return words(value)
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
