"""A turn that this worker runs, and its outcome."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from app.chain.answer import Answer
from app.chain.context import UNKNOWN, Context
from app.chain.continuation import Continuation, ContinuationReason
from app.http.errors import APIError
from app.limits.service import Admission
from app.memory.compaction import CompactionJob
from app.turns.attempt import Attempt
from app.turns.closing import CallRecord, Closing
from app.turns.events import Events
from app.turns.relay import Relay
from app.turns.store import Opened


@dataclass(eq=False, slots=True)
class Outcome:
    """The result of a turn, as far as there is one."""

    response: dict[str, Any] | None = None
    error: APIError | None = None
    context: Context | None = None
    """The turn's own, for the next one to continue from."""
    answer: Answer | None = None
    """Read for a title."""
    compaction: CompactionJob | None = None
    """The compaction that its thread is due, once the turn has been charged for."""
    uncounted: dict[str, int] | None = None
    """An estimate of what was used by an answer that broke off before the provider had counted it."""

    @property
    def name(self) -> str:
        """The turn's status; for one that has failed the meaning of its error."""
        if self.error is not None:
            return self.error.meaning
        return "failed" if self.response is None else str(self.response.get("status"))


class Stage(IntEnum):
    RUNNING = 0
    CLOSING = 1
    """The model has answered, or the turn has failed: it is not interrupted any more."""
    CLOSED = 2


@dataclass(eq=False, slots=True)
class Running:
    turn: Opened
    names: Mapping[str, str]
    """The ids of its project, thread and turn, as they are shown."""
    headers: dict[str, str]
    """Passed on to the provider."""
    relay: Relay
    admission: Admission
    """The permit for its calls of the provider."""
    attempt: Attempt | None = None
    """The latest one; None before an account is chosen."""
    calls: list[CallRecord] = field(default_factory=list)
    outcome: Outcome = field(default_factory=Outcome)
    cancelled: bool = False
    stage: Stage = Stage.RUNNING
    task: asyncio.Task[None] | None = None

    @property
    def events(self) -> Events:
        return self.relay.recorder.events

    @property
    def continuation(self) -> Continuation:
        reason = None if self.attempt is None else self.attempt.reason
        return Continuation.NEW if reason is None else reason.continuation

    @property
    def reason(self) -> ContinuationReason | None:
        """Reason for the continuation; None before the decision."""
        return None if self.attempt is None else self.attempt.reason

    @property
    def context(self) -> Context:
        """The turn's own context, once it has been answered; before that the one of the history that it continues."""
        if self.outcome.context is not None:
            return self.outcome.context
        return UNKNOWN if self.attempt is None else self.attempt.context

    @property
    def binding(self) -> str | None:
        """The binding of the account that was asked last."""
        return None if self.attempt is None else self.attempt.target.binding

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it has ended, or so long."""
        if self.task is not None:
            await asyncio.wait((self.task,), timeout=seconds)

    def failed(self, error: dict[str, Any], status: int | None) -> Closing:
        """Return the closing of a turn on which the service has failed."""
        pieces = () if self.attempt is None else self.attempt.new_pieces
        return Closing("failed", calls=self.calls, error=error, error_status=status, pieces=pieces)
