"""The provider's last word on a turn: a whole response, or a stream's last event."""

from dataclasses import dataclass
from typing import Any, Literal
from uuid import uuid4

from app.items.pairs import asked
from app.items.provider_door import usable_id
from app.items.shapes import text_of
from app.items.stored import StoredItem, stored_output
from app.items.token_counts import NO_USAGE, Usage, usage_of
from app.provider import failure
from app.provider.client import ProviderError
from app.provider.reading import NotJSON, read_object

SHOWS_RESPONSE = ("response.created", "response.queued", "response.in_progress")


@dataclass(slots=True)
class Answer:
    response: dict[str, Any]
    """Response as it came, except for an id that cannot be used as a key."""
    output: list[StoredItem]
    chainable: bool = True
    """True if the provider knows its id."""
    usage: Usage = NO_USAGE
    """The provider's counts for this answer alone, whatever is added to those in `response`."""

    @property
    def text(self) -> str:
        """The text of its messages."""
        return "".join(text_of(item.data) for item in self.output if item.type == "message")

    @property
    def open_calls(self) -> list[str]:
        """The tool calls that wait for an output of the client's."""
        if all(item.type == "message" for item in self.output):
            return []
        return asked([item.item for item in self.output])

    def end_by_limit(self, limit: int | None) -> None:
        """Make the answer incomplete if thinking has used up its limit of tokens.

        Such an answer has neither text nor a call. Its status can be `completed`, and its tokens can be uncounted
        (third parties' measurements of qwen4-max).
        """
        if limit is None or self.status != "completed" or 0 < self.usage.output < limit or self.text:
            return
        if all(item.type in ("message", "reasoning") for item in self.output):
            self.response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}

    @property
    def status(self) -> Literal["completed", "incomplete"]:
        return "incomplete" if self.response.get("status") == "incomplete" else "completed"


def from_body(body: bytes) -> Answer:
    """The answer of a plain call.

    Raises:
        ProviderError: it is no Response, or one that failed.
    """
    try:
        response, repaired = read_object(body)
    except NotJSON as error:
        raise ProviderError(failure.broken("it is not JSON")) from error
    return from_response(response, repaired=repaired)


def from_response(response: Any, *, repaired: bool = False, streamed: list[dict[str, Any]] | None = None) -> Answer:
    """The answer that a Response is.

    Args:
        repaired: something of it could not be kept as it came; this is said in it.
        streamed: the items that were streamed, for a Response that holds none of them.

    Raises:
        ProviderError: it is no Response, or one that failed.
    """
    if not isinstance(response, dict):
        raise ProviderError(failure.broken("it is not a Response"))
    output = response.get("output")
    status = response.get("status")
    if status == "failed" or (status is None and output is None and failure.is_error(response)):
        raise ProviderError(failure.from_response(response) if status else failure.from_error(response))
    if status not in ("completed", "incomplete") and (status in ("queued", "in_progress") or not output):
        raise ProviderError(failure.broken(f"its status is {str(status)[:80]!r}"))
    if repaired:
        response["repaired"] = True
    if status == "incomplete" and not isinstance(response.get("incomplete_details"), dict):
        response["incomplete_details"] = {"reason": "unknown"}
    id_ = usable_id(response.get("id"))
    response["id"] = id_ or f"unusable_{uuid4().hex}"
    kept = stored_output(output)
    if streamed and not kept:
        kept = stored_output(streamed)
    return Answer(response, kept, chainable=id_ is not None, usage=usage_of(response.get("usage")))
