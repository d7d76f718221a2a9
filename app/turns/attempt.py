"""One attempt at a turn: which account is asked, how the turn continues its history, and the bytes that are sent."""

from collections.abc import Sequence
from dataclasses import replace

from app.accounts.pool import ProviderAccount
from app.chain.context import UNKNOWN, Context
from app.chain.continuation import Continuation, ContinuationReason, Target
from app.chain.live_ids import LiveId
from app.chain.reduction import Reduction, target_of
from app.items.shapes import Item
from app.process.values import value
from app.turns.pieces import Body, Envelope, Piece, Pieces, write_body


@value
class Sent:
    """The size of what the model is sent, in tokens."""

    weight: int = 0
    """Estimated, or counted where it may not fit."""
    expected: int | None = None
    """The input tokens that the provider should count, with instructions and tools; None if not counted."""
    floor: int = 0
    """The least number of input tokens that the provider must count; 0 if unknown."""
    overhead_tokens: int = 0
    """The tokens of instructions and tools alone."""


NO_BODY, NO_ENVELOPE, NOTHING_SENT = Body(b"", (), ()), Envelope(), Sent()


@value
class Attempt:
    account: ProviderAccount
    target: Target
    threshold: int | None
    """The tokens from which on the conversation is compacted; None for never."""
    reason: ContinuationReason | None = None
    """Reason for the continuation; None before the decision. It changes only with the continuation: a rebuilt history
    that is sent again, with less or to another account, keeps its reason."""
    live: LiveId | None = None
    """The response id that the turn was chained on first."""
    context: Context = UNKNOWN
    """The context of the continued history, with what is left out of it."""
    body: Body = NO_BODY
    """Empty until it is written."""
    envelope: Envelope = NO_ENVELOPE
    """The body around its input items."""
    input: Sequence[Item] = ()
    """These items."""
    sources: Sequence[Sequence[str]] = ()
    """For each of them, where the history is sent, the ids of the items that it was made of."""
    pieces: Pieces | None = None
    """The thread's, once they were read for a rebuilt history."""
    sent: Sent = NOTHING_SENT
    dropped_items: int = 0
    """The number of the history's oldest items that are left out."""
    reduction: Reduction | None = None
    """The reduction of the history, after the provider has refused it."""
    reasoning: bool = True
    """False once the provider has refused the encrypted reasoning."""
    tried: tuple[ProviderAccount, ...] = ()
    """The accounts that have failed before."""

    @property
    def continuation(self) -> Continuation:
        return Continuation.NEW if self.reason is None else self.reason.continuation

    @property
    def model_at_account(self) -> str:
        """The model and account, as reductions and refusals name them."""
        return target_of(self.target.binding, self.target.model)

    @property
    def new_pieces(self) -> Sequence[Piece]:
        return () if self.pieces is None else self.pieces.new

    def with_more(self, items: Sequence[Item], own: Sequence[Item]) -> "Attempt":
        """Return the same attempt with more items behind its input, in the body alone.

        Args:
            own: the turn's own input.
        """
        sources: list[Sequence[str]] = [*self.sources, *[()] * len(items)] if self.sources else []
        pieces = self.pieces if sources else None
        return replace(self, body=write_body(self.envelope, [*self.input, *items], own, sources, pieces))
