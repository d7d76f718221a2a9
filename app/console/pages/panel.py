"""Panel of one turn: sent and received contents, cost and times, proof, and comparisons.

The same contents are a fragment beside the conversation and a page of their own.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.responses import RedirectResponse, Response

from app.console.api import Refused
from app.console.view import View, money
from app.db import ids
from app.http.services import services
from app.items.kinds import type_of
from app.items.shapes import fields_of, objects, string, text_of
from app.process.killable import Killable, LimitExceeded

SHOWN = 40_000
"""Characters of a document that are shown. A link shows all of it."""

MOST_SHOWN = 200_000
"""Characters of all items of an answer that are shown."""

MOST_FEEDBACK = 20

MOST_ITEMS = 100
"""Items of an answer that are shown one by one."""

DIFFERENCE = "app.console.difference:lines"

TABS = (
    ("overview", "Overview", "read"), ("sent", "Sent", "read"), ("received", "Received", "read"),
    ("proof", "Proof", "audit"), ("compare", "Compare", "read"),
)  # fmt: skip

Shown = dict[str, Any]


async def fragment(view: View) -> Response:
    return view.page("_panel.html", **await contents(view, view.request.path_params["turn_id"]))


async def details(view: View) -> Response:
    """Show the panel as a page of its own: on phones, and without JavaScript."""
    thread_id = view.request.path_params["thread_id"]
    shown = await contents(view, view.request.path_params["turn_id"])
    thread = await view.api.find(f"/threads/{thread_id}")
    return view.page("details.html", thread=thread, **{**shown, "page": True})


async def calls(view: View) -> Response:
    """Redirect from the former page of a turn's calls."""
    thread_id, turn_id = view.request.path_params["thread_id"], view.request.path_params["turn_id"]
    return RedirectResponse(f"/console/threads/{thread_id}/turns/{turn_id}/details?tab=sent", status_code=301)


async def beside(view: View) -> Shown:
    """Return the panel that is in the address of a thread's page; nothing if there is no such turn."""
    turn_id = view.asked("turn")
    if not turn_id:
        return {"panel": False}
    try:
        return {"panel": True, **await contents(view, turn_id)}
    except Refused as refused:
        if refused.status not in (400, 403, 404):
            raise
        return {"panel": False}


async def contents(view: View, turn_id: str) -> Shown:
    """Return the contents of one tab of the panel."""
    thread_id = view.request.path_params["thread_id"]
    tabs = [(name, label) for name, label, scope in TABS if view.may(scope)]
    tab = view.asked("tab") if view.asked("tab") in dict(tabs) else "overview"
    if ids.parse(turn_id, ids.TURN_PREFIXES) is None:
        raise Refused(404, view.t("There is no such turn."))
    path = f"/threads/{thread_id}/turns/{turn_id}"
    turn = await view.api.get(path)
    place = f"/console/threads/{thread_id}/turns/{turn['id']}"
    shown = {"thread_id": thread_id, "turn": turn, "tabs": tabs, "tab": tab, "place": place, "page": False}
    return {**shown, **await _TABS[tab](view, path, turn)}


async def _overview(view: View, path: str, turn: dict[str, Any]) -> Shown:
    thread_id = view.request.path_params["thread_id"]
    made, links, feedback = await asyncio.gather(
        view.api.get(f"{path}/calls", bodies="false"),
        view.api.find(f"/threads/{thread_id}/chain", until=turn["id"], limit=1, order="desc"),
        view.api.find(f"{path}/feedback"),
    )
    link = links["data"][0] if links is not None and links["data"] else None
    usage, context = fields_of(turn["usage"]), fields_of(turn["context"])
    return {
        "link": link,
        "feedback": [] if feedback is None else feedback["data"][:MOST_FEEDBACK],
        "usage": {
            "input": usage.get("input_tokens"),
            "cached": fields_of(usage.get("input_tokens_details")).get("cached_tokens") or 0,
            "output": usage.get("output_tokens"),
            "reasoning": fields_of(usage.get("output_tokens_details")).get("reasoning_tokens") or 0,
        },
        "cost": money({turn["cost"]["currency"]: turn["cost"]["amount"]}) if turn["cost"] else None,
        "context": context,
        "times": _times(turn, made["data"]),
    }


def _times(turn: dict[str, Any], made: list[dict[str, Any]]) -> list[tuple[str, str, float, float]]:
    """Return the phases of a turn as name, colour, and their begin and length in milliseconds."""
    if not made:
        return []
    begun = turn["created_at"]
    times: list[tuple[str, str, float, float]] = []
    first = max(0.0, (made[0]["started_at"] - begun) * 1000)
    if first >= 1000:  # Turns are stamped with whole seconds: shorter waits are not measurable.
        times.append(("Before the first attempt", "wait", 0.0, first))
    at = first if times else 0.0
    zero = made[0]["started_at"] * 1000 - at
    for number, call in enumerate(made[:-1], 1):
        begins, ends = call["started_at"] * 1000 - zero, call["finished_at"] * 1000 - zero
        times.append(("Refused attempt", "bad", begins, ends - begins))
        after = made[number]["started_at"] * 1000 - zero
        times.append(("Until the next attempt", "wait", ends, after - ends))
    begins, ends = made[-1]["started_at"] * 1000 - zero, made[-1]["finished_at"] * 1000 - zero
    word = turn["first_word_ms"]
    if word is not None and begins < word < ends:
        times.append(("Until the first word", "first", begins, word - begins))
        times.append(("Streaming", "stream", word, ends - word))
    else:
        times.append(("Waiting for the answer", "first", begins, ends - begins))
    return times


async def _sent(view: View, path: str, turn: dict[str, Any]) -> Shown:
    thread_id = view.request.path_params["thread_id"]
    made = (await view.api.get(f"{path}/calls"))["data"]
    last: str | None = None
    if turn["parent_id"] is not None:
        of_parent = await view.api.find(f"/threads/{thread_id}/turns/{turn['parent_id']}/calls")
        last = _set_out(of_parent["data"][-1]["body"]) if of_parent is not None and of_parent["data"] else None
    shown = []
    for call in made:
        body = _set_out(call["body"])
        differs = None if last is None or body is None else await _difference(view, last, body)
        shown.append({**call, "body": _document(body), "differs": differs, "compared": last is not None})
        last = body
    return {"calls": shown}


async def _received(view: View, path: str, turn: dict[str, Any]) -> Shown:
    items, left = [], MOST_SHOWN
    for item in turn["output"][:MOST_ITEMS]:
        found = _document(_set_out(item), min(SHOWN, left))
        left -= 0 if found is None else len(found["text"])
        items.append((string(item.get("type")), found))
    stored = {name: value for name, value in turn.items() if name not in ("input", "output")}
    return {
        "items": items,
        "more_items": max(0, len(turn["output"]) - MOST_ITEMS),
        "stored": _document(_set_out(stored)),
        "error": _document(_set_out(turn["error"])) if turn["error"] else None,
    }


async def _proof(view: View, path: str, turn: dict[str, Any]) -> Shown:
    return {}


async def _compare(view: View, path: str, turn: dict[str, Any]) -> Shown:
    siblings = await view.api.get(f"{path}/siblings")
    others = [each for each in siblings["data"] if each["id"] != turn["id"]]
    chosen = view.asked("with")
    shown: Shown = {"siblings": others, "more_siblings": siblings["has_more"], "chosen": chosen, "parts": None}
    if chosen == "rebuilt":
        rebuilt = await view.api.get(f"{path}/rebuilt_input")
        made = (await view.api.get(f"{path}/calls"))["data"]
        body = made[-1]["body"] if made else None
        sent = fields_of(body).get("input") if body is not None else None
        parts = [("Input", sent, rebuilt["input"])] if sent is not None else []
        return {**shown, "rebuilt": rebuilt, "made": made, "parts": await _differences(view, parts)}
    if any(each["id"] == chosen for each in others):
        thread_id = view.request.path_params["thread_id"]
        other = await view.api.get(f"/threads/{thread_id}/turns/{chosen}")
        pairs = [("Input", other["input"], turn["input"]), ("Answer", other["output"], turn["output"])]
        parts = [(name, _without_ids(before), _without_ids(now)) for name, before, now in pairs]
        return {**shown, "other": other, "parts": await _differences(view, parts)}
    return {**shown, "chosen": ""}


_TABS: dict[str, Callable[[View, str, dict[str, Any]], Awaitable[Shown]]] = {
    "overview": _overview, "sent": _sent, "received": _received, "proof": _proof, "compare": _compare,
}  # fmt: skip


async def _differences(view: View, parts: list[tuple[str, Any, Any]]) -> list[Shown]:
    shown: list[Shown] = []
    for name, before, now in parts:
        same, texts = before == now, (_as_text(before), _as_text(now))
        if texts[0] == texts[1]:
            texts = (_set_out(before) or "", _set_out(now) or "")
        shown.append({"name": name, "same": same, "lines": [] if same else await _difference(view, *texts)})
    return shown


def _without_ids(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return items without their ids, in which any two turns differ."""
    return [{name: value for name, value in item.items() if name != "id"} for item in items]


def _as_text(items: Any) -> str:
    """Return items as readable text: messages as their texts, other items as JSON."""
    if not isinstance(items, list):
        return _set_out(items) or ""
    return "\n\n".join(
        f"{string(item.get('role'))}:\n{text_of(item)}" if type_of(item) == "message" else _set_out(item) or ""
        for item in objects(items)
    )


def _set_out(value: Any) -> str | None:
    return None if value is None else orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def _document(text: str | None, most: int = SHOWN) -> Shown | None:
    """Return the beginning of a document, and its length."""
    return None if text is None else {"text": text[:most], "length": len(text), "whole": len(text) <= most}


async def _difference(view: View, before: str, now: str) -> list[tuple[str, str]] | None:
    """Return the lines that differ; None if the comparison takes too long."""
    try:
        found: list[tuple[str, str]] = await services(view.request)[Killable].run(
            view.grant.project_id, DIFFERENCE, before, now
        )
    except LimitExceeded:
        return None
    return found
