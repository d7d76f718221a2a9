"""Events that webhooks receive: records of the audit trail, under names like those of OpenAI's webhooks."""

from datetime import datetime
from typing import Any, Literal, Protocol, get_args
from uuid import UUID

from typing_extensions import TypedDict

from app.db import ids
from app.trail.records import instant

EventType = Literal[
    "response.completed", "response.incomplete", "response.failed", "response.cancelled",
    "thread.created", "thread.changed", "thread.forked", "thread.imported", "thread.deleted", "thread.purged",
    "turn.deleted", "turn.purged", "user.purged", "audit.appended",
]  # fmt: skip
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

APPENDED: EventType = "audit.appended"
"""Event type for new audit records of any kind. One event covers several records."""

DEFAULT_EVENTS = tuple(each for each in EVENT_TYPES if each != APPENDED)


class TrailRow(Protocol):
    """A record's columns, from wherever they were read."""

    def __getitem__(self, name: str, /) -> Any: ...


def type_of(record: TrailRow) -> str:
    """Return the event type of a record; for the end of a turn, it contains the status."""
    return f"response.{record['detail']}" if record["action"] == "turn.closed" else str(record["action"])


def data_of(record: TrailRow) -> dict[str, Any]:
    """Return the subject of a record: ids, and no contents."""
    chain, turn = record["chain_id"], record["turn_id"]
    if record["action"] == "user.purged":
        digest = record["user_digest"]
        return {"id": None if digest is None else f"user_{digest.hex()}", "detail": record["detail"]}
    thread = ids.thread_id(chain)
    if turn is None:
        return {"id": thread}
    id_ = ids.response_id(turn) if record["action"] == "turn.closed" else ids.turn_id(turn)
    return {"id": id_, "thread_id": thread}


def data_of_appended(project_id: UUID, last: TrailRow) -> dict[str, Any]:
    """Return the data of `audit.appended`: the project, and the moment of the last record that is known."""
    return {"id": ids.project_id(project_id), "at": instant(last["at"])}


def event_id(chain_id: UUID, seq: int) -> str:
    return f"evt_{chain_id.hex}_{seq}"


def parse_event_id(given: str) -> tuple[UUID, int] | None:
    chain, _, seq = given.removeprefix("evt_").partition("_")
    found = ids.parse(f"evt_{chain}", ("evt",))
    if found is None or not given.startswith("evt_") or not (seq.isascii() and seq.isdecimal() and len(seq) < 19):
        return None
    return found, int(seq)


class EventObject(TypedDict):
    id: str
    object: Literal["event"]
    type: str
    created_at: int
    data: dict[str, Any]
    """Ids of the event's subject."""


def event_object(chain_id: UUID, seq: int, type_: str, at: datetime, data: dict[str, Any]) -> EventObject:
    """As it is sent. The same event has the same id, however often it is sent."""
    return {
        "id": event_id(chain_id, seq),
        "object": "event",
        "type": type_,
        "created_at": int(at.timestamp()),
        "data": data,
    }
