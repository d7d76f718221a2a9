"""The way of a turn from its opening to its closing, step by step.

`run`: `_continue` → `_ask` (again if the provider forgot the chain, or was busy) → `_complete`, or `_fail` → `_close`.
"""

import asyncio
import random
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import structlog

from app import metrics
from app.chain import continuation
from app.chain.continuation import Continuation, Target
from app.chain.live_ids import LiveId, LiveIds
from app.chain.rebuild import Abilities, new_input, rebuild
from app.db import ids
from app.errors import Conflict, DatabaseUnavailable
from app.items.kept import Kept
from app.items.pairs import asked
from app.items.provider_door import usable_id
from app.items.weights import count
from app.provider import failure, models, structured
from app.provider.client import Provider, ProviderError
from app.provider.failure import RETRIED, Failure, Kind
from app.settings import Settings
from app.telemetry.spans import tracer
from app.turns import answer as answers
from app.turns.answer import Answer
from app.turns.closing import INTERRUPTED, TOO_LARGE, CallRecord, Closing, broken_off, kept_response
from app.turns.failures import client_error
from app.turns.pieces import Body, Pieces, written
from app.turns.provider_call import ProviderCall
from app.turns.running import Running
from app.turns.show import response_object
from app.turns.spool import Spool
from app.turns.store import Closable, Opened, TurnStore

log = structlog.get_logger()

FIRST_BACKOFF_SECONDS = 0.5

LONGEST_BACKOFF_SECONDS = 20.0
"""A longer `Retry-After` is not waited for: it is passed on to the client, with a 429."""

CUT_SHORT = {Kind.BROKEN: INTERRUPTED, Kind.TIMEOUT: INTERRUPTED, Kind.TOO_LARGE: TOO_LARGE}
"""The `reason` of the incomplete response that is kept, by the failure that cut it short."""

FIRST_CLOSE_PAUSE_SECONDS = 0.05
LONGEST_CLOSE_PAUSE_SECONDS = 2.0


class Way:
    def __init__(
        self,
        store: TurnStore,
        provider: Provider,
        live_ids: LiveIds,
        spool: Spool,
        settings: Settings,
    ) -> None:
        self._store = store
        self._provider = provider
        self._live_ids = live_ids
        self._spool = spool
        self._settings = settings
        self.stopping = False
        """The process has to end: what cannot be written to Postgres goes to the spool."""

    async def run(self, running: Running) -> None:
        turn = running.turn
        with tracer().span(
            "turn", {"everthread.turn": ids.turn_id(turn.id), "everthread.thread": ids.thread_id(turn.thread_id)}
        ) as span:
            await self._run_to_its_end(running)
            span.add({"everthread.continuation": running.continuation.value})
            if running.error is not None:
                span.fail(running.error.meaning)

    async def _run_to_its_end(self, running: Running) -> None:
        try:
            target = self._target(running.turn)
            body = await self._continue(running, target)
            answer = await self._ask(running, body)
            await self._complete(running, answer)
        except ProviderError as error:
            await self._fail(running, error.failure)
        except DatabaseUnavailable as error:
            away = {"code": error.code, "message": error.message}
            await self._close(running, running.failed(away, error.status))
            running.error = error
        except asyncio.CancelledError:
            await self._fail(running, failure.broken("the service was stopped"))
            if not running.cancelled:
                raise
        finally:
            if not running.closed:
                log.error("a turn ended in an unexpected way")
                internal = {"code": "internal_error", "message": "The service failed on this turn."}
                status = None if running.answerable.done() else 500
                await self._close(running, running.failed(internal, status))

    def _target(self, turn: Opened) -> Target:
        model = turn.request.model
        abilities = Abilities(
            models.token_budget(model, self._settings.context_window_tokens),
            models.sees_images(model),
            models.takes_tool_outputs(model),
        )
        return Target(self._provider.binding, model, abilities)

    async def _continue(self, running: Running, target: Target) -> Body:
        """Decide how the turn reaches the model, and write the body that it is sent."""
        turn = running.turn
        live = None if turn.parent_id is None else await self._live(running, turn.parent_id)
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
            head, tail = _frames(turn, live.response_id)
            return written(head, new_input(turn.request.items, target.abilities), tail, turn.request.items)
        return await self._rebuild(running, target)

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
        row = await self._store.parent(turn.project_id, parent_id)
        return None if row is None else LiveId(parent_id, **row)

    async def _rebuild(self, running: Running, target: Target) -> Body:
        turn, history = running.turn, list[Kept]()
        if turn.parent_id is not None:
            history = await self._store.history(turn.project_id, turn.parent_id)
            running.pieces = Pieces(await self._store.pieces(turn.project_id, turn.thread_id))
        rebuilt = rebuild([kept.item for kept in history], turn.request.items, target.abilities)
        running.dropped_items = rebuilt.dropped_items
        if turn.parent_id is not None:
            running.continuation = Continuation.REBUILT
            metrics.REBUILT_ITEMS.observe(len(rebuilt.input))
            metrics.DROPPED_ITEMS.inc(rebuilt.dropped_items)
        sources = [[history[place].id for place in places] for places in rebuilt.sources]
        head, tail = _frames(turn, None)
        return written(head, rebuilt.input, tail, turn.request.items, sources, running.pieces)

    async def _ask(self, running: Running, body: Body) -> Answer:
        """Call the provider until it has answered, or the attempts are used up.

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
                attempts -= 1
                pause = _pause(found, self._settings.provider_attempts - attempts)
                if found.kind not in RETRIED or attempts == 0 or pause > LONGEST_BACKOFF_SECONDS:
                    raise
            await asyncio.sleep(pause)

    async def _forget(self, running: Running) -> Body:
        """The provider does not know the id that we chained on: remember that, and rebuild."""
        turn = running.turn
        assert turn.parent_id is not None
        log.info("the provider does not know a live id; rebuilding")
        await self._live_ids.forget(turn.project_id, turn.thread_id)
        await self._store.forget_response(turn.project_id, turn.parent_id)
        return await self._rebuild(running, self._target(turn))

    async def _call(self, running: Running, body: Body) -> Answer:
        """One attempt, with its record."""
        turn, provider = running.turn, self._provider
        started_at = datetime.now(UTC)
        stream = turn.request.streamed
        status: int | None = 200
        error: dict[str, Any] | None = None
        response_id: str | None = None
        with ProviderCall(
            provider.url,
            provider.account,
            turn.request.model,
            stream=stream,
            conversation=ids.thread_id(turn.thread_id),
        ) as call:
            try:
                if stream:
                    async with provider.stream(body.sent, running.headers) as chunks:
                        answer = await running.relay.pass_on(chunks, call)
                else:
                    answer = answers.from_body(await provider.respond(body.sent, running.headers))
                response_id = answer.response["id"]
                call.answered(answer.response)
                return answer
            except ProviderError as refused:
                status, error = refused.failure.status, refused.failure.as_error()
                response_id = usable_id(running.relay.opening.get("id"))
                call.failed(refused.failure.kind.value)
                raise
            finally:
                running.calls.append(
                    CallRecord(
                        running.continuation.value,
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

    async def _complete(self, running: Running, answer: Answer) -> None:
        turn, request, response = running.turn, running.turn.request, answer.response
        ends = continuation.expires_at(
            response.get("created_at"),
            called_at=running.calls[-1].started_at.timestamp(),
            ttl_seconds=self._settings.response_id_ttl_seconds,
        )
        live = request.params.get("store") is not False and answer.chainable
        response["completed_at"] = int(time.time())
        usage = response.get("usage")
        closing = Closing(
            answer.status,
            output=answer.output,
            response=kept_response(response),
            usage=usage,
            incomplete_details=response.get("incomplete_details") if answer.status == "incomplete" else None,
            response_id=response["id"],
            response_created_at=_moment(response.get("created_at")),
            response_expires_at=datetime.fromtimestamp(ends, UTC) if live else None,
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
            total = count(usage.get("total_tokens")) if isinstance(usage, dict) else 0
            open_calls = asked([item.item for item in kept.output])
            entry = LiveId(turn.id, response["id"], self._provider.binding, request.model, ends, total, open_calls)
            await self._live_ids.put(turn.project_id, turn.thread_id, entry)
        await running.recorder.end()

    async def _fail(self, running: Running, found: Failure) -> None:
        """Close a turn that has no answer, or only the beginning of one."""
        relay, refused = running.relay, client_error(found)
        told = relay.begun or running.turn.request.background
        closing = broken_off(
            running.events.since(0),
            relay.opening,
            found.as_error(),
            reason=CUT_SHORT.get(found.kind) if relay.begun or found.kind is Kind.TOO_LARGE else None,
            cancelled=running.cancelled,
            error_status=None if told else refused.status,
        )
        kept = await self._close(running, replace(closing, **self._way_of(running)))
        if kept is None:
            await self._closed_elsewhere(running)
            return
        shown = response_object(running.turn, kept.shown(relay.opening))
        if kept.status == "failed":
            running.error = refused
        else:
            running.response = shown
        relay.say_last(shown, to_all=running.error is None)
        await running.recorder.end()

    def _way_of(self, running: Running) -> dict[str, Any]:
        """What a closing says of how its turn has come to the model."""
        return {
            "continuation": running.continuation.value,
            "calls": running.calls,
            "binding": self._provider.binding,
            "pace": running.recorder.pace.measured(),
            "pieces": running.pieces.new,
        }

    async def _closed_elsewhere(self, running: Running) -> None:
        """Another worker took this one for dead and closed the turn, or somebody deleted it: that stands."""
        log.warning("a turn was closed or deleted meanwhile")
        running.error = Conflict(
            "This turn was closed or deleted while it was running. Read it to see.", code="turn_closed"
        )
        await running.recorder.abandon(lambda: self._store.exists(running.turn.project_id, running.turn.id))

    async def _close(self, running: Running, closing: Closing) -> Closing | None:
        """Close the turn in Postgres, however long Postgres is away: its answer cannot be had again.

        Returns:
            What it was closed with; None if it was closed by somebody else, or deleted.
        """
        turn = running.turn
        running.closing = True
        pause, kept = FIRST_CLOSE_PAUSE_SECONDS, closing if not turn.request.keep else None
        while turn.request.keep:
            try:
                kept = await self._store.close(turn.closable, closing)
                break
            except DatabaseUnavailable:
                log.warning("Postgres is away; an answered turn waits to be closed")
            if self.stopping and self._spooled(turn.closable, closing):
                kept = closing
                break
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_CLOSE_PAUSE_SECONDS)
        running.closed = True
        metrics.of(metrics.TURNS, running.continuation.value, closing.status).inc()
        if closing.status == "failed":
            # Its message may quote what was said.
            code = (closing.error or {}).get("code")
            log.warning("a turn failed", code=code, status=closing.error_status)
        return kept

    def _spooled(self, turn: Closable, closing: Closing) -> bool:
        """Keep an answer on disk, for the process has to stop. False if that fails: it is tried again, and said."""
        try:
            self._spool.keep(turn, closing)
        except OSError as error:
            log.error(
                "Postgres is away, and the answer of a turn cannot be kept on disk either; it is lost if this process "
                "is killed now",
                error=error.strerror,
            )
            return False
        return True


def _frames(turn: Opened, previous_response_id: str | None) -> tuple[bytes, bytes]:
    """What is sent before and behind the input's items.

    Instructions, tools and sampling go with every turn: a chain carries items only.
    """
    request = turn.request
    rest = structured.with_known_choice(structured.with_format_in_words(request.params))
    rest = {name: value for name, value in rest.items() if name != "background"}  # The provider has none.
    if previous_response_id is not None:
        rest["previous_response_id"] = previous_response_id
    if request.streamed:
        rest["stream"] = True
    behind = b"," + orjson.dumps(rest)[1:] if rest else b"}"
    return b'{"model":' + orjson.dumps(request.model) + b',"input":[', b"]" + behind


def _pause(found: Failure, attempt: int) -> float:
    """Seconds to wait before the next attempt: what the provider asks for, else twice as long each time."""
    if found.retry_after is not None:
        return found.retry_after
    return float(FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)  # noqa: S311


def _moment(value: object) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) and 0 < value < 1e11 else None
