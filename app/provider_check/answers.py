"""Answers of the provider, parsed with the functions of the service."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.items.shapes import Item, fields_of, objects, text_of
from app.provider import failure
from app.provider.events import SSEDecoder
from app.provider.failure import Failure
from app.provider.reading import NotJSON, read_object

LONGEST_SEEN = 100
"""Limit on the characters of an answer in the table."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    content_type: str
    content: bytes
    value: Item
    """The body; for a stream, the response in its last event, or else that event."""
    events: Sequence[Item] = ()
    failure: Failure | None = None

    @property
    def output(self) -> list[Item]:
        return objects(self.value.get("output"))

    @property
    def text(self) -> str:
        return "".join(text_of(item) for item in self.output if item.get("type") == "message")

    def first(self, type_: str) -> Item:
        """Return the first output item of a type; an empty one if there is none."""
        return next((item for item in self.output if item.get("type") == type_), {})

    def counted(self, *path: str) -> Any:
        """Return a field of the usage."""
        found: Any = self.value.get("usage")
        for name in path:
            found = fields_of(found).get(name)
        return found

    def __str__(self) -> str:
        if self.failure is not None:
            summary = f"{self.failure.kind}: {self.failure.message}"
        else:
            types = ", ".join(str(item.get("type")) for item in self.output)
            summary = " ".join(part for part in (str(self.value.get("status", "")), types, self.text) if part)
        return " ".join(f"{self.status} {summary}".split())[:LONGEST_SEEN]


def read(status: int, content_type: str, content: bytes, retry_after: str | None = None) -> Answer:
    """Return an answer, with its failure if it is one."""
    if content_type.startswith("text/event-stream") and status < 300:
        return _read_stream(status, content_type, content)
    try:
        value, _ = read_object(content)
    except NotJSON:
        value = {}
    found: Failure | None = None
    if status >= 300:
        found = failure.from_http(status, content, retry_after)
    elif value.get("status") == "failed":
        found = failure.from_response(value)
    elif not value:
        found = failure.broken("it is not a JSON object")
    elif "output" not in value and failure.is_error(value):
        found = failure.from_error(value)
    return Answer(status, content_type, content, value, failure=found)


def _read_stream(status: int, content_type: str, content: bytes) -> Answer:
    decoder = SSEDecoder()
    try:
        events = [read_object(event.data)[0] for event in decoder.feed(content) + decoder.end()]
    except NotJSON:
        return Answer(status, content_type, content, {}, failure=failure.broken("an event is not a JSON object"))
    last = events[-1] if events else {}
    value = fields_of(last.get("response")) or last
    found: Failure | None = None
    if last.get("type") == "response.failed":
        found = failure.from_response(value)
    elif last.get("type") == "error" or failure.is_error(last):
        found = failure.from_error(last)
    elif last.get("type") not in ("response.completed", "response.incomplete"):
        found = failure.broken("the stream ended before its last event")
    return Answer(status, content_type, content, value, events, found)
