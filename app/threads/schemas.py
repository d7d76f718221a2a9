"""Request bodies about threads, and how a thread is shown."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, cast
from uuid import UUID

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, WithJsonSchema
from typing_extensions import TypedDict

from app.chain.context import Context, ContextObject
from app.db import ids
from app.http.bodies import WHOLE, Body, check_field_count, examples
from app.http.describing import ErrorFields
from app.items.client_door import ITEM_SCHEMA
from app.items.unreadable import marked
from app.projects.presets import UserPreset
from app.threads.tables import Thread


def _addressable(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise ValueError("must not contain '/', nor be '.' or '..': it is a part of the address")
    return name


Name = Annotated[
    str,
    Field(min_length=1, max_length=256, json_schema_extra={"pattern": r"^(?!\.{1,2}$)[^/]*$"}),
    AfterValidator(_addressable),
]
Title = Annotated[str, Field(max_length=1000)]
User = Annotated[str, Field(min_length=1, max_length=256)]
Status = Literal["idle", "busy"]
LastTurn = Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
Ttl = Annotated[int, Field(ge=60, le=315_360_000), WHOLE]
"""Seconds: it is purged when nobody has touched it for so long."""

# OpenAI's limits: 16 pairs, keys of 64 and values of 512 characters.
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16), BeforeValidator(check_field_count)]

TURN_ID = WithJsonSchema(
    {"anyOf": [{"type": "string", "pattern": ids.pattern(ids.TURN_PREFIXES)}, {"type": "null"}]},
)


class ThreadFields(Body):
    """Fields that a thread is created with, changed with and forked with."""

    title: Title | None = None
    user: User | None = None
    metadata: Metadata | None = None
    ttl_seconds: Ttl | None = None
    preset: UserPreset | None = None
    """Preset of the requests of user tokens to this thread. Only keys may set it."""


class NamedThread(ThreadFields):
    name: Name | None = None


class ThreadCreate(NamedThread):
    model_config = examples(
        {},
        {"title": "A talk", "user": "user-1", "metadata": {"plan": "pro"}},
        {"messages": [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Good day."}]},
    )

    created_at: Annotated[float, Field(ge=0, le=253_402_300_799)] | None = None
    """Unix seconds: when a conversation began that is brought here from elsewhere. Now, if left out."""
    messages: list[Annotated[Any, WithJsonSchema(ITEM_SCHEMA)]] | None = None
    """Conversation to continue from: Chat messages or Responses items."""


class ThreadPut(ThreadFields):
    """The initial fields of a thread created by name. An existing thread stays as it is."""

    model_config = examples({}, {"title": "A talk"})


class ThreadPatch(NamedThread):
    """Fields left out stay as they are; null clears one. `metadata` is replaced as a whole."""

    model_config = examples({"title": "Another title"}, {"archived": True})

    archived: bool = False
    head_id: ids.TurnId = cast(UUID, None)
    """The turn that the next one continues: one of the thread's own, and not null."""


class ThreadFork(NamedThread):
    """The fields of a fork. Title, user and metadata are copied from the source thread where they are left out."""

    model_config = examples({}, {"title": "Another way"})

    turn_id: ids.TurnId | None = None
    """The last turn that is shared; the head if left out."""


class ThreadsBulk(Body):
    """One thing done with many threads, each by itself: what cannot be done with one holds up no other."""

    model_config = examples({"action": "archive", "ids": ["thread_00000000000000000000000000000000"]})

    action: Literal["archive", "unarchive", "delete"]
    ids: Annotated[list[str], Field(min_length=1, max_length=100)]


class BulkResult(TypedDict):
    id: str
    done: bool
    error: ErrorFields | None


class LastMessage(TypedDict):
    """Beginning of the last message."""

    turn_id: str
    role: str
    text: str
    unreadable: NotRequired[bool]
    """True if it cannot be opened. Left out otherwise."""


class ThreadObject(TypedDict):
    id: str
    object: Literal["thread"]
    name: str | None
    title: str | None
    user: str | None
    metadata: dict[str, str]
    ttl_seconds: int | None
    status: Status
    """Status that tells whether a turn is in progress."""
    last_turn: LastTurn | None
    """Status of the thread's last turn; None if it has no turn of its own."""
    last_message: LastMessage | None
    head_id: str | None
    forked_turn_id: str | None
    turn_count: int
    context: ContextObject | None
    archived: bool
    created_at: int
    updated_at: int
    unreadable: NotRequired[list[str]]
    """The fields that cannot be opened. Left out where there are none."""


class OneThread(ThreadObject):
    preset: NotRequired[dict[str, Any]]
    """The thread's preset, if it has one. Only keys read it."""


class ThreadCount(TypedDict):
    object: Literal["thread.count"]
    count: int
    more: bool


@dataclass(frozen=True, slots=True)
class Head:
    """Shown fields of a thread's head, and of turns that run beside it."""

    context: Context | None = None
    """None where no model has answered it."""
    last_message: LastMessage | None = None
    busy: bool = False
    last_turn: LastTurn | None = None


NO_HEAD = Head()


def thread_object(thread: Thread, head: Head = NO_HEAD) -> ThreadObject:
    """A thread as clients see it."""
    return {
        "id": ids.thread_id(thread.id),
        "object": "thread",
        "name": thread.name,
        "title": thread.title,
        "user": thread.user_id,
        "metadata": thread.metadata_,
        "ttl_seconds": thread.ttl_seconds,
        "status": "busy" if head.busy else "idle",
        "last_turn": head.last_turn,
        "last_message": head.last_message,
        "head_id": ids.optional_turn_id(thread.head_turn_id),
        "forked_turn_id": ids.optional_turn_id(thread.forked_turn_id),
        "turn_count": thread.turn_count,
        "context": None if head.context is None else head.context.shown(),
        "archived": thread.archived_at is not None,
        "created_at": int(thread.created_at.timestamp()),
        "updated_at": int(thread.updated_at.timestamp()),
        **marked(thread),
    }
