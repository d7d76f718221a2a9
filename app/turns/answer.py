"""What came back of a turn: read from a whole response, or gathered from a stream as it passes."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from app.provider import failure
from app.provider.client import ProviderError
from app.provider.events import RawEvent

Item = dict[str, Any]

TERMINAL = (b"response.completed", b"response.incomplete", b"response.failed")
SHOWS_RESPONSE = (b"response.created", b"response.queued", b"response.in_progress")
INTERRUPTED = "interrupted"


@dataclass(slots=True)
class Answer:
    """The provider's last word on a turn."""

    response: dict[str, Any]
    output: list[Item]

    @property
    def status(self) -> str:
        return str(self.response["status"])


def from_body(body: bytes) -> Answer:
    """The answer of a plain call.

    Raises:
        ProviderError: it is no Response, or one that failed.
    """
    try:
        response = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProviderError(failure.broken("it is not JSON")) from error
    return _checked(response)


def from_terminal(data: bytes) -> Answer:
    """The answer that a stream's last event holds.

    Raises:
        ProviderError: it is no Response, or one that failed.
    """
    return _checked(payload(data).get("response"))


def payload(data: bytes) -> dict[str, Any]:
    try:
        read = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise ProviderError(failure.broken("an event is not JSON")) from error
    if not isinstance(read, dict):
        raise ProviderError(failure.broken("an event is not an object"))
    return read


def _checked(response: Any) -> Answer:
    if not isinstance(response, dict) or not isinstance(response.get("id"), str):
        raise ProviderError(failure.broken("it is not a Response"))
    if response.get("status") == "failed":
        raise ProviderError(failure.from_response(response))
    if response.get("status") not in ("completed", "incomplete"):
        raise ProviderError(failure.broken(f"its status is {response.get('status')!r}"))
    if response["status"] == "incomplete" and not isinstance(response.get("incomplete_details"), dict):
        response["incomplete_details"] = {"reason": "unknown"}
    output = response.get("output")
    return Answer(response, output if isinstance(output, list) else [])


@dataclass(slots=True)
class Heard:
    """What a stream has said so far, kept as bytes: it is parsed only if the stream breaks off."""

    done: list[bytes] = field(default_factory=list)
    open: list[RawEvent] = field(default_factory=list)
    """The events of items that are not done."""
    opening: dict[str, Any] = field(default_factory=dict)
    """The response as `response.created` showed it."""

    def hear(self, event: RawEvent) -> None:
        if event.type == b"response.output_item.done":
            self.done.append(event.data)
            self.open.clear()
        else:
            self.open.append(event)

    def output(self) -> list[Item]:
        """The items so far, the last one perhaps cut in the middle of its text. What cannot be read is left out."""
        items = [item for data in self.done if isinstance(item := _read(data).get("item"), dict)]
        deltas = [_read(e.data).get("delta") for e in self.open if e.type == b"response.output_text.delta"]
        text = "".join(delta for delta in deltas if isinstance(delta, str))
        if text:
            part = {"type": "output_text", "text": text, "annotations": []}
            added = next((_read(e.data) for e in self.open if e.type == b"response.output_item.added"), {})
            begun = added.get("item") or {"type": "message", "role": "assistant"}
            items.append({**begun, "status": "incomplete", "content": [part]})
        return items


def _read(data: bytes) -> dict[str, Any]:
    """An event that was passed on unread, and need not be JSON."""
    try:
        return payload(data)
    except ProviderError:
        return {}
