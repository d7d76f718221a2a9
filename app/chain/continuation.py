"""Choice of a turn's continuation: `new`, `chained` on its parent's live id, or `rebuilt`; and the reason for it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal

from app.chain.live_ids import LiveId
from app.chain.rebuild import Abilities
from app.items.input_item import InputItem
from app.items.pairs import answers
from app.process.values import value


class Continuation(StrEnum):
    NEW = "new"
    CHAINED = "chained"
    REBUILT = "rebuilt"


_NOT_REBUILT = {"first_turn": Continuation.NEW, "live_response_id": Continuation.CHAINED}


class ContinuationReason(StrEnum):
    """The reason why a turn is new, chained or rebuilt. docs/history.md lists them for readers of the API."""

    FIRST_TURN = "first_turn"
    """The turn is the first of its branch."""
    LIVE_RESPONSE_ID = "live_response_id"
    """The response id of the previous turn is live."""
    ITEMS_ADDED = "items_added"
    """The previous turn holds items that were added without calling a model."""
    PARENT_UNFINISHED = "parent_unfinished"
    """The previous turn has no complete answer: it is still running, has failed, or was cancelled or interrupted."""
    NO_RESPONSE_ID = "no_response_id"
    """The provider has no response of the previous turn, which was sent with `store: false` or imported."""
    RESPONSE_ID_EXPIRED = "response_id_expired"
    """The response id of the previous turn has expired, or is about to."""
    RESPONSE_ID_UNKNOWN = "response_id_unknown"
    """The provider does not know the response id of the previous turn."""
    RESPONSE_ID_DROPPED = "response_id_dropped"
    """The response id of the previous turn was dropped by a release that stored no reason."""
    HISTORY_CHANGED = "history_changed"
    """An item or a turn of the history was deleted after the provider had read it."""
    COMPACTED = "compacted"
    """A new summary replaces the beginning of the history."""
    OTHER_MODEL = "other_model"
    """Another model answered the previous turn."""
    OTHER_ACCOUNT = "other_account"
    """The account of the previous turn was not available, so another one was chosen."""
    NO_INPUT = "no_input"
    """The turn has no input of its own, and a chained call must have some."""
    SYSTEM_MESSAGE = "system_message"
    """The input has a system message, which must come first and so cannot be added to a chain."""
    TOOL_OUTPUTS_UNMATCHED = "tool_outputs_unmatched"
    """The tool outputs in the input do not match the open tool calls of the previous turn."""
    TOOL_OUTPUTS_UNSUPPORTED = "tool_outputs_unsupported"
    """The model accepts no tool outputs in a chained call."""
    PROVIDER_CUT_HISTORY = "provider_cut_history"
    """The provider had silently left out a part of the chained history."""
    WINDOW_FULL = "window_full"
    """The chain and the input together may exceed the model's window."""
    CHAIN_REFUSED = "chain_refused"
    """The provider refused the contents of the chained history."""
    CHAIN_TOO_LONG = "chain_too_long"
    """The provider refused the chained history as too long."""
    FAILOVER = "failover"
    """The account of the chained turn failed, and another account continued it."""

    def __init__(self, value: str) -> None:
        self.continuation = _NOT_REBUILT.get(value, Continuation.REBUILT)


@value
class Target:
    """Destination of the next call, as far as a chain depends on it."""

    binding: str
    model: str
    abilities: Abilities
    enforces_format: bool = False
    """True if the provider enforces a JSON schema, by documentation and observation."""


def stored_reason(value: str) -> ContinuationReason:
    """Return the reason why a response id was given up, as it is stored. A later release may have other reasons."""
    try:
        return ContinuationReason(value)
    except ValueError:
        return ContinuationReason.RESPONSE_ID_DROPPED


def decide(
    parent: LiveId | ContinuationReason,
    target: Target,
    new: Sequence[InputItem],
    *,
    now: float,
    margin_seconds: float,
) -> ContinuationReason:
    """Return the reason for a turn's continuation, and with it the continuation.

    Args:
        parent: the response id of the turn's parent, or the reason why there is none to chain on.
        new: the turn's own input.
        now: Unix seconds.
    """
    if isinstance(parent, ContinuationReason):
        return parent
    if parent.model != target.model:
        return ContinuationReason.OTHER_MODEL
    if now >= parent.expires_at - margin_seconds:
        return ContinuationReason.RESPONSE_ID_EXPIRED
    if parent.binding != target.binding:
        return ContinuationReason.OTHER_ACCOUNT
    # A chained call needs input.
    if not new:
        return ContinuationReason.NO_INPUT
    weight, pairs = 0, False
    for item in new:
        # One system message at most, and first: a chain has no place for another.
        if item.is_system:
            return ContinuationReason.SYSTEM_MESSAGE
        weight += item.tokens
        pairs = pairs or item.kind.pair is not None
    # The calls of the parent are answered, no less and no more: half a call is refused.
    if parent.open_calls or pairs:
        answered = answers([item.data for item in new])
        if answered != set(parent.open_calls):
            return ContinuationReason.TOOL_OUTPUTS_UNMATCHED
        if answered and not target.abilities.takes_tool_outputs:
            return ContinuationReason.TOOL_OUTPUTS_UNSUPPORTED
    # The provider has cut this history already: it is sent again.
    if parent.context.cut:
        return ContinuationReason.PROVIDER_CUT_HISTORY
    # The provider would cut a longer chain silently: cut it here, and report it.
    if parent.context.tokens + weight > target.abilities.token_budget:
        return ContinuationReason.WINDOW_FULL
    return ContinuationReason.LIVE_RESPONSE_ID


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
