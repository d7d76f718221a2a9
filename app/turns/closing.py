"""The end of a turn: the row that is stored, and the event that ends its stream."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal

from app.http.errors import APIError, Conflict, DatabaseUnavailable
from app.items.stored import StoredItem, stored_output
from app.process.values import value
from app.provider.events import own_frame
from app.turns.pieces import Body, Piece
from app.turns.streamed import output_of

Ended = Literal["completed", "incomplete", "failed", "cancelled"]
Status = Literal["in_progress"] | Ended
"""The status of a turn's row."""

INTERRUPTED = "interrupted"
TOO_LARGE = "answer_too_large"

TERMINAL = ("response.completed", "response.incomplete", "response.failed")
"""The events that end a stream."""

OF_THEIR_OWN = frozenset(("status", "output", "usage", "error", "incomplete_details"))
"""The fields of a Response that are kept beside it."""


@value
class CallRecord:
    continuation: str
    account: str
    """As people are shown it."""
    url: str
    body: Body
    dropped_items: int
    status: int | None
    response_id: str | None
    error: dict[str, Any] | None
    started_at: datetime
    finished_at: datetime
    continuation_reason: str | None = None


@value
class Closing:
    """The values that a turn is closed with."""

    status: Ended
    continuation: str | None = None
    calls: Sequence[CallRecord] = ()
    output: Sequence[StoredItem] = ()
    response: dict[str, Any] | None = None
    usage: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    incomplete_details: dict[str, Any] | None = None
    binding: str | None = None
    response_id: str | None = None
    response_created_at: datetime | None = None
    response_expires_at: datetime | None = None
    error_status: int | None = None
    """The HTTP status that the client is answered with; None where it has been answered before."""
    pace: dict[str, Any] | None = None
    pieces: Sequence[Piece] = ()
    """The pieces that the calls have sent for the first time in their thread, and refer to."""
    context: dict[str, Any] | None = None
    """The tokens that the model has read, and the items left out: see `chain/context.py`."""
    replaced_model: str | None = None
    """The requested name and the model that it stood for; None if the model was named itself."""
    cost: dict[str, Any] | None = None
    """The cost of its calls: see `limits/spent.py`."""
    continuation_reason: str | None = None

    def with_own_ids(self) -> "Closing":
        """The same, the output's items under ids of ours."""
        return replace(self, output=stored_output([item.data for item in self.output], own_ids=True))

    @property
    def shown(self) -> dict[str, Any]:
        """The fields of the turn's Response that this decides, whatever the provider's has."""
        return {
            "status": self.status,
            "output": [item.shown for item in self.output],
            "error": self.error,
            "incomplete_details": self.incomplete_details,
        }


NEVER_ASKED = Closing(
    "failed",
    error={
        "code": DatabaseUnavailable.code,
        "message": "Postgres did not answer when this turn opened. Send it again.",
    },
    error_status=DatabaseUnavailable.status,
)


def response_document(response: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a Response that its document keeps: those without a column."""
    return {name: value for name, value in response.items() if name not in OF_THEIR_OWN}


def broken_off(
    frames: Sequence[bytes],
    opening: dict[str, Any],
    error: dict[str, Any],
    *,
    reason: str | None,
    cancelled: bool,
    error_status: int | None,
) -> Closing:
    """Return the closing of a turn that has no answer, or only the beginning of one.

    The text is kept in any case. After a failed turn, the thread continues from the turn before it.

    Args:
        frames: the events that its stream has had.
        opening: the Response as they showed it first.
        error: why it has no answer.
        reason: the reason of an incomplete answer; None if the text is no answer.
        cancelled: whether somebody has asked for its end.
        error_status: the HTTP status that its client is answered with, if it fails.
    """
    ended = Closing("cancelled", output=stored_output(output_of(frames)), response=response_document(opening))
    if cancelled:
        return ended
    if reason == TOO_LARGE or (reason is not None and ended.output):
        return replace(ended, status="incomplete", incomplete_details={"reason": reason})
    return replace(ended, status="failed", error=error, error_status=error_status)


class TurnGone(Conflict):
    """A turn that was running here has no end here: somebody else has closed or deleted it."""


def closed_elsewhere() -> TurnGone:
    """Why a turn that was running here has no end here: another worker took this one for dead."""
    return TurnGone("This turn was closed by another worker while it was running. Read it to see.", code="turn_closed")


def deleted() -> TurnGone:
    """Why a turn's stream, or its request, ends without its end."""
    return TurnGone("This turn was deleted while it was running. Nothing of it is kept.", code="turn_deleted")


def gone_frame(why: APIError, number: int) -> bytes:
    """Return the event that ends the stream of a turn that has no end, with the HTTP status of its error."""
    said = {"code": why.code, "message": why.message, "param": why.param, "status": why.status}
    return own_frame("error", said, number)


def last_event(response: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The event that ends an ended response's stream: its type and fields."""
    status = response["status"]
    # The specification has no event of its own for a cancelled response.
    said = status if status in ("completed", "failed") else "incomplete"
    return f"response.{said}", {"response": response}
