"""A turn that this worker runs, and then what came of it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from app.accounts.pool import ProviderAccount
from app.chain.context import UNKNOWN, Context
from app.chain.continuation import Continuation
from app.chain.live_ids import LiveId
from app.chain.reduction import Reduction
from app.http.errors import APIError
from app.items.shapes import Item
from app.limits.service import Admission
from app.memory.compaction import Wanted
from app.turns.closing import CallRecord, Closing
from app.turns.events import Events
from app.turns.pieces import Body, Pieces, written
from app.turns.recorder import Recorder
from app.turns.relay import Relay
from app.turns.store import Opened


@dataclass(frozen=True, slots=True)
class Sent:
    """What the model is sent, in tokens."""

    weight: int = 0
    """Estimated, or counted where it may not fit."""
    expected: int | None = None
    """What the provider should count, where it was counted here; instructions and tools too."""
    floor: int = 0
    """What the provider must count at least; 0 where that cannot be told."""
    frame: int = 0
    """Of instructions and tools alone."""


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
    admission: Admission
    """The permit for its calls of the provider."""
    calls: list[CallRecord] = field(default_factory=list)
    continuation: Continuation = Continuation.NEW
    dropped_items: int = 0
    """How many of the oldest items its last call left out."""
    context: Context = UNKNOWN
    """What hangs on the history that it goes on from; and then its own."""
    sent: Sent = field(default_factory=Sent)
    counted: Any = None
    """What the provider has counted for the last of several answers; None for one."""
    compaction: Wanted | None = None
    """The compaction that its thread is due, once the turn has been charged for."""
    text: str = ""
    """The text of the answer, for a title."""
    uncounted: dict[str, int] | None = None
    """An estimate of what was used by an answer that broke off before the provider had counted it."""
    input: Sequence[Item] = ()
    """The items that the model is sent."""
    sources: Sequence[Sequence[str]] = ()
    """For each of them, where the history was sent, what it was made of."""
    asked_account: ProviderAccount | None = None
    """The one that is asked, or was asked last; None before any is."""
    tried: list[ProviderAccount] = field(default_factory=list)
    """Those that have failed."""
    frame: tuple[bytes, bytes] = (b"", b"")
    """What is sent before and behind them."""
    pieces: Pieces = field(default_factory=Pieces)
    pieces_read: bool = False
    """The thread's pieces are among them."""
    live: LiveId | None = None
    """The response id that the turn was chained on first."""
    reduction: Reduction | None = None
    """The reduction of the history that is sent, after the provider has refused it."""
    reasoning: bool = True
    """False once the provider has refused the encrypted reasoning."""
    response: dict[str, Any] | None = None
    error: APIError | None = None
    cancelled: bool = False
    closing: bool = False
    closed: bool = False
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    task: asyncio.Task[None] | None = None

    @property
    def account(self) -> ProviderAccount:
        """The account that is asked, once one is."""
        assert self.asked_account is not None
        return self.asked_account

    @property
    def events(self) -> Events:
        return self.recorder.events

    @property
    def outcome(self) -> str:
        """How it has ended: its status, or of one that has failed the meaning of its error."""
        if self.error is not None:
            return self.error.meaning
        return "failed" if self.response is None else str(self.response.get("status"))

    def with_more(self, items: Sequence[Item]) -> Body:
        """What was sent last, with more behind it."""
        head, tail = self.frame
        sources: list[Sequence[str]] = [*self.sources, *[()] * len(items)] if self.sources else []
        pieces = self.pieces if sources else None
        return written(head, [*self.input, *items], tail, self.turn.request.items, sources, pieces)

    def failed(self, error: dict[str, Any], status: int | None) -> Closing:
        """What it is closed with when the service has failed."""
        return Closing("failed", calls=self.calls, error=error, error_status=status, pieces=self.pieces.new)
