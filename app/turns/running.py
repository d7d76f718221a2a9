"""A turn that this worker runs, and then what came of it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from app.chain.continuation import Continuation
from app.errors import APIError
from app.turns.closing import CallRecord, Closing
from app.turns.events import Events
from app.turns.pieces import Pieces
from app.turns.recorder import Recorder
from app.turns.relay import Relay
from app.turns.store import Opened


@dataclass(eq=False, slots=True)
class Running:
    """A turn in progress, and then what came of it."""

    turn: Opened
    headers: dict[str, str]
    """Passed on to the provider."""
    answerable: asyncio.Future[None]
    """Done when the client can be answered: the turn is closed, or its stream has begun."""
    asked: "asyncio.Future[Any] | None"
    """The question for the thread's live id, if it is on its way already."""
    recorder: Recorder
    relay: Relay
    calls: list[CallRecord] = field(default_factory=list)
    continuation: Continuation = Continuation.NEW
    dropped_items: int = 0
    pieces: Pieces = field(default_factory=Pieces)
    response: dict[str, Any] | None = None
    error: APIError | None = None
    cancelled: bool = False
    closing: bool = False
    closed: bool = False
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    task: asyncio.Task[None] | None = None

    @property
    def events(self) -> Events:
        return self.recorder.events

    def failed(self, error: dict[str, Any], status: int | None) -> Closing:
        """What it is closed with when the service has failed."""
        return Closing("failed", calls=self.calls, error=error, error_status=status, pieces=self.pieces.new)
