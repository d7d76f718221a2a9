"""Legal holds as they are sent and shown."""

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, model_validator
from typing_extensions import TypedDict

from app.db import ids
from app.db.ids import ThreadId
from app.holds.tables import Hold
from app.http.bodies import Body, examples
from app.projects.keys import key_id

Scope = Literal["thread", "user", "project"]
Reason = Annotated[str, Field(min_length=1, max_length=2000)]


class HoldCreate(Body):
    model_config = examples({"user": "customer-4711", "reason": "Case 2026-17"})

    thread_id: ThreadId | None = None
    user: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """All threads of an end user, later ones too."""
    project: Literal[True] | None = None
    """All threads of the project."""
    reason: Reason

    @model_validator(mode="after")
    def _has_one_target(self) -> "HoldCreate":
        if sum(each is not None for each in (self.thread_id, self.user, self.project)) != 1:
            raise ValueError("send exactly one of 'thread_id', 'user' and 'project'")
        return self

    @property
    def scope(self) -> Scope:
        return "thread" if self.thread_id is not None else "user" if self.user is not None else "project"


class HoldRelease(Body):
    model_config = examples({"reason": "Case 2026-17 is closed"})

    reason: Reason


class HoldObject(TypedDict):
    id: str
    object: Literal["hold"]
    scope: str
    thread_id: str | None
    user: str | None
    """Null once the contents that it has kept are erased."""
    reason: str
    active: bool
    created_at: int
    created_by: str | None
    """The key."""
    released_at: int | None
    released_by: str | None
    release_reason: str | None
    erased_at: int | None
    """Time at which everything was erased that this hold has kept and no other one covers."""
    erased_rows: int


def hold_id(id_: UUID) -> str:
    return f"hold_{id_.hex}"


def hold_object(hold: Hold) -> HoldObject:
    return {
        "id": hold_id(hold.id),
        "object": "hold",
        "scope": hold.scope,
        "thread_id": None if hold.thread_id is None else ids.thread_id(hold.thread_id),
        "user": hold.user_id,
        "reason": hold.reason,
        "active": hold.released_at is None,
        "created_at": int(hold.created_at.timestamp()),
        "created_by": None if hold.key_id is None else key_id(hold.key_id),
        "released_at": None if hold.released_at is None else int(hold.released_at.timestamp()),
        "released_by": None if hold.released_by is None else key_id(hold.released_by),
        "release_reason": hold.release_reason,
        "erased_at": None if hold.erased_at is None else int(hold.erased_at.timestamp()),
        "erased_rows": hold.erased_rows,
    }
