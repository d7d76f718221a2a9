"""Choice of a turn's continuation: `new`, `chained` on its parent's live id, or `rebuilt`."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal
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
    """True if the provider enforces a JSON schema, by documentation and observation."""


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


PLAUSIBLE_SKEW_SECONDS = 600.0
"""The largest difference between the provider's clock and ours that counts as a skew. Hosts that keep time by NTP
differ by seconds, suspended or drifting ones by minutes. A larger difference is a wrong time zone (at least a quarter
of an hour), a wrong clock or an answer from a cache: such a date is not used for the expiry of an id."""

LATEST_SECONDS = 1e11
"""Unix time of the year 5138. Larger numbers are milliseconds, as in the provider's lists of input items."""


Direction = Literal["past", "future"]


def seconds(created_at: object) -> float | None:
    """Return a response's `created_at` in Unix seconds; None if it is not a date."""
    if not isinstance(created_at, int | float) or not 0 < created_at < LATEST_SECONDS * 1000:
        return None
    return float(created_at) if created_at < LATEST_SECONDS else created_at / 1000


def expires_at(created: float | None, *, called_at: float, ttl_seconds: float) -> float:
    """Return the Unix time at which a response id expires: `ttl_seconds` after its creation (DashScope: 7 days).

    Args:
        created: the provider's date. It is used if it is earlier than the start of the call by no more than a plausible
            skew; otherwise the start of the call is used.
    """
    if created is not None and called_at - PLAUSIBLE_SKEW_SECONDS <= created < called_at:
        return created + ttl_seconds
    return called_at + ttl_seconds


def disagreement(created: float | None, *, called_at: float, answered_at: float) -> Direction | None:
    """Return the direction in which the provider's date exceeds a plausible skew; None if it does not."""
    if created is None or called_at - PLAUSIBLE_SKEW_SECONDS <= created <= answered_at + PLAUSIBLE_SKEW_SECONDS:
        return None
    return "past" if created < called_at else "future"
