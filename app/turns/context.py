"""The context of a turn: the part of its conversation that the model has read, and the weight of its chain."""

from app.chain.context import Context
from app.chain.continuation import Continuation
from app.items import vocabulary
from app.items.token_counts import Usage
from app.memory.observations import SMALLEST_CUT, ModelObservations
from app.turns.attempt import Attempt, Sent
from app.turns.store import Opened

FLOOR_BYTES_PER_TOKEN = 6
"""No text takes more bytes for a token: what is new weighs this much at least."""

OUTPUT_SHARE = 0.9
"""The least share of an answer's counted tokens that the provider counts again when a chain continues."""

TOLERANCE = 0.98

SUSPICIOUS_SHARE = 0.5
"""An input for which the provider counts less than this share of our estimate, which is rather too high, is counted."""

CACHE_SECONDS = 300.0
"""The time that the provider keeps a cached context (reference page)."""

LATEST_SHARE = 0.4

SMALLEST_CACHED = 1024
"""Tokens: of a smaller context nothing is cached (reference page)."""

PAYS_FROM = 0.22
"""From which share of turns within a cache's life on it pays: to find it costs 0.1, to write it 1.25, without it 1, and
0.1 p + 1.25 (1 - p) = 1."""


def chained(context: Context, new_bytes: int, weight: int, overhead_tokens: int) -> Sent:
    """Return the tokens of a chained turn: those that it sends, and those that the chain holds.

    Args:
        context: the chain's.
        new_bytes: of the new input; `weight`, its estimated tokens.
        overhead_tokens: of instructions and tools.
    """
    floor = 0
    if context.floor:
        floor = context.floor - max(0, context.overhead_tokens - overhead_tokens) + new_bytes // FLOOR_BYTES_PER_TOKEN
    return Sent(context.tokens + weight, floor=max(0, floor), overhead_tokens=overhead_tokens)


def wants_cache(mode: str, context: Context, weight: int) -> bool:
    """Return True if the provider is to cache a turn's context.

    Args:
        mode: off, on, or auto: where the conversation's own pace makes it pay.
        context: of the turn that it continues from; `weight`, what it sends, in tokens.
    """
    if mode != "auto":
        return mode == "on"
    return weight >= SMALLEST_CACHED and context.quick >= PAYS_FROM


async def after(turn: Opened, attempt: Attempt, counted: Usage, learnt_of: ModelObservations, now: float) -> Context:
    """The context of a turn that was answered. A cut of the provider's is seen here, and the window learnt from it.

    Args:
        attempt: the one that was answered.
        counted: the provider's counts for the answer.
        now: Unix seconds.
    """
    request, sent, observations = turn.request, attempt.sent, learnt_of.at(attempt.target.binding)
    reported, spoken = counted.input, counted.output
    carried = max(0, spoken - counted.reasoning)
    # What hosted tools find is read, counted, and not carried on.
    plain = reported > 0 and not counted.tools
    cut = False
    if plain and attempt.continuation is Continuation.CHAINED:
        cut = observations.is_cut(request.model, sent.floor * TOLERANCE, reported)
    elif plain:
        expected = sent.expected
        if expected is None and SMALLEST_CUT <= reported < SUSPICIOUS_SHARE * sent.weight:
            expected = sent.overhead_tokens + observations.tokens(
                request.model, sum(await vocabulary.counts(attempt.input))
            )
        if expected is not None:
            cut = observations.reported(request.model, expected, reported)
    before = attempt.context
    pace = before.quick
    if before.at:
        soon = turn.created_at.timestamp() - before.at < CACHE_SECONDS
        pace = round(pace + LATEST_SHARE * (soon - pace), 3)
    return Context(
        window=observations.window(request.family, request.model),
        tokens=(reported + spoken) or sent.weight,
        floor=int(max(reported, 0 if cut else sent.floor) + OUTPUT_SHARE * carried) if plain else 0,
        overhead_tokens=sent.overhead_tokens,
        dropped_items=before.dropped_items,
        since=before.since,
        compaction=before.compaction,
        images_in_words=before.images_in_words,
        videos_in_words=before.videos_in_words,
        audio_in_words=before.audio_in_words,
        files_in_words=before.files_in_words,
        reduced=before.reduced,
        reasoning_left_out=before.reasoning_left_out,
        reasoning_refused=before.reasoning_refused,
        cut=cut,
        at=now,
        quick=pace,
    )
