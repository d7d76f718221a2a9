"""Decisions on how a turn reaches the model: the first attempt, and the next one after a refusal of the provider.

Each decision returns an `Attempt`, which has everything that the call needs. `running.attempt` is the latest one, so
that a turn that fails half-way is closed with what was decided by then.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any
from uuid import UUID

import orjson
import structlog

from app.accounts.pool import PASSED_ON, ProviderAccount, fails_over
from app.chain import continuation
from app.chain.continuation import Continuation, ContinuationReason, Target
from app.chain.live_ids import LiveId
from app.chain.rebuild import new_input
from app.chain.reduction import LAST_IN_WORDS, Reduction, Step, first_and_last
from app.db import ids
from app.items.kinds import is_encrypted_reasoning
from app.items.shapes import Item
from app.memory.reader import ModelInput, within
from app.provider import failure, structured
from app.provider.client import ProviderError
from app.provider.failure import Cause, Failure, Kind
from app.telemetry import metrics
from app.turns import context
from app.turns.attempt import Attempt, Sent
from app.turns.collaborators import Collaborators
from app.turns.pieces import Envelope, Pieces, body_of_input, write_body
from app.turns.running import Running
from app.turns.schemas import OF_CONVERSATION
from app.turns.store import Opened

log = structlog.get_logger()

OURS = ("background", "context_management", OF_CONVERSATION, "truncation")
"""Parameters that the provider does not know, and the service acts on."""

TOKENS = attrgetter("tokens")

SMALLER_SHARE = 0.8
"""The share of an input refused as too long that is sent next, if the provider did not state its limit."""


class Decisions:
    def __init__(self, parts: Collaborators) -> None:
        self._store = parts.store
        self._accounts = parts.accounts
        self._live_ids = parts.live_ids
        self._reader = parts.reader
        self._compactions = parts.compactions
        self._settings = parts.settings

    async def first(self, running: Running, prefetched: "asyncio.Future[Any] | None") -> Attempt:
        """Decide by which account and how the turn reaches the model, and write the body that it is sent.

        Args:
            prefetched: the answer to a look-up of the live id that was sent earlier.
        """
        turn = running.turn
        parent = await self._parent(turn, prefetched)
        live = parent if isinstance(parent, LiveId) else None
        home = None if live is None else live.binding
        account = await self._accounts.first(turn.project_id, turn.request.model, home)
        running.attempt = attempt = self.at(turn, account)
        if (
            live is not None
            and attempt.threshold is not None
            and live.context.tokens >= attempt.threshold
            and await self._is_shorter_now(turn, live)
        ):
            parent = ContinuationReason.COMPACTED
        reason = continuation.decide(
            parent,
            attempt.target,
            turn.request.items,
            now=time.time(),
            margin_seconds=self._settings.response_id_margin_seconds,
        )
        if reason is ContinuationReason.LIVE_RESPONSE_ID:
            assert live is not None
            return _chained(turn, attempt, live)
        running.attempt = attempt = replace(attempt, reason=reason)
        attempt = await self._rebuilt(running, attempt, reason)
        if home not in (None, account.binding):
            metrics.MOVED_TOKENS.inc(attempt.sent.weight)
        return attempt

    async def after_refusal(
        self, running: Running, attempt: Attempt, found: Failure, *, with_less: bool
    ) -> Attempt | None:
        """Return the attempt that answers the provider's refusal at the same account; None where there is no other.

        Args:
            with_less: whether a rebuilt history that the provider refuses is sent with less.
        """
        if found.kind is Kind.UNKNOWN_PREVIOUS and attempt.continuation is Continuation.CHAINED:
            return await self._forgotten(running, attempt)
        if with_less and (plain := await self._without_reasoning(running, attempt, found)) is not None:
            return plain
        if with_less and await self._may_be_the_chain(running.turn, attempt, found):
            log.warning("the provider refuses a chained turn; its history is sent instead", code=found.code)
            return await self._rebuilt(running, attempt, ContinuationReason.CHAIN_REFUSED)
        if found.code == failure.TOO_LONG and (smaller := await self._smaller(running, attempt, found)) is not None:
            return smaller
        return await self._less(running, attempt, found) if with_less else None

    async def elsewhere(self, running: Running, attempt: Attempt, found: Failure) -> Attempt | None:
        """Return the attempt at another account, after one has failed; None where there is none that could answer.

        No id of the account's is in it: the whole history goes along.
        """
        if not fails_over(found):
            return None
        turn, failed = running.turn, attempt.account
        if found.code not in PASSED_ON:
            failed.breaker(turn.request.model).failed(time.monotonic(), found.kind)
        tried = (*attempt.tried, failed)
        other = await self._accounts.next(turn.project_id, turn.request.model, list(tried))
        if other is None:
            return None
        log.warning("an account does not answer; the turn goes on at another", why=found.kind, to=other.name)
        target = self.at(turn, other).target
        running.attempt = attempt = replace(attempt, account=other, target=target, tried=tried)
        attempt = await self._rebuilt(running, attempt, ContinuationReason.FAILOVER)
        metrics.of(metrics.MOVES, found.kind).inc()
        metrics.MOVED_TOKENS.inc(attempt.sent.weight)
        return attempt

    def format_ignored(self, attempt: Attempt) -> None:
        """Record an answer that does not fit its format: the instructions of later turns ask for it."""
        if attempt.target.enforces_format:
            self._reader.observations.at(attempt.target.binding).format_ignored(attempt.target.model)

    def at(self, turn: Opened, account: ProviderAccount) -> Attempt:
        """Return the beginning of an attempt at an account."""
        target = self._reader.target(account.binding, turn.request.family, turn.request.model)
        return Attempt(account, target, self._compactions.threshold(target.abilities.token_budget, turn.request.params))

    async def _parent(self, turn: Opened, prefetched: "asyncio.Future[Any] | None") -> LiveId | ContinuationReason:
        """Return the parent's response id, from Redis, else from Postgres; or the reason why there is none."""
        if turn.parent_id is None:
            return ContinuationReason.FIRST_TURN
        if turn.parent_lost is not None:
            return turn.parent_lost
        cached = await self._live_ids.get(turn.project_id, turn.thread_id, prefetched)
        if cached is not None and cached.turn_id == turn.parent_id:
            metrics.of(metrics.LIVE_ID_LOOKUPS, "hit").inc()
            return cached
        metrics.of(metrics.LIVE_ID_LOOKUPS, "miss").inc()
        return await self._store.parent(turn.project_id, turn.parent_id)

    async def _is_shorter_now(self, turn: Opened, live: LiveId) -> bool:
        """Return True if a compaction has become ready since the chain began, and is worth beginning another."""
        reduced = live.context.reduced
        if reduced is not None and reduced.step is Step.LEFT_OUT:
            return False  # The summary was refused.
        assert turn.parent_id is not None
        nearest = await self._reader.store.nearest(turn.project_id, turn.parent_id)
        return nearest is not None and nearest.hex != live.context.compaction

    async def _rebuilt(
        self, running: Running, attempt: Attempt, reason: ContinuationReason | None, token_budget: int | None = None
    ) -> Attempt:
        """Return the attempt that sends the whole conversation.

        Args:
            reason: the reason to rebuild, if the turn was chained.
            token_budget: the size of its input; None for what the model takes.

        Raises:
            ProviderError: it does not fit, and the request would rather fail than leave something out.
        """
        turn, now = running.turn, self.at(running.turn, attempt.account)
        attempt = replace(attempt, target=now.target, threshold=now.threshold, envelope=body_envelope(turn, now.target))
        if turn.parent_id is not None:
            if attempt.pieces is None:
                pieces = await self._store.pieces(turn.project_id, turn.thread_id)
                attempt = replace(attempt, pieces=Pieces(pieces, turn.sealer.digest))
            if attempt.reduction is None:
                kept = await self._reader.store.context(turn.project_id, turn.parent_id)
                attempt = replace(attempt, context=kept)
        if attempt.context.reasoning_refused == attempt.model_at_account:
            attempt = replace(attempt, reasoning=False)
        running.attempt = attempt
        reduction = attempt.reduction or attempt.context.reduced
        if reduction is not None and reduction.target != attempt.model_at_account:
            reduction = None  # Another model, or another account, is sent everything.
        leaves_out = turn.request.params.get("truncation") != "disabled"
        if reduction is not None and not leaves_out:
            reduction = replace(reduction, step=min(reduction.step, LAST_IN_WORDS))
        rebuilt = await self._model_input(turn, attempt, reduction, token_budget)
        if rebuilt.dropped_items and not leaves_out:
            raise ProviderError(failure.too_long(token_budget or attempt.target.abilities.token_budget))
        return _with_history(turn, attempt, rebuilt, reason)

    async def _model_input(
        self, turn: Opened, attempt: Attempt, reduction: Reduction | None, token_budget: int | None = None
    ) -> ModelInput:
        target = attempt.target
        if token_budget is not None:
            target = replace(target, abilities=replace(target.abilities, token_budget=token_budget))
        return await self._reader.model_input(
            turn.project_id,
            turn.parent_id,
            turn.request.input,
            within(target, attempt.envelope.overhead_tokens, len(attempt.envelope.head) + len(attempt.envelope.tail)),
            reduction=reduction,
            reasoning=attempt.reasoning,
        )

    async def _forgotten(self, running: Running, attempt: Attempt) -> Attempt:
        """Note that the provider does not know the id that the turn was chained on, and rebuild."""
        turn = running.turn
        assert turn.parent_id is not None
        log.info("the provider does not know a live id; rebuilding")
        await self._live_ids.forget(turn.project_id, turn.thread_id)
        await self._store.forget_response(turn.project_id, turn.parent_id)
        return await self._rebuilt(running, attempt, ContinuationReason.RESPONSE_ID_UNKNOWN)

    async def _without_reasoning(self, running: Running, attempt: Attempt, found: Failure) -> Attempt | None:
        """Return an attempt without encrypted reasoning, which another model or account may have made.

        None where there is none, or the refusal is not about the input.
        """
        request = running.turn.request
        if not failure.may_be_the_input(found) or not any(map(is_encrypted_reasoning, attempt.input)):
            return None
        log.warning("the provider refuses encrypted reasoning; the rest is sent without it", code=found.code)
        attempt = replace(attempt, reasoning=False)
        if attempt.continuation is not Continuation.CHAINED:
            return await self._rebuilt(running, attempt, attempt.reason)
        target = self.at(running.turn, attempt.account).target
        sent = new_input(request.items, target.abilities, reasoning=False)
        left_out = attempt.context.reasoning_left_out + sum(item.is_encrypted_reasoning for item in request.items)
        return replace(
            attempt,
            input=sent,
            body=write_body(attempt.envelope, sent, request.input),
            context=replace(attempt.context, reasoning_left_out=left_out, reasoning_refused=attempt.model_at_account),
        )

    async def _may_be_the_chain(self, turn: Opened, attempt: Attempt, found: Failure) -> bool:
        """Return True if a chained call was refused for what its chain holds rather than for the new input.

        New input was checked before it was sent, so an invalid input points to the chain. Content inspection refuses
        new input far more often: only its second refusal in a row is taken for one of the chain. The first is recorded
        in Redis.
        """
        live = attempt.live
        if live is None or attempt.continuation is not Continuation.CHAINED or not failure.may_be_the_input(found):
            return False
        if found.cause is Cause.INVALID_INPUT or live.refused:
            return True
        if turn.request.stored:
            await self._live_ids.put(turn.project_id, turn.thread_id, replace(live, refused=True))
        return False

    async def _smaller(self, running: Running, attempt: Attempt, found: Failure) -> Attempt | None:
        """Learn from the refusal of an input as too long, and return an attempt with less.

        None where that is not wanted, or there is nothing that could be left out.
        """
        turn, request = running.turn, running.turn.request
        if request.params.get("truncation") == "disabled" or turn.parent_id is None:
            return None
        weight, limit = attempt.sent.weight, failure.limit_in(found.message)
        if limit is not None:
            self._reader.observations.at(attempt.account.binding).refused(request.model, limit)
        most = self.at(turn, attempt.account).target.abilities.token_budget
        budget = min(most, int(SMALLER_SHARE * weight), limit or weight)
        smaller = await self._rebuilt(running, attempt, ContinuationReason.CHAIN_TOO_LONG, budget)
        return smaller if smaller.sent.weight < weight else None

    async def _less(self, running: Running, attempt: Attempt, found: Failure) -> Attempt | None:
        """Return an attempt with less of a rebuilt history, by the next step that changes something.

        The new input stays as it is. None where no step is left: the last refusal is about the new input, and is the
        client's.

        Raises:
            ProviderError: the last refusal, naming the turns of the system messages and pinned items that were sent.
        """
        turn = running.turn
        if (
            not failure.may_be_the_input(found)
            or attempt.continuation is not Continuation.REBUILT
            or turn.parent_id is None
        ):
            return None
        attempt = replace(attempt, target=self.at(turn, attempt.account).target)
        reached = Step.WITHOUT_IMAGES if attempt.reduction is None else attempt.reduction.step
        last = LAST_IN_WORDS if turn.request.params.get("truncation") == "disabled" else Step.LEFT_OUT
        next_reduction = Reduction(reached, turn.parent_id.hex, attempt.model_at_account, found.code)
        rebuilt: ModelInput | None = None
        for step in Step:
            if not reached <= step <= last:
                continue
            rebuilt = await self._model_input(turn, attempt, replace(next_reduction, step=step))
            if rebuilt.reduction is None or rebuilt.input == attempt.input:
                continue  # The same would be refused again.
            changed = _changed(attempt, rebuilt)
            rebuilt = replace(rebuilt, reduction=replace(rebuilt.reduction, refused=first_and_last(changed)))
            log.warning("the provider refuses a rebuilt history; less of it is sent", step=step.label, code=found.code)
            metrics.of(metrics.REDUCED_HISTORIES, step.label).inc()
            return _with_history(turn, attempt, rebuilt, attempt.reason)
        if last is Step.LEFT_OUT and (sent := _sent_turns(rebuilt)):
            raise ProviderError(failure.with_kept(found, [ids.turn_id(turn) for turn in sent]))
        return None


def _chained(turn: Opened, attempt: Attempt, live: LiveId) -> Attempt:
    """Return the attempt that sends the new input alone, on the parent's response id."""
    target, items = attempt.target, turn.request.items
    envelope = body_envelope(turn, target, live.response_id)
    sent = new_input(items, target.abilities)
    body = body_of_input(envelope, items, sent)
    size = len(body.sent) - len(envelope.head) - len(envelope.tail)
    weight = sum(map(TOKENS, items))
    return Attempt(
        attempt.account,
        target,
        attempt.threshold,
        ContinuationReason.LIVE_RESPONSE_ID,
        live,
        live.context,
        body,
        envelope,
        sent,
        sent=context.chained(live.context, size, weight, envelope.overhead_tokens),
    )


def _with_history(turn: Opened, attempt: Attempt, rebuilt: ModelInput, reason: ContinuationReason | None) -> Attempt:
    """Return the attempt that sends a rebuilt input, with what it leaves out.

    Args:
        reason: the reason to rebuild, if the turn was chained.
    """
    envelope = attempt.envelope
    weight = rebuilt.tokens + envelope.overhead_tokens
    if turn.parent_id is not None:
        metrics.REBUILT_ITEMS.observe(len(rebuilt.input))
        metrics.DROPPED_ITEMS.inc(rebuilt.dropped_items)
    return replace(
        attempt,
        reason=reason if attempt.continuation is Continuation.CHAINED else attempt.reason,
        body=write_body(envelope, rebuilt.input, turn.request.input, rebuilt.sources, attempt.pieces, rebuilt.encoded),
        input=rebuilt.input,
        sources=rebuilt.sources,
        sent=Sent(weight, weight if rebuilt.counted else None, overhead_tokens=envelope.overhead_tokens),
        dropped_items=rebuilt.dropped_items,
        reduction=rebuilt.reduction,
        context=replace(
            attempt.context,
            dropped_items=rebuilt.dropped_items,
            since=(attempt.context.since or turn.id.hex) if rebuilt.dropped_items else None,
            compaction=None if rebuilt.compaction is None else rebuilt.compaction.hex,
            images_in_words=rebuilt.media_as_text.get("image", 0),
            videos_in_words=rebuilt.media_as_text.get("video", 0),
            audio_in_words=rebuilt.media_as_text.get("audio", 0),
            files_in_words=rebuilt.media_as_text.get("file", 0),
            reduced=rebuilt.reduction,
            reasoning_left_out=rebuilt.reasoning_left_out,
            reasoning_refused=None if attempt.reasoning else attempt.model_at_account,
        ),
    )


def _changed(attempt: Attempt, rebuilt: ModelInput) -> list[UUID]:
    """Return the turns of the history of which a rebuilt input holds something else than the one before, in order."""
    before, now = _with_sources(attempt.sources, attempt.input), _with_sources(rebuilt.sources, rebuilt.input)
    touched = {item_id for sources, _ in before - now for item_id in sources}
    return list(dict.fromkeys(turn for item_id, turn in rebuilt.turns.items() if item_id in touched))


def _sent_turns(rebuilt: ModelInput | None) -> list[UUID]:
    """Return the turns of the history of which a rebuilt input holds something, in order."""
    if rebuilt is None:
        return []
    sent = {item_id for sources in rebuilt.sources for item_id in sources}
    return list(dict.fromkeys(turn for item_id, turn in rebuilt.turns.items() if item_id in sent))


def _with_sources(sources: Sequence[Sequence[str]], items: Sequence[Item]) -> Counter[tuple[tuple[str, ...], bytes]]:
    return Counter((tuple(of), orjson.dumps(item)) for of, item in zip(sources, items, strict=True))


def body_envelope(turn: Opened, target: Target, previous_response_id: str | None = None) -> Envelope:
    """Return the envelope of a turn's body.

    Instructions, tools and sampling go with every turn: a chain carries items only.
    """
    request = turn.request
    rest = request.family.fitted(request.params) if request.params else {}
    if "text" in rest and structured.is_prompted(rest, enforced=target.enforces_format, streamed=request.streamed):
        rest = structured.with_format_instructions(rest)
    if "tool_choice" in rest:
        rest = structured.with_known_choice(rest)
    for name in OURS:
        rest.pop(name, None)
    if previous_response_id is not None:
        rest["previous_response_id"] = previous_response_id
    if request.streamed:
        rest["stream"] = True
    behind = b"," + orjson.dumps(rest)[1:] if rest else b"}"
    return Envelope(b'{"model":' + orjson.dumps(request.model) + b',"input":[', b"]" + behind)
