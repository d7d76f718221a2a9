"""Reasoning as who has asked for `reasoning.summary` reads it: OpenAI's events, made of the provider's own."""

from collections.abc import Iterator
from typing import Any

from app.items.shapes import string

DELTA = "response.reasoning_text.delta"
DONE = "response.reasoning_text.done"
THOUGHTS = (DELTA, DONE)

PART = "response.reasoning_summary_part"
TEXT = "response.reasoning_summary_text"


def summary_events(type_: str, event: dict[str, Any], begun: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events that stand for one of the provider's: of each item, its one part is added, grows, and is done.

    Args:
        begun: the ids of the items of which something has been told; this one is added to them.
    """
    item_id = string(event.get("item_id"))
    at = {"item_id": item_id, "output_index": event.get("output_index", 0), "summary_index": 0}
    if item_id not in begun:
        begun.add(item_id)
        yield f"{PART}.added", {**at, "part": {"type": "summary_text", "text": ""}}
    if type_ == DELTA:
        yield f"{TEXT}.delta", {**at, "delta": string(event.get("delta"))}
        return
    text = string(event.get("text"))
    yield f"{TEXT}.done", {**at, "text": text}
    yield f"{PART}.done", {**at, "part": {"type": "summary_text", "text": text}}
