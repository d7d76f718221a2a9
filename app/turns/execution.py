"""The way of a turn from its opening to its closing, step by step.

`run`: `_continue` → `_ask` (again if the provider forgot the chain, or was busy) → `_complete`, or `_fail` → `_close`.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import structlog

from app.accounts.pool import PASSED_ON, Accounts, goes_on_elsewhere
from app.chain import answer as answers
from app.chain import continuation
from app.chain.answer import Answer
from app.chain.continuation import Continuation, Target
from app.chain.live_ids import LiveId, LiveIds
from app.chain.rebuild import new_input
from app.chain.reduction import LAST_IN_WORDS, Reduction, Step, first_and_last, target_of
from app.db import ids
from app.http.errors import DatabaseUnavailable, ServiceStopping
from app.items.kinds import is_encrypted_reasoning
from app.items.provider_door import usable_id
from app.items.shapes import Item, message
from app.items.unreadable import ContentUnreadable
from app.items.weights import BYTES_PER_TOKEN, added, tokens
from app.memory.compaction import Compactions, Wanted
from app.memory.reader import Given, Reader, with_reasoning, within
from app.process.killable import Killable
from app.provider import failure, structured
from app.provider.client import SESSION_CACHE, ProviderError
from app.provider.error_table import tool_names
from app.provider.failure import RETRIED, Cause, Failure, Kind
from app.provider.refusals import client_error
from app.settings import Settings
from app.telemetry import metrics
from app.telemetry.spans import tracer
from app.turns import context
from app.turns.closer import Closer
from app.turns.closing import (
    INTERRUPTED,
    TOO_LARGE,
    CallRecord,
    Closing,
    broken_off,
    closed_elsewhere,
    deleted,
    kept_response,
)
from app.turns.pieces import Body, Pieces, written
from app.turns.provider_call import ProviderCall
from app.turns.running import Running, Sent
from app.turns.schemas import OF_CONVERSATION, TurnRequest
from app.turns.show import response_object, with_status
from app.turns.store import Opened, TurnStore

log = structlog.get_logger()

OURS = ("background", "context_management", OF_CONVERSATION, "truncation")
"""Parameters that the provider does not know, and the service acts on."""

CUT_SHORT = {Kind.BROKEN: INTERRUPTED, Kind.TIMEOUT: INTERRUPTED, Kind.TOO_LARGE: TOO_LARGE}
"""The `reason` of the incomplete response that is kept, by the failure that cut it short."""

MOST_UNLISTED = 100
"""Models that the log tells of."""

SMALLER_SHARE = 0.8
"""Of an input that was refused as too long: what is sent next, where the provider has not said how long one may be."""


class TurnExecution:
    def __init__(
        self,
        store: TurnStore,
        accounts: Accounts,
        live_ids: LiveIds,
        closer: Closer,
        reader: Reader,
        compactions: Compactions,
        killable: Killable,
        settings: Settings,
    ) -> None:
        self._killable = killable
        self._store = store
        self._reader = reader
        self._compactions = compactions
        self._accounts = accounts
        self._live_ids = live_ids
        self._closer = closer
        self._settings = settings
        self._unlisted: set[str] = set()
        self.ending = False
        """True once running turns have had their time: no model is asked any more."""

    async def run(self, running: Running) -> None:
        turn = running.turn
        with tracer().span(
            "turn", {"everthread.turn": ids.turn_id(turn.id), "everthread.thread": ids.thread_id(turn.thread_id)}
        ) as span:
            try:
                await self._run_to_its_end(running)
            except ServiceStopping as error:
                running.error = error
                await running.recorder.leave()
                running.relay.say_gone(error)
            span.add({"everthread.continuation": running.continuation.value})
            if running.error is not None:
                span.fail(running.error.meaning)

    async def _run_to_its_end(self, running: Running) -> None:
        try:
            if self.ending:
                raise ProviderError(failure.stopped())
            body = await self._continue(running)
            answer = await self._fitting(running, await self._ask(running, body))
            await self._complete(running, answer)
        except ProviderError as error:
            await self._fail(running, error.failure)
        except (ContentUnreadable, DatabaseUnavailable) as error:
            await self._refuse(running, error)
        except asyncio.CancelledError:
            if running.closing:
                running.closed = True  # The process ends while it is being closed: what is on disk stays there.
                raise
            await self._fail(running, failure.stopped())
            if not running.cancelled:
                raise
        finally:
            if not running.closed:
                log.error("a turn ended in an unexpected way")
                internal = {"code": "internal_error", "message": "The service failed on this turn."}
                status = None if running.answerable.done() else 500
                await self._close(running, running.failed(internal, status))

    def _target(self, running: Running) -> Target:
        request = running.turn.request
        return self._reader.target(running.account.binding, request.family, request.model)

    async def _continue(self, running: Running) -> Body:
        """Decide by which account and how the turn reaches the model, and write the body that it is sent."""
        turn = running.turn
        live = None if turn.parent_id is None else await self._live(running, turn.parent_id)
        home = None if live is None else live.binding
        running.asked_account = await self._accounts.first(turn.project_id, turn.request.model, home)
        target = self._target(running)
        if live is not None and await self._is_shorter_now(running, live):
            live = None
        running.continuation = continuation.decide(
            turn.parent_id,
            live,
            target,
            turn.request.items,
            now=time.time(),
            margin_seconds=self._settings.response_id_margin_seconds,
        )
        if running.continuation is Continuation.CHAINED:
            assert live is not None
            running.live = live
            head, tail = _frames(turn, live.response_id)
            running.context = live.context
            running.input = new_input(with_reasoning(turn.request.items), target.abilities)
            body = written(head, running.input, tail, turn.request.items)
            running.frame = (head, tail)
            running.sent = context.chained(
                live.context, len(body.sent) - len(head) - len(tail), sum(map(tokens, turn.request.items)), _frame(tail)
            )
            return body
        body = await self._rebuild(running, target)
        if home not in (None, target.binding):
            metrics.MOVED_TOKENS.inc(running.sent.weight)
        return body

    async def _is_shorter_now(self, running: Running, live: LiveId) -> bool:
        """Whether a compaction has become ready since the chain began, and is worth beginning another."""
        turn, threshold = running.turn, self._threshold(running)
        reduced = live.context.reduced
        if reduced is not None and reduced.step is Step.LEFT_OUT:
            return False  # The summary was refused.
        if threshold is None or live.context.tokens < threshold or turn.parent_id is None:
            return False
        nearest = await self._reader.store.nearest(turn.project_id, turn.parent_id)
        return nearest is not None and nearest.hex != live.context.compaction

    def _threshold(self, running: Running) -> int | None:
        request = running.turn.request
        return self._compactions.threshold(running.account.binding, request.family, request.model, request.params)

    async def _live(self, running: Running, parent_id: UUID) -> LiveId | None:
        """The parent's response id: from Redis, else from Postgres."""
        turn = running.turn
        if turn.parent_forgotten:
            return None
        cached = await self._live_ids.get(turn.project_id, turn.thread_id, running.asked)
        if cached is not None and cached.turn_id == parent_id:
            metrics.of(metrics.LIVE_ID_LOOKUPS, "hit").inc()
            return cached
        metrics.of(metrics.LIVE_ID_LOOKUPS, "miss").inc()
        return await self._store.parent(turn.project_id, parent_id)

    async def _rebuild(self, running: Running, target: Target) -> Body:
        """The body that carries the whole conversation on.

        Raises:
            ProviderError: it does not fit, and the request would rather fail than leave something out.
        """
        turn = running.turn
        if turn.parent_id is not None:
            if not running.pieces_read:
                running.pieces = Pieces(await self._store.pieces(turn.project_id, turn.thread_id), turn.sealer.digest)
                running.pieces_read = True
            if running.reduction is None:
                running.context = await self._reader.store.context(turn.project_id, turn.parent_id)
        if running.context.reasoning_refused == target_of(target.binding, target.model):
            running.reasoning = False
        reduction = running.reduction or running.context.reduced
        if reduction is not None and reduction.target != target_of(target.binding, target.model):
            reduction = None  # Another model, or another account, is sent everything.
        leaves_out = turn.request.params.get("truncation") != "disabled"
        if reduction is not None and not leaves_out:
            reduction = replace(reduction, step=min(reduction.step, LAST_IN_WORDS))
        given = await self._given(running, target, reduction)
        if given.dropped_items and not leaves_out:
            raise ProviderError(failure.too_long(target.abilities.token_budget))
        return self._written(running, given)

    async def _given(self, running: Running, target: Target, reduction: Reduction | None) -> Given:
        turn = running.turn
        head, tail = _frames(turn, None)
        room = within(target, _frame(tail), len(head) + len(tail))
        return await self._reader.given(
            turn.project_id,
            turn.parent_id,
            turn.request.items,
            room,
            reduction=reduction,
            reasoning=running.reasoning,
        )

    def _written(self, running: Running, given: Given) -> Body:
        """The body that carries a rebuilt input, with what the turn says of it."""
        turn = running.turn
        head, tail = _frames(turn, None)
        frame = _frame(tail)
        running.dropped_items = given.dropped_items
        if turn.parent_id is not None:
            running.continuation = Continuation.REBUILT
            metrics.REBUILT_ITEMS.observe(len(given.input))
            metrics.DROPPED_ITEMS.inc(given.dropped_items)
        weight = given.tokens + frame
        running.frame, running.sources, running.reduction = (head, tail), given.sources, given.reduction
        running.input, running.sent = given.input, Sent(weight, weight if given.counted else None, frame=frame)
        running.context = replace(
            running.context,
            dropped_items=given.dropped_items,
            since=(running.context.since or turn.id.hex) if given.dropped_items else None,
            compaction=None if given.compaction is None else given.compaction.hex,
            images_in_words=given.images_in_words,
            reduced=given.reduction,
            reasoning_left_out=given.reasoning_left_out,
            reasoning_refused=None if running.reasoning else self._refused_by(running),
        )
        return written(head, given.input, tail, turn.request.items, given.sources, running.pieces)

    async def _ask(self, running: Running, body: Body, *, with_less: bool = True) -> Answer:
        """Call the provider until it has answered, or the attempts are used up.

        Args:
            with_less: whether a rebuilt history that the provider refuses is sent with less.

        Raises:
            ProviderError: the last attempt's.
        """
        attempts = self._settings.provider_attempts
        while True:
            try:
                return await self._call(running, body)
            except ProviderError as error:
                found = error.failure
                if running.relay.spoken:
                    raise  # A part of the answer is with the client.
                if found.kind is Kind.UNKNOWN_PREVIOUS and running.continuation is Continuation.CHAINED:
                    body = await self._forget(running)
                    continue
                if with_less and (plain := await self._without_reasoning(running, found)) is not None:
                    body = plain
                    continue
                if with_less and await self._may_be_the_chain(running, found):
                    log.warning("the provider refuses a chained turn; its history is sent instead", code=found.code)
                    body = await self._rebuild(running, self._target(running))
                    continue
                if found.code == failure.TOO_LONG and (smaller := await self._smaller(running, found)) is not None:
                    body = smaller
                    continue
                if with_less and (less := await self._less(running, found)) is not None:
                    body = less
                    continue
                attempts -= 1
                pause = failure.pause(found, self._settings.provider_attempts - attempts)
                if found.kind not in RETRIED or attempts == 0 or pause > failure.LONGEST_BACKOFF_SECONDS:
                    if (moved := await self._moved(running, found)) is None:
                        raise
                    body, attempts = moved, self._settings.provider_attempts
                    continue
            await asyncio.sleep(pause)

    async def _moved(self, running: Running, found: Failure) -> Body | None:
        """The body for another account, after one has failed; None where there is none that could answer instead.

        No id of the account's is in it: the whole history goes along.
        """
        if not goes_on_elsewhere(found):
            return None
        turn, failed = running.turn, running.account
        if found.code not in PASSED_ON:
            failed.breaker(turn.request.model).failed(time.monotonic())
        running.tried.append(failed)
        other = await self._accounts.next(turn.project_id, turn.request.model, running.tried)
        if other is None:
            return None
        log.warning("an account does not answer; the turn goes on at another", why=found.kind, to=other.name)
        running.asked_account = other
        body = await self._rebuild(running, self._target(running))
        metrics.of(metrics.MOVES, found.kind).inc()
        metrics.MOVED_TOKENS.inc(running.sent.weight)
        return body

    async def _fitting(self, running: Running, answer: Answer) -> Answer:
        """An answer in the format that was asked for, as far as the model can be brought to it. Its response says
        whether it fits; a stream's has been said by now, and is only looked at."""
        request = running.turn.request
        if structured.asked_format(request.params) is None or not answer.text or answer.open_calls:
            return answer  # Words beside a tool call that waits for its output are not the answer in its format.
        again = 0
        while True:
            check = await self._checked(running, answer)
            if check.fits is not False or self.ending:
                break
            if request.streamed or again == self._settings.structured_retries or answer.status != "completed":
                break
            log.info("an answer does not fit its format; it is asked for once more")
            again += 1
            talk = [message("assistant", answer.text), message("user", structured.ask_again(check.fault or ""))]
            usage = answer.response.get("usage")
            try:
                answer = await self._ask(running, running.with_more(talk), with_less=False)
            except ProviderError:
                break  # The answer that there is, is one.
            except asyncio.CancelledError:
                self._keep_on(running)
                break
            running.counted = answer.response.get("usage")
            answer.response["usage"] = added(usage, running.counted)
        answer.response["format_check"] = {"fits": check.fits, "fault": check.fault, "asked_again": again}
        return answer

    async def _checked(self, running: Running, answer: Answer) -> structured.Check:
        """Check an answer. At the end of the process it is kept unchecked: the model has given it."""
        turn = running.turn
        try:
            return await structured.check(turn.request.params, answer.text, turn.project_id, self._killable)
        except asyncio.CancelledError:
            self._keep_on(running)
            return structured.Check(None, "not checked: the service was stopped")

    def _keep_on(self, running: Running) -> None:
        """Withdraw a cancellation that comes from the end of the process, once there is an answer to be stored.

        Raises:
            CancelledError: the turn itself was cancelled.
        """
        task = asyncio.current_task()
        if running.cancelled or not self.ending or task is None:
            raise asyncio.CancelledError
        task.uncancel()

    async def _forget(self, running: Running) -> Body:
        """The provider does not know the id that we chained on: remember that, and rebuild."""
        turn = running.turn
        assert turn.parent_id is not None
        log.info("the provider does not know a live id; rebuilding")
        await self._live_ids.forget(turn.project_id, turn.thread_id)
        await self._store.forget_response(turn.project_id, turn.parent_id)
        return await self._rebuild(running, self._target(running))

    async def _may_be_the_chain(self, running: Running, found: Failure) -> bool:
        """Return True if a chained call was refused for what its chain holds rather than for the new input.

        New input was checked before it was sent, so an invalid input points to the chain. Content inspection refuses
        new input far more often: only its second refusal in a row is taken for one of the chain. The first is recorded
        in Redis.
        """
        live, turn = running.live, running.turn
        if live is None or running.continuation is not Continuation.CHAINED or not failure.may_be_the_input(found):
            return False
        if found.cause is Cause.INVALID_INPUT or live.refused:
            return True
        if turn.request.keep:
            await self._live_ids.put(turn.project_id, turn.thread_id, replace(live, refused=True))
        return False

    async def _smaller(self, running: Running, found: Failure) -> Body | None:
        """The provider has refused the input as too long: learn from it, and send less. None where that is not wanted,
        or there is nothing that could be left out."""
        turn, request = running.turn, running.turn.request
        if request.params.get("truncation") == "disabled" or turn.parent_id is None:
            return None
        weight, limit = running.sent.weight, failure.limit_in(found.message)
        if limit is not None:
            self._reader.observations.at(running.account.binding).refused(request.model, limit)
        target = self._target(running)
        budget = min(target.abilities.token_budget, int(SMALLER_SHARE * weight), limit or weight)
        body = await self._rebuild(running, replace(target, abilities=replace(target.abilities, token_budget=budget)))
        return body if running.sent.weight < weight else None

    async def _without_reasoning(self, running: Running, found: Failure) -> Body | None:
        """The provider has refused an input with encrypted reasoning, perhaps because another model or account made it:
        send it without. None where there is none, or the refusal is not about the input."""
        request = running.turn.request
        if not failure.may_be_the_input(found) or not any(map(is_encrypted_reasoning, running.input)):
            return None
        log.warning("the provider refuses encrypted reasoning; the rest is sent without it", code=found.code)
        running.reasoning = False
        target = self._target(running)
        if running.continuation is not Continuation.CHAINED:
            return await self._rebuild(running, target)
        head, tail = running.frame
        running.input = new_input(request.items, target.abilities)
        left_out = running.context.reasoning_left_out + sum(map(is_encrypted_reasoning, request.items))
        running.context = replace(
            running.context, reasoning_left_out=left_out, reasoning_refused=self._refused_by(running)
        )
        return written(head, running.input, tail, request.items)

    def _refused_by(self, running: Running) -> str:
        target = self._target(running)
        return target_of(target.binding, target.model)

    async def _less(self, running: Running, found: Failure) -> Body | None:
        """The provider has refused a rebuilt input: send less of the history, by the next step that changes something.

        The new input stays as it is. None where no step is left: the last refusal is about the new input, and is the
        client's.

        Raises:
            ProviderError: the last refusal, naming the turns of the system messages and pinned items that were sent.
        """
        turn = running.turn
        if (
            not failure.may_be_the_input(found)
            or running.continuation is not Continuation.REBUILT
            or turn.parent_id is None
        ):
            return None
        target = self._target(running)
        reached = Step.WITHOUT_IMAGES if running.reduction is None else running.reduction.step
        last = LAST_IN_WORDS if turn.request.params.get("truncation") == "disabled" else Step.LEFT_OUT
        asked = Reduction(reached, turn.parent_id.hex, target_of(target.binding, target.model), found.code)
        given: Given | None = None
        for step in Step:
            if not reached <= step <= last:
                continue
            given = await self._given(running, target, replace(asked, step=step))
            if given.reduction is None or given.input == running.input:
                continue  # The same would be refused again.
            changed = _changed(running, given)
            given = replace(given, reduction=replace(given.reduction, refused=first_and_last(changed)))
            log.warning("the provider refuses a rebuilt history; less of it is sent", step=step.says, code=found.code)
            metrics.of(metrics.REDUCED_HISTORIES, step.says).inc()
            return self._written(running, given)
        if last is Step.LEFT_OUT and (kept := _kept_turns(given)):
            raise ProviderError(failure.with_kept(found, [ids.turn_id(turn) for turn in kept]))
        return None

    async def _call(self, running: Running, body: Body) -> Answer:
        """One attempt, with its record."""
        turn, account = running.turn, running.account
        provider = account.provider
        started_at = datetime.now(UTC)
        stream = turn.request.streamed
        status: int | None = 200
        error: dict[str, Any] | None = None
        response_id: str | None = None
        headers = self._headers(running)
        with ProviderCall(
            provider.url,
            account.label,
            turn.request.model,
            stream=stream,
            conversation=ids.thread_id(turn.thread_id),
        ) as call:
            try:
                if stream:
                    async with provider.stream(running.admission, body.sent, headers) as chunks:
                        answer = await running.relay.pass_on(chunks, call)
                else:
                    answer = answers.from_body(await provider.respond(running.admission, body.sent, headers))
                response_id = answer.response["id"]
                call.answered(answer.response)
                running.admission.add(answer.response.get("usage"), turn.request.family.price, account.binding)
                if account.breakers:
                    account.breaker(turn.request.model).answered()
                return answer
            except ProviderError as refused:
                refused.failure = failure.without_tools(refused.failure, _tool_names(turn.request))
                status, error = refused.failure.status, {**refused.failure.as_error(), "account": provider.account}
                response_id = usable_id(running.relay.opening.get("id"))
                call.failed(refused.failure.kind.value)
                raise
            finally:
                running.calls.append(
                    CallRecord(
                        running.continuation.value,
                        provider.account,
                        provider.url,
                        body,
                        running.dropped_items,
                        status,
                        response_id,
                        error,
                        started_at,
                        datetime.now(UTC),
                    )
                )

    def _headers(self, running: Running) -> dict[str, str]:
        """The client's, and whether its context is to be cached, where it does not say."""
        mode = running.turn.request.origin.session_cache or self._settings.session_cache
        if SESSION_CACHE in running.headers or not context.wants_cache(mode, running.context, running.sent.weight):
            return running.headers
        return {**running.headers, SESSION_CACHE: "enable"}

    def _tell_unlisted(self, model: str) -> None:
        """Say of a model, once, that nothing is known of it. It has answered: its name is no client's invention."""
        if model not in self._unlisted and len(self._unlisted) < MOST_UNLISTED:
            self._unlisted.add(model)
            log.warning("a model is not listed: it is taken for one with a window of a million tokens", model=model)

    async def _complete(self, running: Running, answer: Answer) -> None:
        turn, request, response = running.turn, running.turn.request, answer.response
        running.closing = True  # The model has answered: the end of the process waits until that is kept.
        if not request.family.name:
            self._tell_unlisted(request.model)
        ends = continuation.expires_at(
            response.get("created_at"),
            called_at=running.calls[-1].started_at.timestamp(),
            ttl_seconds=self._settings.response_id_ttl_seconds,
        )
        live = request.params.get("store") is not False and answer.chainable
        now = time.time()
        response["completed_at"] = int(now)
        usage = response.get("usage")
        running.context = await context.after(running, running.counted or usage, self._reader.observations, now)
        closing = Closing(
            answer.status,
            output=answer.output,
            response=kept_response(response),
            usage=usage,
            incomplete_details=response.get("incomplete_details") if answer.status == "incomplete" else None,
            response_id=response["id"],
            response_created_at=_moment(response.get("created_at")),
            response_expires_at=datetime.fromtimestamp(ends, UTC) if live else None,
            context=running.context.kept(),
            **self._way_of(running),
        )
        kept = await self._close(running, closing)
        if kept is None:
            await self._closed_elsewhere(running)
            return
        running.response = response_object(turn, kept.shown(response))
        running.relay.say_last(running.response, to_all=True)
        # Before anything is waited for: the thread's next turn may come at once, and looks for it.
        if live and request.keep:
            entry = LiveId(
                turn.id,
                response["id"],
                running.account.binding,
                request.model,
                ends,
                running.context,
                answer.open_calls,
            )
            await self._live_ids.put(turn.project_id, turn.thread_id, entry)
        await running.recorder.end()
        threshold = self._threshold(running)
        if request.keep and threshold is not None and running.context.tokens >= threshold:
            running.compaction = Wanted(turn.project_id, turn.id, request.model)
        running.text = answer.text

    async def _fail(self, running: Running, found: Failure) -> None:
        """Close a turn that has no answer, or only the beginning of one."""
        relay, found = running.relay, _with_successor(running.turn.request, found)
        refused = client_error(found)
        has_begun = relay.begun or running.turn.request.background
        closing = broken_off(
            running.events.since(0),
            relay.opening,
            found.as_error(),
            reason=CUT_SHORT.get(found.kind) if relay.begun or found.kind is Kind.TOO_LARGE else None,
            cancelled=running.cancelled,
            error_status=None if has_begun else refused.status,
        )
        if found.kind in CUT_SHORT and (relay.begun or running.cancelled) and running.sent.weight:
            # The provider has read the input and begun to write, and charges for it.
            written = sum(tokens(item.item) for item in closing.output)
            running.uncounted = {"input_tokens": running.sent.weight, "output_tokens": written}
        kept = await self._close(running, replace(closing, **self._way_of(running)))
        if kept is None:
            await self._closed_elsewhere(running)
            return
        shown = response_object(running.turn, kept.shown(relay.opening))
        if kept.status == "failed":
            running.error = refused
        else:
            running.response = shown
        if running.error is not None:
            shown = with_status(shown, refused)
        relay.say_last(shown, to_all=running.error is None)
        await running.recorder.end()

    async def _refuse(self, running: Running, error: ContentUnreadable | DatabaseUnavailable) -> None:
        """Close a turn whose history cannot be read: the model is not asked."""
        relay = running.relay
        has_begun = relay.begun or running.turn.request.background
        said = {"code": error.code, "message": error.message}
        kept = await self._close(running, running.failed(said, None if has_begun else error.status))
        if kept is None:
            await self._closed_elsewhere(running)
            return
        running.error = error
        shown = response_object(running.turn, kept.shown(relay.opening))
        relay.say_last(with_status(shown, error), to_all=False)
        await running.recorder.end()

    def _way_of(self, running: Running) -> dict[str, Any]:
        """What a closing says of how its turn has come to the model."""
        return {
            "continuation": running.continuation.value,
            "calls": running.calls,
            "binding": None if running.asked_account is None else running.asked_account.binding,
            "pace": running.recorder.pace.measured(),
            "pieces": running.pieces.new,
            "replaced_model": running.turn.request.replaced_model,
        }

    async def _closed_elsewhere(self, running: Running) -> None:
        """Another worker took this one for dead and closed the turn, or somebody deleted it: that stands."""
        log.warning("a turn was closed or deleted meanwhile")
        turn = running.turn
        why = running.error = closed_elsewhere()
        if not await running.recorder.abandon(lambda: self._store.exists(turn.project_id, turn.id)):
            why = running.error = deleted()
        running.relay.say_gone(why)

    async def _close(self, running: Running, closing: Closing) -> Closing | None:
        """Close the turn, if anything of it is kept.

        Returns:
            What it was closed with; None if it was closed by somebody else, or deleted.

        Raises:
            ServiceStopping: the process has to end before Postgres has taken it.
        """
        turn = running.turn
        kept: Closing | None = closing
        running.closing = True
        if turn.request.keep:
            try:
                kept = await self._closer.close(turn.closable, closing)
            except ServiceStopping:
                running.closed = True
                raise
        running.closed = True
        metrics.of(metrics.TURNS, running.continuation.value, closing.status).inc()
        if closing.status == "failed":
            # Its message may quote what was said.
            code = (closing.error or {}).get("code")
            log.warning("a turn failed", code=code, status=closing.error_status)
        return kept


def _with_successor(request: TurnRequest, found: Failure) -> Failure:
    """A failure of a model that is retired says so, and what to ask for instead."""
    if found.code != failure.MODEL_RETIRED and (request.successor is None or found.code not in PASSED_ON):
        return found
    return failure.retired(found, request.model, request.successor)


def _tool_names(request: TurnRequest) -> set[str]:
    """Return the names of the request's tools, which must not decide what a failure means."""
    return tool_names(request.params.get("tools"), request.items)


def _changed(running: Running, given: Given) -> list[UUID]:
    """Return the turns of the history of which a rebuilt input holds something else than the one before, in order."""
    before, now = _with_sources(running.sources, running.input), _with_sources(given.sources, given.input)
    touched = {item_id for sources, _ in before - now for item_id in sources}
    return list(dict.fromkeys(turn for item_id, turn in given.turns.items() if item_id in touched))


def _kept_turns(given: Given | None) -> list[UUID]:
    """Return the turns of the history of which a rebuilt input holds something, in order."""
    if given is None:
        return []
    sent = {item_id for sources in given.sources for item_id in sources}
    return list(dict.fromkeys(turn for item_id, turn in given.turns.items() if item_id in sent))


def _with_sources(sources: Sequence[Sequence[str]], items: Sequence[Item]) -> Counter[tuple[tuple[str, ...], bytes]]:
    return Counter((tuple(of), orjson.dumps(item)) for of, item in zip(sources, items, strict=True))


def _frames(turn: Opened, previous_response_id: str | None) -> tuple[bytes, bytes]:
    """What is sent before and behind the input's items.

    Instructions, tools and sampling go with every turn: a chain carries items only.
    """
    request = turn.request
    rest = structured.with_known_choice(structured.with_format_in_words(request.family.fitted(request.params)))
    rest = {name: value for name, value in rest.items() if name not in OURS}
    if previous_response_id is not None:
        rest["previous_response_id"] = previous_response_id
    if request.streamed:
        rest["stream"] = True
    behind = b"," + orjson.dumps(rest)[1:] if rest else b"}"
    return b'{"model":' + orjson.dumps(request.model) + b',"input":[', b"]" + behind


def _frame(tail: bytes) -> int:
    """What instructions and tools weigh, in tokens."""
    return len(tail) // BYTES_PER_TOKEN


def _moment(value: object) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) and 0 < value < 1e11 else None
