"""A turn as clients see it: as a `response`, and as a `turn`, which is one with a little more.

A response carries every field that the Open Responses specification requires, with the values that were
used; what the provider adds stays as extra fields.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, NotRequired
from uuid import UUID

from typing_extensions import TypedDict

from app.chain.context import Context, ContextObject
from app.chain.continuation import ContinuationReason
from app.db import ids
from app.http.describing import ItemObject
from app.http.errors import APIError
from app.items.shapes import Item, fields_of, text_of
from app.items.stored import stored_item
from app.items.unreadable import marked
from app.provider.account import account as account_of
from app.turns.closing import Closing
from app.turns.rows import ItemRow, TurnRow
from app.turns.schemas import OF_CONVERSATION
from app.turns.store import Opened

Status = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]


class _Response(TypedDict):
    """A response as OpenAI's clients know it. What the provider adds comes as further fields."""

    id: str
    created_at: int
    status: Status
    model: str
    metadata: dict[str, str]
    previous_response_id: str | None
    conversation: dict[str, str]
    output: list[ItemObject]
    usage: dict[str, Any] | None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    background: bool
    completed_at: int | None
    frequency_penalty: float
    instructions: Any
    max_output_tokens: int | None
    max_tool_calls: int | None
    parallel_tool_calls: bool
    presence_penalty: float
    prompt_cache_key: str | None
    reasoning: dict[str, Any] | None
    safety_identifier: str | None
    service_tier: str
    store: bool
    temperature: float
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    unreadable: NotRequired[list[str]]
    """The stored parts that cannot be opened. Left out where there are none."""


class ResponseObject(_Response):
    object: Literal["response"]


class CostObject(TypedDict):
    """The cost of a turn, by the prices of its day."""

    currency: str
    """XXX if the price names none."""
    amount: float
    as_of: str | None
    """The day of the price."""


class TurnObject(_Response):
    """The same on the native surface."""

    object: Literal["turn"]
    thread_id: str
    parent_id: str | None
    continuation: Literal["new", "chained", "rebuilt"] | None
    """The way it reached the model."""
    continuation_reason: ContinuationReason | None
    """The reason for it. None for a turn that has not reached the model, or of a release that stored no reason."""
    output_text: str
    ignored: list[str]
    """Fields of the request that have had no effect."""
    context: ContextObject | None
    account: str | None
    """The provider account that was asked last, as calls and the audit trail name it."""
    first_word_ms: int | None
    """Milliseconds until the first word of a stream."""
    cost: CostObject | None
    """None if there was no cost, or no known price."""
    input: NotRequired[list[ItemObject]]
    """Present when one turn is read; left out elsewhere."""
    sequence_number: NotRequired[int | None]
    """Present when one running turn is read: the number of the last event that `output` holds. null: not known."""


DEFAULTS: dict[str, Any] = {
    "background": False,
    "completed_at": None,
    "error": None,
    "frequency_penalty": 0.0,
    "incomplete_details": None,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "output": [],
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "prompt_cache_key": None,
    "reasoning": None,
    "safety_identifier": None,
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "auto",
    "usage": None,
}
"""The value of a field that neither the client nor the provider has given."""

NEVER_NULL = [(field, default) for field, default in DEFAULTS.items() if default is not None]


def response_object(turn: Opened, provider: dict[str, Any], ended: Closing | None = None) -> dict[str, Any]:
    """The provider's Response under our ids, with what we keep and it does not.

    Args:
        ended: what the turn was closed with. Its fields stand for the provider's.
    """
    request = turn.request
    return _response(
        provider,
        {} if ended is None else ended.shown,
        request.params,
        turn.id,
        turn.thread_id,
        request.previous_id or turn.parent_id,
        turn.created_at,
        request.metadata,
        request.model,
    )


def with_status(response: dict[str, Any], error: APIError) -> dict[str, Any]:
    """Return a failed response with the HTTP status in its `error`: the status of a stream tells of no failure."""
    return {**response, "error": {**(response["error"] or {}), "status": error.status}}


def _response(
    provider: dict[str, Any],
    ended: dict[str, Any],
    params: dict[str, Any],
    id_: UUID,
    thread_id: UUID,
    parent_id: UUID | None,
    created_at: datetime,
    metadata: dict[str, str],
    model: str,
) -> dict[str, Any]:
    shown = {**DEFAULTS, **provider, **ended}
    for field, default in NEVER_NULL:
        if shown[field] is None:
            shown[field] = default
    shown |= {field: used for field, used in params.items() if used is not None and field in DEFAULTS}
    # The provider's may be what a schema was put into.
    shown["instructions"] = params.get("instructions")
    shown["id"] = ids.response_id(id_)
    shown["object"] = "response"
    shown["created_at"] = int(created_at.timestamp())
    shown["metadata"] = metadata
    # As OpenAI has it: who names a conversation is told of no previous response.
    previous = None if OF_CONVERSATION in params else parent_id
    shown["previous_response_id"] = None if previous is None else ids.response_id(previous)
    shown["conversation"] = {"id": ids.conversation_id(thread_id)}
    shown["model"] = provider.get("model") or model
    if not isinstance(shown["output"], list):
        shown["output"] = []
    if isinstance(shown["usage"], dict):
        shown["usage"] = _usage(shown["usage"])
    if isinstance(shown["tools"], list):
        shown["tools"] = [_tool(tool) for tool in shown["tools"]]
    if isinstance(shown["reasoning"], dict):
        shown["reasoning"] = {"effort": None, "summary": None, **shown["reasoning"]}
    if isinstance(shown["text"], dict):
        shown["text"] = {**shown["text"], "format": _format(shown["text"].get("format"))}
    return shown


def _tool(tool: Any) -> Any:
    """A function tool with what it left out. The provider holds no model to a schema, unless asked to."""
    if not isinstance(tool, dict) or tool.get("type") != "function":
        return tool
    return {"description": None, "parameters": None, "strict": False, **tool}


def _format(asked: Any) -> Any:
    if not isinstance(asked, dict):
        return {"type": "text"}
    return {"description": None, "strict": False, **asked} if asked.get("type") == "json_schema" else asked


def _usage(provider: dict[str, Any]) -> dict[str, Any]:
    """The provider's usage, with the counts that clients require and it leaves out."""
    return {
        **provider,
        "input_tokens_details": {
            "cached_tokens": 0,
            "cache_write_tokens": 0,
            **fields_of(provider.get("input_tokens_details")),
        },
        "output_tokens_details": {"reasoning_tokens": 0, **fields_of(provider.get("output_tokens_details"))},
    }


def turn_object(
    response: dict[str, Any],
    turn: Opened,
    continuation: str | None,
    continuation_reason: str | None,
    context: Context | None,
    account: str | None,
    first_word_ms: int | None,
    cost: dict[str, Any] | None,
) -> dict[str, Any]:
    """The same row on the native surface.

    Args:
        context: None for a turn that has not ended; so is `cost`, which is the stored one.
    """
    return {
        **response,
        "id": ids.turn_id(turn.id),
        "object": "turn",
        "thread_id": ids.thread_id(turn.thread_id),
        "parent_id": ids.optional_turn_id(turn.parent_id),
        "continuation": continuation,
        "continuation_reason": continuation_reason,
        "output_text": output_text(response["output"]),
        "ignored": turn.request.ignored,
        "context": None if context is None else context.shown(),
        "account": account,
        "first_word_ms": first_word_ms,
        "cost": _cost(cost),
    }


def _cost(stored: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if stored is None else {name: stored[name] for name in ("currency", "amount", "as_of")}


def output_text(output: Sequence[Item]) -> str:
    return "".join([text_of(item) for item in output if isinstance(item, dict) and item.get("type") == "message"])


def stored_response(row: TurnRow, items: Sequence[ItemRow]) -> dict[str, Any]:
    """A response read back from Postgres."""
    shown = _response(
        row["response"] or {},
        {"usage": row["usage"]},
        row["params"],
        row["id"],
        row["thread_id"],
        row["parent_id"],
        row["created_at"],
        row["metadata"],
        row["model"],
    )
    shown["status"] = row["status"]
    if row["completed_at"] is None or not isinstance(shown["completed_at"], int):
        shown["completed_at"] = int(row["completed_at"].timestamp()) if row["completed_at"] else None
    shown["output"] = [stored_item(item).shown for item in items if item["origin"] == "output"]
    shown["error"] = row["error"]
    shown["incomplete_details"] = row["incomplete_details"]
    shown |= marked(row)
    return shown


def stored_turn(row: TurnRow, items: Sequence[ItemRow]) -> dict[str, Any]:
    """A turn read back from Postgres, with its input."""
    shown = stored_response(row, items)
    return {
        **shown,
        "id": ids.turn_id(row["id"]),
        "object": "turn",
        "thread_id": ids.thread_id(row["thread_id"]),
        "parent_id": ids.optional_turn_id(row["parent_id"]),
        "continuation": row["continuation"],
        "continuation_reason": row["continuation_reason"],
        "ignored": row["ignored"],
        "context": None if row["context"] is None else Context.from_json(row["context"]).shown(),
        "account": None if row["binding"] is None else account_of(row["binding"]),
        "first_word_ms": row["first_word_ms"],
        "cost": _cost(row["cost"]),
        "input": [stored_item(item).shown for item in items if item["origin"] == "input"],
        "output_text": output_text(shown["output"]),
    }
