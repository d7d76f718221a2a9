"""How a turn reaches the model: `new`, `chained` on its parent's live id, or `rebuilt`."""

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from app.chain.live_ids import LiveId


class Continuation(StrEnum):
    NEW = "new"
    CHAINED = "chained"
    REBUILT = "rebuilt"


@dataclass(frozen=True, slots=True)
class Target:
    """Where the next call goes, as far as a chain cares."""

    binding: str
    model: str
    token_budget: int
    """What the model reads before the provider silently cuts, in tokens."""


def decide(
    parent_id: UUID | None, live: LiveId | None, target: Target, *, new_tokens: int, now: float, margin_seconds: float
) -> Continuation:
    """The continuation of a turn.

    Args:
        live: what is known of the parent's response id; None if it was not stored, or was reported unknown.
        new_tokens: an estimate for the new input.
        now: Unix seconds.
    """
    if parent_id is None:
        return Continuation.NEW
    if (
        live is not None
        and live.turn_id == parent_id
        and live.binding == target.binding
        and live.model == target.model
        and now < live.expires_at - margin_seconds
        # A longer chain would be cut by the provider without a word: cut it ourselves, and say so.
        and live.context_tokens + new_tokens <= target.token_budget
    ):
        return Continuation.CHAINED
    return Continuation.REBUILT


def expires_at(created_at: object, *, called_at: float, ttl_seconds: float) -> float:
    """When a response id ends, in Unix seconds: `ttl_seconds` after its creation (DashScope: 7 days).

    Args:
        created_at: the provider's own `created_at`. Where its clock is ahead of ours, or it gave none,
            the start of the call counts instead.
    """
    if isinstance(created_at, int | float) and 0 < created_at < called_at:
        return float(created_at) + ttl_seconds
    return called_at + ttl_seconds
