"""The output items of a stream, put together from its events: for one that broke off, or whose last event has none."""

from collections.abc import Sequence
from typing import Any

import orjson

from app.items.shapes import Item, fields_of
from app.provider.events import data_of


def output_of(frames: Sequence[bytes]) -> list[Item]:
    """The items so far, in the order in which they began; what is not done with the text that it has.

    Args:
        frames: the stream's events, as they were sent on.
    """
    items: dict[str, _Item] = {}
    for sent in frames:
        event = _read(sent)
        match event.get("type"):
            case "response.output_item.added":
                _find(items, event).begin(event.get("item"))
            case "response.output_item.done":
                _find(items, event).done = event.get("item")
            case "response.output_text.delta":
                _find(items, event).add_delta(event)
    return [said for item in items.values() if (said := item.said()) is not None]


class _Item:
    def __init__(self) -> None:
        self.begun: Item = {"type": "message", "role": "assistant"}
        self.done: Any = None
        self._texts: dict[int, list[str]] = {}

    def begin(self, item: Any) -> None:
        if isinstance(item, dict):
            self.begun = item

    def add_delta(self, event: Item) -> None:
        place, delta = event.get("content_index"), event.get("delta")
        if isinstance(delta, str):
            self._texts.setdefault(place if isinstance(place, int) else 0, []).append(delta)

    def said(self) -> Any:
        """The item as far as it has come; None if nothing of it can be kept."""
        if self.done is not None:
            return self.done
        texts = ["".join(self._texts[place]) for place in sorted(self._texts)]
        parts = [{"type": "output_text", "text": text, "annotations": []} for text in texts if text]
        return {**self.begun, "status": "incomplete", "content": parts} if parts else None


def _find(items: dict[str, _Item], event: Item) -> _Item:
    """The item that an event is about: by its id, for its place in the output may change on the way (captures)."""
    item = event.get("item")
    id_ = item.get("id") if isinstance(item, dict) else event.get("item_id")
    key = id_ if isinstance(id_, str) and id_ else f"at {event.get('output_index')}"
    return items.setdefault(key, _Item())


def _read(sent: bytes) -> Item:
    return fields_of(orjson.loads(data_of(sent)))


def opening_of(frames: Sequence[bytes]) -> Item:
    """The response as the stream's first event showed it; empty without one."""
    return fields_of(_read(frames[0]).get("response")) if frames else {}
