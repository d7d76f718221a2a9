"""A turn from its opening to its closing. It belongs to the worker, not to the connection that asked for it.

The way of a turn: `open` → `_continue` → `_ask` (again if the provider forgot the chain, or was busy) → `_close`.
"""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import structlog
from structlog.contextvars import bind_contextvars

from app import capacity, metrics
from app.chain import continuation
from app.chain.continuation import Continuation, Target
from app.chain.live_ids import LiveId, LiveIds
from app.chain.rebuild import Abilities, new_input, rebuild
from app.db import ids
from app.errors import APIError, Conflict, DatabaseUnavailable, Overloaded
from app.items.kept import Kept, kept_output
from app.items.pairs import asked
from app.items.provider_door import usable_id, without_nulls
from app.items.weights import count
from app.provider import failure, models, structured
from app.provider.client import Provider, ProviderError
from app.provider.events import RawEvent, SSEDecoder, frame, own_frame
from app.provider.failure import RETRIED, Failure, Kind
from app.provider.reading import NotJSON, read_object
from app.settings import Settings
from app.telemetry.spans import tracer
from app.threads.address import Address
from app.turns import answer as answers
from app.turns.answer import INTERRUPTED, SHOWS_RESPONSE, TERMINAL, TOO_LARGE, Answer
from app.turns.cancel_signals import CancelSignals
from app.turns.client import Client, ClientLeft
from app.turns.event_log import EventLog
from app.turns.events import Events
from app.turns.failures import client_error
from app.turns.opening import Joined, Opening
from app.turns.pace import Pace
from app.turns.pieces import Body, Pieces, written
from app.turns.provider_call import ProviderCall
from app.turns.schemas import TurnRequest
from app.turns.show import response_object
from app.turns.spool import Spool
from app.turns.store import CallRecord, Closable, Closing, Opened, TurnStore
from app.turns.streamed import output_of

log = structlog.get_logger()

FIRST_BACKOFF_SECONDS = 0.5
DELTA = "response.output_text.delta"
FAILED = "response.failed"
ENDED = ("completed", "incomplete", "failed")

LONGEST_BACKOFF_SECONDS = 20.0
"""A provider that asks for a longer pause is not waited for: the client is told instead."""

FIRST_CLOSE_PAUSE_SECONDS = 0.05
LONGEST_CLOSE_PAUSE_SECONDS = 2.0
HURRY_POLL_SECONDS = 0.1


@dataclass(eq=False, slots=True)
class Running:
    """A turn in progress, and then what came of it."""

    turn: Opened
    headers: dict[str, str]
    """Passed on to the provider."""
    answerable: asyncio.Future[None]
    """Done when the client can be answered: the turn is closed, or its stream has begun."""
    asked: "asyncio.Future[Any] | None" = None
    """The question for the thread's live id, if it is on its way already."""
    began_at: float = field(default_factory=time.monotonic)
    events: Events = field(default_factory=Events)
    calls: list[CallRecord] = field(default_factory=list)
    continuation: Continuation = Continuation.NEW
    dropped_items: int = 0
    pieces: Pieces = field(default_factory=Pieces)
    response: dict[str, Any] | None = None
    error: APIError | None = None
    cancelled: bool = False
    closing: bool = False
    closed: bool = False
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    opening: dict[str, Any] = field(default_factory=dict)
    """The response as the provider's stream showed it first."""
    shown: set[str] = field(default_factory=set)
    """Which of the events that only show the response have been passed on."""
    spoken: bool = False
    """Something of an answer has been passed on: more than that it begins."""
    pace: Pace = field(default_factory=Pace)
    logged: int = 0
    """How many events are in the event log, or on their way."""
    flush: asyncio.TimerHandle | None = None
    logging: asyncio.Lock = field(default_factory=asyncio.Lock)
    call: ProviderCall | None = None
    """The call to the provider that is under way."""
    unlogged: bool = False
    """The event log has a gap: it is not written on."""
    task: asyncio.Task[None] | None = None

    def failed(self, error: dict[str, Any], status: int | None) -> Closing:
        """What it is closed with when the service has failed."""
        return Closing("failed", None, self.calls, error=error, error_status=status, pieces=self.pieces.new)

    def release(self) -> None:
        if not self.answerable.done():
            self.answerable.set_result(None)


class Runner:
    def __init__(
        self,
        store: TurnStore,
        provider: Provider,
        live_ids: LiveIds,
        event_log: EventLog,
        spool: Spool,
        signals: CancelSignals,
        settings: Settings,
    ) -> None:
        self._store = store
        self._provider = provider
        self._live_ids = live_ids
        self._settings = settings
        self._event_log = event_log
        self._spool = spool
        self._running: dict[UUID, Running] = {}
        self._opening = Opening(store, signals, settings)
        self._most_turns = settings.max_turns or capacity.most_turns(settings.database_pool_size)
        self._flushing: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def start(
        self, project_id: UUID, address: Address, request: TurnRequest, headers: dict[str, str], client: Client
    ) -> "Running | Joined":
        """Open a turn and let it run; or join the one that this request repeats.

        Returns:
            The turn, once the client can be answered: see `Running.answerable`.

        Raises:
            ClientLeft: the client has gone before that. The turn goes on, and a retry may claim it.
        """
        if len(self._running) >= self._most_turns:
            raise Overloaded(
                f"This worker runs {self._most_turns} turns, as many as it can. Send this again later.",
                headers={"Retry-After": "1"},
            )
        # Redis is asked while Postgres opens the turn.
        asked = None if address.id is None else self._live_ids.ask(project_id, address.id)
        turn = await self._opening.open(project_id, address, request, client)
        if isinstance(turn, Joined):
            running = self._running.get(turn.turn_id)
            if running is None:
                return turn
        else:
            running = Running(turn, headers, asyncio.get_running_loop().create_future(), asked)
            self._running[turn.id] = running
            metrics.RUNNING_TURNS.inc()
            # What is logged from here on, in this request and in the turn's own task, names the turn.
            bind_contextvars(**turn.closable.in_logs)
            running.task = asyncio.create_task(self._run(running), name=ids.turn_id(turn.id))
            running.task.add_done_callback(lambda task: self._ended(running, task))
        if not request.background or request.stream:
            try:
                await client.wait_for(running.answerable)
            except ClientLeft:
                await self.client_left(project_id, running.turn.id, request)
                raise
        return running

    async def client_left(self, project_id: UUID, turn_id: UUID, request: TurnRequest) -> None:
        """Write down that nobody was given a byte of a turn's answer, if a retry may claim it."""
        if request.keep and request.origin.idempotency_key is None:
            await self._store.client_left(project_id, turn_id)

    def find(self, turn_id: UUID) -> Running | None:
        """A turn that is running in this worker."""
        return self._running.get(turn_id)

    def running(self) -> list[tuple[UUID, UUID]]:
        """Every turn that is running in this worker: its project and id."""
        return [(running.turn.project_id, id_) for id_, running in self._running.items()]

    def stop(self, turn_id: UUID) -> bool:
        """Stop a turn that is running in this worker; what it has said is kept. False if it is not running here."""
        running = self._running.get(turn_id)
        if running is None or running.task is None or running.closing:
            return False
        running.cancelled = True
        running.task.cancel()
        return True

    async def cancel(self, turn_id: UUID) -> None:
        """Stop a turn that is running in this worker, and wait until it is closed."""
        running = self._running.get(turn_id)
        if running is not None:
            self.stop(turn_id)
            await asyncio.shield(running.ended)

    async def drain(self, seconds: float, hurry: Callable[[], bool] = lambda: False) -> None:
        """Let the running turns finish; those that have not after `seconds` are closed with what they have said.

        Args:
            hurry: whether to wait no longer.
        """
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if not tasks:
            return
        until = time.monotonic() + seconds
        while not hurry() and (left := until - time.monotonic()) > 0:
            _, running_still = await asyncio.wait(tasks, timeout=min(left, HURRY_POLL_SECONDS))
            if not running_still:
                break
        self._stopping = True
        for running in list(self._running.values()):
            if running.task is not None and not running.closing:
                running.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, running: Running) -> None:
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

    def _ended(self, running: Running, task: "asyncio.Task[None]") -> None:
        del self._running[running.turn.id]
        metrics.RUNNING_TURNS.dec()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a turn failed in the service", exc_info=error)
        if running.response is None and running.error is None:
            running.error = APIError(
                "The service failed on this turn. Read the turn to see what was kept of it.", code="internal_error"
            )
        running.events.finish()
        running.release()
        if not running.ended.done():
            running.ended.set_result(None)
        self._opening.free(running.turn.thread_id)

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
                if running.spoken:
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
        ) as running.call:
            try:
                if stream:
                    answer = await self._relay(running, body.sent)
                else:
                    answer = answers.from_body(await provider.respond(body.sent, running.headers))
                response_id = answer.response["id"]
                running.call.answered(answer.response)
                return answer
            except ProviderError as refused:
                status, error = refused.failure.status, refused.failure.as_error()
                response_id = usable_id(running.opening.get("id"))
                running.call.failed(refused.failure.kind.value)
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

    async def _relay(self, running: Running, body: bytes) -> Answer:
        """Pass a stream's events on, all but the last: that one waits until the turn is closed."""
        decoder = SSEDecoder()
        async with self._provider.stream(body, running.headers) as chunks:
            async for chunk in chunks:
                if (answer := self._heard(running, decoder.feed(chunk))) is not None:
                    return answer
            if (answer := self._heard(running, decoder.end())) is not None:
                return answer
        raise ProviderError(failure.broken("the stream ended before its last event"))

    def _heard(self, running: Running, events: list[RawEvent]) -> Answer | None:
        """Pass on what a stream has said; what ends it is returned, or raised."""
        frames: list[bytes] = []
        first, pace = len(running.events), running.pace
        try:
            for raw in events:
                data = raw.data
                if data == b"[DONE]":
                    continue
                try:
                    event, repaired = read_object(data)
                except NotJSON as error:
                    raise ProviderError(failure.broken("an event is not JSON")) from error
                type_ = event.get("type")
                if type_ == DELTA and pace.chars and not repaired and _is_whole(event, first + len(frames), data):
                    # A piece of text, as most events are: passed on as it came.
                    pace.chars.append(len(event["delta"]))
                    frames.append(
                        b"id: %d\nevent: response.output_text.delta\ndata: %b\n\n" % (first + len(frames), data)
                    )
                    continue
                if not isinstance(type_, str):
                    if raw.name == b"error" or failure.is_error(event):
                        raise ProviderError(failure.from_error(event))
                    if not raw.name:
                        continue  # It says nothing that anybody could understand.
                    type_, repaired = raw.name.decode("utf-8", "replace"), True
                    event["type"] = type_
                if not type_.isprintable():
                    continue  # No name of an event: it would end its line.
                if type_ in TERMINAL or type_ == "error":
                    self._publish(running, frames)
                    frames = []
                    return self._ended_by(running, type_, event, repaired=repaired)
                sent = self._passed_on(running, type_, event, raw, first + len(frames), repaired=repaired)
                if sent is not None:
                    frames.append(sent)
        finally:
            # What came before an event that breaks the stream has been said.
            self._publish(running, frames)
        return None

    def _passed_on(
        self, running: Running, type_: str, event: dict[str, Any], raw: RawEvent, number: int, *, repaired: bool
    ) -> bytes | None:
        """An event as a client gets it: as it came, where it is as the specification has it. None to leave it out."""
        if type_ in SHOWS_RESPONSE:
            if not isinstance(event.get("response"), dict):
                return None
            if not running.opening or type_ == "response.created":
                running.opening = event["response"]
            if type_ in running.shown:
                return None  # An earlier attempt has said so.
            running.shown.add(type_)
            event["response"] = response_object(running.turn, event["response"])
            repaired = True
        else:
            running.spoken = True
            if type_ == DELTA:
                if not running.pace.chars and running.call is not None:
                    running.call.speaks(time.monotonic() - running.began_at)
                running.pace.hear(event.get("delta"))
                repaired = _without_nulls(event) or repaired
            elif type_.startswith("response.reasoning_"):
                # The provider leaves the place out that the specification asks for (captures).
                place = "summary_index" if "summary" in type_ else "content_index"
                repaired = repaired or place not in event
                event.setdefault(place, 0)
            elif b"null" in raw.data:
                repaired = _without_nulls(event) or repaired
        if repaired or event.get("sequence_number") != number or b"\n" in raw.data:
            event["sequence_number"] = number
            return frame(type_.encode("utf-8", "replace"), orjson.dumps(event), number)
        return frame(type_.encode(), raw.data, number)

    def _ended_by(self, running: Running, type_: str, event: dict[str, Any], *, repaired: bool) -> Answer:
        """The answer that a stream's last event holds.

        Raises:
            ProviderError: it is an error.
        """
        if type_ == "error":
            raise ProviderError(failure.from_error(event))
        response = event.get("response")
        if isinstance(response, dict) and (type_ == FAILED or response.get("status") not in ENDED):
            response["status"] = type_.removeprefix("response.")
        streamed: list[Any] = []
        if isinstance(response, dict) and not response.get("output"):
            # Some say at the end that there is nothing, whatever they have streamed.
            streamed = output_of(running.events.since(0))
        return answers.from_response(response, repaired=repaired, streamed=streamed)

    def _publish(self, running: Running, frames: list[bytes]) -> None:
        if not frames:
            return
        running.events.publish(frames)
        running.pace.arrived(int((time.monotonic() - running.began_at) * 1000))
        running.release()
        if running.flush is None and running.turn.request.keep:
            loop = asyncio.get_running_loop()
            running.flush = loop.call_later(self._settings.event_log_flush_seconds, self._start_flush, running)

    def _start_flush(self, running: Running) -> None:
        running.flush = None
        task = asyncio.create_task(self._log_events(running, last=False))
        self._flushing.add(task)
        task.add_done_callback(self._flushing.discard)

    async def _log_events(self, running: Running, *, last: bool) -> None:
        """Write the events that are not in the event log yet, in one batch."""
        async with running.logging:
            frames = running.events.since(running.logged)
            if running.unlogged or not (frames or last):
                return
            first, running.logged = running.logged, running.logged + len(frames)
            turn = running.turn
            running.unlogged = not await self._event_log.append(turn.project_id, turn.id, first, frames, last=last)

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
            status=answer.status,
            continuation=running.continuation.value,
            calls=running.calls,
            output=answer.output,
            response={k: v for k, v in response.items() if k not in ("output", "usage", "error", "incomplete_details")},
            usage=usage,
            incomplete_details=response.get("incomplete_details") if answer.status == "incomplete" else None,
            binding=self._provider.binding,
            response_id=response["id"],
            response_created_at=_moment(response.get("created_at")),
            response_expires_at=datetime.fromtimestamp(ends, UTC) if live else None,
            pace=running.pace.measured(),
            pieces=running.pieces.new,
        )
        kept = await self._close(running, closing)
        if kept is None:
            await self._closed_elsewhere(running)
            return
        output = kept.output
        running.response = response_object(turn, {**response, "output": [item.shown for item in output]})
        self._say_last(running, f"response.{answer.status}", running.response)
        # Before anything is waited for: the thread's next turn may come at once, and looks for it.
        if live and request.keep:
            total = count(usage.get("total_tokens")) if isinstance(usage, dict) else 0
            open_calls = asked([item.item for item in output])
            entry = LiveId(turn.id, response["id"], self._provider.binding, request.model, ends, total, open_calls)
            await self._live_ids.put(turn.project_id, turn.thread_id, entry)
        await self._log_last(running)

    async def _fail(self, running: Running, found: Failure) -> None:
        """Close a turn that has no answer, or only the beginning of one."""
        output = kept_output(output_of(running.events.since(0)))
        begun = running.answerable.done()
        details: dict[str, Any] | None = None
        error: dict[str, Any] | None = None
        if running.cancelled:
            status = "cancelled"
        elif found.kind is Kind.TOO_LARGE:
            status, details = "incomplete", {"reason": TOO_LARGE}
        elif begun and output and found.kind in (Kind.BROKEN, Kind.TIMEOUT):
            status, details = "incomplete", {"reason": INTERRUPTED}
        else:
            # What was said before the provider failed is kept with its error; the thread goes on from the turn before.
            status, error = "failed", found.as_error()
        refused = client_error(found)
        closing = Closing(
            status,
            running.continuation.value,
            running.calls,
            output=output,
            response={k: v for k, v in running.opening.items() if k not in ("output", "usage", "status")},
            error=error,
            incomplete_details=details,
            binding=self._provider.binding,
            error_status=None if error is None or begun or running.turn.request.background else refused.status,
            pace=running.pace.measured(),
            pieces=running.pieces.new,
        )
        kept = await self._close(running, closing)
        if kept is None:
            await self._closed_elsewhere(running)
            return
        last = {
            **running.opening,
            "status": status,
            "output": [item.shown for item in kept.output],
            "error": error,
            "incomplete_details": details,
        }
        shown = response_object(running.turn, last)
        if error is None:
            running.response = shown
        else:
            running.error = refused
        # The specification has no event of its own for a cancelled response.
        said = "incomplete" if running.cancelled else status
        self._say_last(running, f"response.{said}", shown)
        await self._log_last(running)

    async def _closed_elsewhere(self, running: Running) -> None:
        """Another worker took this one for dead and closed the turn, or somebody deleted it: that stands."""
        log.warning("a turn was closed or deleted meanwhile")
        running.error = Conflict(
            "This turn was closed or deleted while it was running. Read it to see.", code="turn_closed"
        )
        if running.flush is not None:
            running.flush.cancel()
        running.unlogged = True
        async with running.logging:
            if not await self._store.exists(running.turn.project_id, running.turn.id):
                await self._event_log.forget(running.turn.project_id, [running.turn.id])

    def _say_last(self, running: Running, type_: str, shown: dict[str, Any]) -> None:
        """Tell the listeners of the end. The turn is in Postgres by now."""
        if running.turn.request.streamed and (running.answerable.done() or running.error is None):
            number = len(running.events)
            running.events.publish([own_frame(type_, {"response": shown}, number)])
        running.events.finish()
        running.release()

    async def _log_last(self, running: Running) -> None:
        if running.flush is not None:
            running.flush.cancel()
        if running.turn.request.streamed and running.turn.request.keep:
            await self._log_events(running, last=True)

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
            if self._stopping and self._spooled(turn.closable, closing):
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


def _is_whole(event: dict[str, Any], number: int, data: bytes) -> bool:
    """Whether a piece of text can be passed on as it came."""
    return (
        event.get("sequence_number") == number
        and isinstance(event.get("delta"), str)
        and event.get("logprobs", ()) is not None
        and b"\n" not in data
    )


def _without_nulls(event: dict[str, Any]) -> bool:
    """Take the nulls off an event's item or part where the specification has none. Whether there were any."""
    changed = False
    for field_ in ("item", "part"):
        found = event.get(field_)
        if isinstance(found, dict) and (clean := without_nulls(found)) != found:
            event[field_], changed = clean, True
    if event.get("logprobs", ()) is None:
        event["logprobs"], changed = [], True
    return changed


def _moment(value: object) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) and 0 < value < 1e11 else None
