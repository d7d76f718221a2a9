"""What a client may send about a thread, and how a thread is shown."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from app.chain.context import Context
from app.db import ids
from app.threads.tables import Thread


def _addressable(name: str) -> str:
    if "/" in name or name in (".", ".."):
        raise ValueError("must not contain '/', nor be '.' or '..': it is a part of the address")
    return name


Name = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_addressable)]
Title = Annotated[str, Field(max_length=1000)]
User = Annotated[str, Field(min_length=1, max_length=256)]

# OpenAI's limits: 16 pairs, keys of 64 and values of 512 characters.
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]


class ThreadCreate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    title: Title | None = None
    user: User | None = None
    metadata: Metadata | None = None
    created_at: Annotated[float, Field(ge=0, le=253_402_300_799)] | None = None
    """Unix seconds: when a conversation began that is brought here from elsewhere. Now, if left out."""
    messages: list[Any] | None = None
    """A conversation to go on from: Chat messages or Responses items."""


class ThreadPut(BaseModel):
    """What a thread that is made by name begins with. One that is there already stays as it is."""

    model_config = ConfigDict(extra="forbid")

    title: Title | None = None
    user: User | None = None
    metadata: Metadata | None = None


class ThreadPatch(BaseModel):
    """Fields left out stay as they are; null clears one. `metadata` is replaced as a whole."""

    model_config = ConfigDict(extra="forbid")

    name: Name | None = None
    title: Title | None = None
    user: User | None = None
    metadata: Metadata | None = None
    archived: bool = False
    head_id: str | None = None
    """The turn that the next one continues: one of the thread's own, and not null."""


class ThreadFork(BaseModel):
    """What a fork has of its own: title, user and metadata are the other thread's where they are left out."""

    model_config = ConfigDict(extra="forbid")

    turn_id: str | None = None
    """The last turn that is shared; the head if left out."""
    name: Name | None = None
    title: Title | None = None
    user: User | None = None
    metadata: Metadata | None = None


def thread_object(thread: Thread, context: Context | None = None) -> dict[str, Any]:
    """A thread as clients see it.

    Args:
        context: its head's; None where no model has answered it.
    """
    return {
        "id": ids.thread_id(thread.id),
        "object": "thread",
        "name": thread.name,
        "title": thread.title,
        "user": thread.user_id,
        "metadata": thread.metadata_,
        "head_id": optional_turn_id(thread.head_turn_id),
        "forked_turn_id": optional_turn_id(thread.forked_turn_id),
        "turn_count": thread.turn_count,
        "context": None if context is None else context.shown(),
        "archived": thread.archived_at is not None,
        "created_at": int(thread.created_at.timestamp()),
        "updated_at": int(thread.updated_at.timestamp()),
    }


def optional_turn_id(id_: UUID | None) -> str | None:
    return None if id_ is None else ids.turn_id(id_)
