"""Texts on the reasons for continuations: a label for tables, and a sentence that explains it."""

from app.chain.continuation import ContinuationReason

REASONS: dict[str, tuple[str, str]] = {
    ContinuationReason.FIRST_TURN: ("first turn", "It is the first turn of its branch."),
    ContinuationReason.LIVE_RESPONSE_ID: ("response id is live", "The response id of the previous turn was live."),
    ContinuationReason.ITEMS_ADDED: (
        "items were added",
        "The previous turn holds items that were added without calling a model.",
    ),
    ContinuationReason.PARENT_UNFINISHED: (
        "previous turn unfinished",
        "The previous turn was still running, had failed, or was cancelled or interrupted.",
    ),
    ContinuationReason.NO_RESPONSE_ID: (
        "no response id",
        "The provider has no response of the previous turn, which was sent with store: false or imported.",
    ),
    ContinuationReason.RESPONSE_ID_EXPIRED: (
        "response id expired",
        "The response id of the previous turn had expired, or was about to.",
    ),
    ContinuationReason.RESPONSE_ID_UNKNOWN: (
        "response id unknown",
        "The provider does not know the response id of the previous turn.",
    ),
    ContinuationReason.RESPONSE_ID_DROPPED: (
        "response id dropped",
        "The response id of the previous turn was dropped by a release that stored no reason.",
    ),
    ContinuationReason.HISTORY_CHANGED: (
        "history changed",
        "Part of the history was deleted after the provider had read it.",
    ),
    ContinuationReason.COMPACTED: ("history compacted", "A new summary replaces the beginning of the history."),
    ContinuationReason.OTHER_MODEL: ("other model", "Another model answered the previous turn."),
    ContinuationReason.OTHER_ACCOUNT: (
        "other account",
        "The account of the previous turn was not available, so another one was chosen.",
    ),
    ContinuationReason.NO_INPUT: ("no input", "It has no input of its own, and a chained call must have some."),
    ContinuationReason.SYSTEM_MESSAGE: (
        "system message",
        "Its input has a system message, which must come first and so cannot be added to a chain.",
    ),
    ContinuationReason.TOOL_OUTPUTS_UNMATCHED: (
        "tool outputs do not match",
        "The tool outputs in its input do not match the open tool calls of the previous turn.",
    ),
    ContinuationReason.TOOL_OUTPUTS_UNSUPPORTED: (
        "tool outputs unsupported",
        "The model accepts no tool outputs in a chained call.",
    ),
    ContinuationReason.PROVIDER_CUT_HISTORY: (
        "provider cut the history",
        "The provider had silently left out a part of the chained history.",
    ),
    ContinuationReason.WINDOW_FULL: (
        "window full",
        "The chain and the input together might exceed the model's window.",
    ),
    ContinuationReason.CHAIN_REFUSED: (
        "chain refused",
        "The provider refused the contents of the chained history.",
    ),
    ContinuationReason.CHAIN_TOO_LONG: ("chain too long", "The provider refused the chained history as too long."),
    ContinuationReason.FAILOVER: ("failover", "The account failed within the turn, which went on at another one."),
}
