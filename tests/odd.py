"""An odd provider: answers word for word, through the emulator."""

import json
from typing import Any

import orjson

from tests.service import Emulator

RESPONSE = {
    "id": "resp_0a000000-0000-4000-8000-000000000001",
    "object": "response",
    "created_at": 1790500000,
    "model": "qwen3.5-plus",
    "status": "completed",
    "output": [],
    "usage": {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
}


def message(text: str, id_: str = "msg_1") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": id_, "role": "assistant", "status": "completed", "content": [part]}


def plain(emulator: Emulator, body: Any, **how: Any) -> None:
    """The next plain call is answered with this: JSON, or a text as it is."""
    text = body if isinstance(body, str) else json.dumps(body)
    emulator.fault("answer", stream=False, body=text, **how)


def stream(emulator: Emulator, *events: Any, end: str = "\n", **how: Any) -> None:
    """The next streamed call is answered with these events."""
    chunks = [event if isinstance(event, str) else written(event, end) for event in events]
    emulator.fault("answer", stream=True, chunks=chunks, **how)


def written(event: dict[str, Any], end: str = "\n") -> str:
    return f"event: {event['type']}{end}data: {orjson.dumps(event).decode()}{end}{end}"


def created(number: int = 0) -> dict[str, Any]:
    return {"type": "response.created", "sequence_number": number, "response": {**RESPONSE, "status": "in_progress"}}


def spoken(text: str, first: int = 1, *, index: int = 0, id_: str = "msg_1") -> list[dict[str, Any]]:
    """The events of a message, one delta, without its end."""
    where = {"output_index": index, "item_id": id_, "content_index": 0}
    item = {"type": "message", "id": id_, "role": "assistant", "status": "in_progress", "content": []}
    return [
        {"type": "response.output_item.added", "sequence_number": first, "output_index": index, "item": item},
        {"type": "response.output_text.delta", "sequence_number": first + 1, "delta": text, "logprobs": [], **where},
    ]


def done(text: str, number: int, *, index: int = 0, id_: str = "msg_1") -> dict[str, Any]:
    item = message(text, id_)
    return {"type": "response.output_item.done", "sequence_number": number, "output_index": index, "item": item}


def completed(number: int, **fields: Any) -> dict[str, Any]:
    return {"type": "response.completed", "sequence_number": number, "response": {**RESPONSE, **fields}}
