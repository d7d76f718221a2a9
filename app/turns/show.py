"""A turn as clients see it: as a Responses API `response`, and as a `turn`, which is one with a little more."""

from collections.abc import Sequence
from typing import Any

import asyncpg

from app.chain.items import text_of
from app.db import ids
from app.threads.schemas import optional_turn_id
from app.turns.store import Opened

Item = dict[str, Any]

ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "prompt", "prompt_cache_key", "reasoning",
    "safety_identifier", "service_tier", "temperature", "text", "top_logprobs", "top_p", "truncation", "user",
)  # fmt: skip


def response_object(turn: Opened, provider: dict[str, Any]) -> dict[str, Any]:
    """The provider's Response under our ids, with what we keep and it does not."""
    request = turn.request
    shown = {
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "temperature": None,
        "top_p": None,
        "output": [],
        **provider,
        "id": ids.response_id(turn.id),
        "object": "response",
        "metadata": request.metadata,
        "previous_response_id": None if turn.parent_id is None else ids.response_id(turn.parent_id),
        "conversation": {"id": f"conv_{turn.thread_id.hex}"},
        "created_at": int(turn.created_at.timestamp()),
        "model": provider.get("model") or request.model,
    }
    for field in ECHOED:
        if shown.get(field) is None and request.params.get(field) is not None:
            shown[field] = request.params[field]
    return shown


def turn_object(response: dict[str, Any], turn: Opened, continuation: str | None) -> dict[str, Any]:
    """The same row on the native surface."""
    return {
        **response,
        "id": ids.turn_id(turn.id),
        "object": "turn",
        "thread_id": ids.thread_id(turn.thread_id),
        "parent_id": optional_turn_id(turn.parent_id),
        "continuation": continuation,
        "output_text": output_text(response["output"]),
        "ignored": turn.request.ignored,
    }


def output_text(output: Sequence[Item]) -> str:
    return "".join(text_of(item) for item in output if item.get("type") == "message")


def stored_turn(row: asyncpg.Record, items: Sequence[asyncpg.Record]) -> dict[str, Any]:
    """A turn read back from Postgres, with its input."""
    response: dict[str, Any] = row["response"] or {}
    params: dict[str, Any] = row["params"]
    shown = {
        **{field: params[field] for field in ECHOED if field in params},
        "error": None,
        "incomplete_details": None,
        "parallel_tool_calls": True,
        "tool_choice": params.get("tool_choice", "auto"),
        "tools": params.get("tools") or [],
        **response,
        "id": ids.turn_id(row["id"]),
        "object": "turn",
        "thread_id": ids.thread_id(row["thread_id"]),
        "parent_id": optional_turn_id(row["parent_id"]),
        "previous_response_id": None if row["parent_id"] is None else ids.response_id(row["parent_id"]),
        "conversation": {"id": f"conv_{row['thread_id'].hex}"},
        "status": row["status"],
        "continuation": row["continuation"],
        "model": response.get("model") or row["model"],
        "metadata": row["metadata"],
        "ignored": row["ignored"],
        "created_at": int(row["created_at"].timestamp()),
        "completed_at": int(row["completed_at"].timestamp()) if row["completed_at"] else None,
        "input": [item_object(item["item_id"], item["data"]) for item in items if item["origin"] == "input"],
        "output": [item["data"] for item in items if item["origin"] == "output"],
        "usage": row["usage"],
    }
    if row["error"]:
        shown["error"] = row["error"]
    if row["incomplete_details"]:
        shown["incomplete_details"] = row["incomplete_details"]
    shown["output_text"] = output_text(shown["output"])
    return shown


def item_object(item_id: str, data: Item) -> Item:
    """A stored item with its id, whether the client gave one or not."""
    return {"id": item_id, **data}
