"""The events of a response that has ended, made again from what is kept of it."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from app.provider.events import encode

Item = dict[str, Any]


async def ended_frames(response: dict[str, Any], start: int) -> AsyncIterator[bytes]:
    """The stream of an ended response, each text in one delta, from event number `start`."""
    for number, (kind, fields) in enumerate(_events(response)):
        if number >= start:
            yield encode(kind, fields, number).frame(number)


def _events(response: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    opening = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None, "error": None}
    yield "response.created", {"response": opening}
    yield "response.in_progress", {"response": opening}
    for index, item in enumerate(response["output"]):
        yield from _item_events(index, item)
    status = response["status"]
    if status != "in_progress":
        last = status if status in ("completed", "failed") else "incomplete"
        yield f"response.{last}", {"response": response}


def _item_events(index: int, item: Item) -> Iterator[tuple[str, dict[str, Any]]]:
    begun = {**item, "status": "in_progress"} if "status" in item else item
    if item.get("type") == "message":
        begun = {**begun, "content": []}
    yield "response.output_item.added", {"output_index": index, "item": begun}
    for place, part in enumerate(item.get("content") or [] if item.get("type") == "message" else []):
        at = {"item_id": item.get("id", ""), "output_index": index, "content_index": place}
        if part.get("type") != "output_text":
            continue
        yield "response.content_part.added", {**at, "part": {**part, "text": ""}}
        yield "response.output_text.delta", {**at, "delta": part["text"], "logprobs": []}
        yield "response.output_text.done", {**at, "text": part["text"], "logprobs": []}
        yield "response.content_part.done", {**at, "part": part}
    yield "response.output_item.done", {"output_index": index, "item": item}
