"""A conversation read back: as Responses items, as Chat messages, or as Markdown."""

import re
from collections.abc import Sequence
from typing import Any, Literal

from typing_extensions import TypedDict

from app.db import ids
from app.items.kinds import MALFORMED, type_of
from app.items.media import NAMES, is_data, source_of
from app.items.shapes import Item, media_of, modality_of, objects, string, text_of, words
from app.items.stored import Row, StoredItem, stored_item
from app.items.unreadable import ContentUnreadable, is_unreadable


class Messages(TypedDict):
    object: Literal["list"]
    data: list[Item]
    """Responses items, or Chat messages: as `format` says."""
    first_id: str | None
    """The id of the first turn: the cursors of pages are turns."""
    last_id: str | None
    has_more: bool


_FENCES = re.compile("`{3,}")
"""Runs of backticks in a text: a fence around it must be longer."""

CANNOT_BE_OPENED = "*(something that cannot be opened)*"
"""Text on a page in the place of a content that cannot be opened."""

SPEAKERS = {"system": "System", "developer": "Developer", "user": "User", "assistant": "Assistant"}


def as_responses(rows: Sequence[Row]) -> list[Item]:
    """Every item, with its id and the turn that it belongs to.

    Args:
        rows: with their turn_id.
    """
    return [{**stored_item(row).shown, "turn_id": ids.turn_id(row["turn_id"])} for row in rows]


def as_chat(rows: Sequence[Row]) -> list[Item]:
    """Return the `messages` of a Chat Completions request. Items that Chat has no form for are left out.

    Raises:
        ContentUnreadable: one cannot be opened. What is sent to a model is never sent without it.
    """
    messages: list[Item] = []
    for kept, row in zip(map(stored_item, rows), rows, strict=True):
        if is_unreadable(kept.data):
            raise ContentUnreadable(
                f"Item {kept.id} of turn {ids.turn_id(row['turn_id'])}", "Read the messages as format=responses."
            )
        if kept.type == "message":
            content = kept.item.get("content")
            said = text_of(kept.item) if kept.item["role"] == "assistant" else _chat_content(content)
            messages.append({"role": kept.item["role"], "content": said})
        elif kept.kind.pair is not None:
            for item in kept.kind.carried(kept.item):
                _add_half(messages, item)
    return messages


def as_markdown(title: str | None, rows: Sequence[Row]) -> str:
    """A page to read."""
    blocks = [f"# {title}"] if title else []
    for kept in map(stored_item, rows):
        if is_unreadable(kept.data):
            blocks.append(CANNOT_BE_OPENED)
        elif kept.type == "message":
            role = kept.item["role"]
            blocks.append(f"**{SPEAKERS.get(role, role)}**\n\n{_markdown_content(kept.item.get('content'))}")
        elif (heading := kept.kind.title(kept.item)) is not None:
            blocks.append("\n\n".join([heading, *_markdown_details(kept)]))
    return "\n\n".join(blocks) + "\n"


def brief(item: Item) -> str:
    """Return a one-line description of an item that is no message."""
    kept = StoredItem(type_of(item) or MALFORMED, "", item)
    for half in kept.kind.carried(item) if kept.kind.pair is not None else []:
        if half["type"] == "function_call":
            return f"{half['name']}({half['arguments']})"
        return words(half["output"])
    return " ".join(string(part.get("text")) for part in objects(item.get("summary")))


def _chat_content(content: Any) -> Any:
    return content if isinstance(content, str) else [_chat_part(part) for part in objects(content)]


def _chat_part(part: Item) -> Item:
    if part.get("type") in ("input_text", "output_text"):
        return {"type": "text", "text": string(part.get("text"))}
    match modality_of(part):
        case "image":
            detail = {"detail": part["detail"]} if "detail" in part else {}
            return {"type": "image_url", "image_url": {"url": part.get("image_url"), **detail}}
        case "video":
            return {"type": "video_url", "video_url": {"url": part.get("video_url")}}
        case "file":
            return {"type": "file", "file": {name: value for name, value in part.items() if name != "type"}}
        case _:
            return part


def _add_half(messages: list[Item], item: Item) -> None:
    """Chat holds a turn's calls in one assistant message, and an output in one of its own."""
    if item["type"] == "function_call_output":
        output = item["output"]
        content = _chat_content(output) if media_of(output) else words(output)
        messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
        return
    function = {"name": item["name"], "arguments": item["arguments"]}
    call = {"id": item["call_id"], "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _markdown_details(kept: StoredItem) -> list[str]:
    """Return the lines below the heading of a tool's call or output."""
    if kept.kind.pair is None:
        return []
    (half,) = kept.kind.carried(kept.item)
    if half["type"] == "function_call":
        return [_fenced(half["arguments"], "json")]
    output = half["output"]
    return [_fenced(output) if isinstance(output, str) else _markdown_content(output)]


def _markdown_content(content: Any) -> str:
    if isinstance(content, str):
        return content
    shown: list[str] = []
    for part in objects(content):
        if kind := modality_of(part):
            url = words(source_of(part)[1])
            link = f"![image]({url})" if kind == "image" else f"[{kind}]({url})"
            shown.append(f"*({NAMES[kind]}, sent inline)*" if is_data(part) else link)
        else:
            shown.append(string(part.get("text")) or string(part.get("refusal")))
    return "\n\n".join(shown)


def _fenced(text: str, language: str = "") -> str:
    fence = max(["``", *_FENCES.findall(text)], key=len) + "`"
    return f"{fence}{language}\n{text}\n{fence}"
