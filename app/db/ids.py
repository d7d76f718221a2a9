"""Identifiers: a UUIDv7 in the tables, `prefix_` and 32 hex digits on the wire.

A thread and a conversation are the same row under two prefixes, as are a turn and a response;
either form is taken wherever one is expected.
"""

from datetime import datetime
from uuid import UUID

from uuid_utils.compat import uuid7

THREAD_PREFIXES = ("thread", "conv")
TURN_PREFIXES = ("turn", "resp")


def new_uuid() -> UUID:
    """A UUIDv7: sorts by the time it was made."""
    return uuid7()


def first_uuid(moment: datetime) -> UUID:
    """The smallest UUIDv7 of a moment: ids made before it are smaller, later ones are not."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return UUID(int=milliseconds << 80)


def thread_id(id_: UUID) -> str:
    return f"thread_{id_.hex}"


def conversation_id(id_: UUID) -> str:
    """A thread's id on the OpenAI surface."""
    return f"conv_{id_.hex}"


def turn_id(id_: UUID) -> str:
    return f"turn_{id_.hex}"


def response_id(id_: UUID) -> str:
    """A turn's id on the OpenAI surface and in streamed events."""
    return f"resp_{id_.hex}"


def parse(text: str, prefixes: tuple[str, ...]) -> UUID | None:
    """The row's id, or None if `text` is not an id of this kind."""
    prefix, _, digits = text.partition("_")
    if prefix not in prefixes or len(digits) != 32:
        return None
    try:
        return UUID(hex=digits)
    except ValueError:
        return None
