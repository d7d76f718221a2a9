"""Choice of a turn's continuation: `new`, `chained` on its parent's live id, or `rebuilt`."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from app.chain.live_ids import LiveId
from app.chain.rebuild import Abilities
from app.items.input_item import InputItem
from app.items.pairs import answers


class Continuation(StrEnum):
    NEW = "new"
    CHAINED = "chained"
    REBUILT = "rebuilt"


@dataclass(frozen=True, slots=True)
class Target:
    """Destination of the next call, as far as a chain depends on it."""

    binding: str
    model: str
    abilities: Abilities
    enforces_format: bool = False
    """True if the provider enforces a JSON schema, as far as is known."""


def decide(
    parent_id: UUID | None,
    live: LiveId | None,
    target: Target,
    new: Sequence[InputItem],
    *,
    now: float,
    margin_seconds: float,
) -> Continuation:
    """The continuation of a turn.

    Args:
        live: what is known of the parent's response id; None if it was not stored, or was reported unknown.
        new: the turn's own input.
        now: Unix seconds.
    """
    if parent_id is None:
        return Continuation.NEW
    if (
        live is not None
        and live.turn_id == parent_id
        # A chain is sent something.
        and new
        and live.binding == target.binding
        and live.model == target.model
        and now < live.expires_at - margin_seconds
        # A longer chain would be cut by the provider without a word: cut it ourselves, and say so.
        and live.context.tokens + sum(item.tokens for item in new) <= target.abilities.token_budget
        # The provider has cut this history already: it is sent again.
        and not live.context.cut
        # One system message at most, and first: a chain has no place for another.
        and not any(item.is_system for item in new)
        # What the parent asked for is answered, no less and no more: half a call is refused.
        and _answers_all(live, new, target)
    ):
        return Continuation.CHAINED
    return Continuation.REBUILT


def _answers_all(live: LiveId, new: Sequence[InputItem], target: Target) -> bool:
    if not live.open_calls and not any(item.kind.pair for item in new):
        return True
    answered = answers([item.data for item in new])
    return answered == set(live.open_calls) and (not answered or target.abilities.takes_tool_outputs)


def expires_at(created_at: object, *, called_at: float, ttl_seconds: float) -> float:
    """When a response id ends, in Unix seconds: `ttl_seconds` after its creation (DashScope: 7 days).

    Args:
        created_at: the provider's own `created_at`. Where its clock is ahead of ours, or it gave none,
            the start of the call counts instead.
    """
    if isinstance(created_at, int | float) and 0 < created_at < called_at:
        return float(created_at) + ttl_seconds
    return called_at + ttl_seconds
