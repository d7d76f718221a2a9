"""A conversation read back: as Responses items, as Chat messages, or as Markdown."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import orjson

from app.db import ids
from app.items.sendable import text_of
from app.turns.show import item_object

Item = dict[str, Any]

SPEAKERS = {"system": "System", "developer": "Developer", "user": "User", "assistant": "Assistant"}


def as_responses(rows: Sequence[asyncpg.Record]) -> list[Item]:
    """Every item, with its id and the turn that it belongs to."""
    return [{**item_object(row["item_id"], row["data"]), "turn_id": ids.turn_id(row["turn_id"])} for row in rows]


def as_chat(rows: Sequence[asyncpg.Record]) -> list[Item]:
    """The `messages` of a Chat Completions request. Items that Chat has no form for are left out."""
    messages: list[Item] = []
    for row in rows:
        item: Item = row["data"]
        match item.get("type", "message"):
            case "message" if item["role"] == "assistant":
                messages.append({"role": "assistant", "content": text_of(item)})
            case "message":
                messages.append({"role": item["role"], "content": _chat_content(item["content"])})
            case "function_call":
                _add_call(messages, item)
            case "function_call_output":
                output = item["output"]
                content = output if isinstance(output, str) else orjson.dumps(output).decode()
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})
    return messages


def as_markdown(title: str | None, rows: Sequence[asyncpg.Record]) -> str:
    """A page to read."""
    blocks = [f"# {title}"] if title else []
    for row in rows:
        item: Item = row["data"]
        match item.get("type", "message"):
            case "message":
                blocks.append(f"**{SPEAKERS.get(item['role'], item['role'])}**\n\n{_markdown_content(item)}")
            case "function_call":
                blocks.append(f"**Tool call** `{item['name']}`\n\n{_fenced(item['arguments'], 'json')}")
            case "function_call_output":
                output = item["output"]
                text = output if isinstance(output, str) else orjson.dumps(output).decode()
                blocks.append(f"**Tool output**\n\n{_fenced(text)}")
            case "reasoning":
                continue
            case other:
                blocks.append(f"*{other}*")
    return "\n\n".join(blocks) + "\n"


def _chat_content(content: Any) -> Any:
    return content if isinstance(content, str) else [_chat_part(part) for part in content]


def _chat_part(part: Item) -> Item:
    match part.get("type"):
        case "input_text":
            return {"type": "text", "text": part["text"]}
        case "input_image":
            detail = {"detail": part["detail"]} if "detail" in part else {}
            return {"type": "image_url", "image_url": {"url": part.get("image_url"), **detail}}
        case _:
            return part


def _add_call(messages: list[Item], item: Item) -> None:
    """Chat holds a turn's calls in one assistant message."""
    call = {
        "id": item["call_id"],
        "type": "function",
        "function": {"name": item["name"], "arguments": item["arguments"]},
    }
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _markdown_content(item: Item) -> str:
    content = item.get("content")
    if isinstance(content, str):
        return content
    shown: list[str] = []
    for part in content if isinstance(content, list) else []:
        if part.get("type") in ("input_image", "image_url"):
            url = str(part.get("image_url"))
            shown.append("*(an image, sent inline)*" if url.startswith("data:") else f"![image]({url})")
        else:
            shown.append(str(part.get("text") or part.get("refusal") or ""))
    return "\n\n".join(shown)


def _fenced(text: str, language: str = "") -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
