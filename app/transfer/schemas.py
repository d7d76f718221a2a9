"""A whole thread as it is exported and imported: everything but what only its own database can mean."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from app.chain.continuation import ContinuationReason
from app.db.ids import ThreadId, TurnId
from app.http.bodies import WHOLE, Body, ListOf
from app.items.provider_door import LONGEST_ID
from app.threads.schemas import Metadata, Name, Title, User

FORMAT: Literal["everthread.thread.v1"] = "everthread.thread.v1"


Seconds = Annotated[float, Field(ge=0, le=253_402_300_799)]


class ItemRecord(Body):
    origin: Literal["input", "output"]
    item_id: str = Field(min_length=1, max_length=LONGEST_ID)
    data: dict[str, Any]


Amount = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]


class CostRecord(Body):
    """The cost of a turn, by the prices of its day."""

    currency: str = Field(pattern="^[A-Z]{3}$")
    as_of: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None
    amount: Amount
    input: Amount
    """The cost of its prompt without any cache."""
    saved: Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]


class TurnRecord(Body):
    id: TurnId
    parent_id: TurnId | None
    status: Literal["completed", "incomplete", "failed", "cancelled"]
    continuation: Literal["new", "chained", "rebuilt"] | None
    continuation_reason: Annotated[ContinuationReason, Field(strict=False)] | None = None
    model: str
    params: dict[str, Any]
    metadata: Metadata
    ignored: ListOf[str]
    created_at: Seconds
    completed_at: Seconds
    response: dict[str, Any] | None
    usage: Any
    cost: CostRecord | None = None
    error: dict[str, Any] | None
    incomplete_details: dict[str, Any] | None
    response_id: str | None
    items: ListOf[ItemRecord]

    @model_validator(mode="after")
    def _has_what_its_end_leaves(self) -> "TurnRecord":
        if (self.status == "failed") != (self.error is not None):
            raise ValueError("a failed turn has its 'error', and no other has one")
        if self.status == "incomplete" and self.incomplete_details is None:
            raise ValueError("an incomplete turn has its 'incomplete_details'")
        if self.status == "completed" and self.continuation is not None and self.response_id is None:
            raise ValueError("a turn that a model has completed has its 'response_id'")
        if self.continuation_reason is not None and self.continuation_reason.continuation != self.continuation:
            raise ValueError("a 'continuation_reason' is one of its 'continuation'")
        return self


class CompactionRecord(Body):
    """Summary that replaces a branch up to a turn when its history is sent again."""

    turn_id: TurnId
    model: str
    text: str = Field(min_length=1)
    kept_items: ListOf[str]
    covered_turns: Annotated[int, Field(ge=1, le=2**31 - 1), WHOLE]
    covered_tokens: Annotated[int, Field(ge=0, le=2**53), WHOLE]
    tokens: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE]
    usage: Any
    created_at: Seconds


class ShareRecord(Body):
    """A link to the thread, as it is exported. It is not imported: a link works only where it was made."""

    turn_id: TurnId
    title: Title | None
    """The title of the thread when it was shared."""
    expires_at: Seconds | None
    created_at: Seconds


class ThreadRecord(Body):
    format: Literal["everthread.thread.v1"]
    id: ThreadId
    name: Name | None
    title: Title | None
    user: User | None
    metadata: Metadata
    archived: bool
    created_at: Seconds
    updated_at: Seconds
    head_id: TurnId | None
    forked_turn_id: TurnId | None = None
    """The last turn that it shares with another thread. That turn, and those before it, are among the turns."""
    turns: ListOf[TurnRecord]
    compactions: ListOf[CompactionRecord] = Field(default_factory=list)
    shares: ListOf[ShareRecord] = Field(default_factory=list)
    unreadable: ListOf[str] = Field(default_factory=list)
    """The parts that could not be opened when the thread was exported. Such a record is not imported."""

    @field_validator("unreadable")
    @classmethod
    def _is_whole(cls, value: list[str]) -> list[str]:
        if value:
            raise ValueError("this export is not whole: what is named here could not be opened when it was made")
        return value
