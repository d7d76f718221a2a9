"""A turn from its opening to its closing. It belongs to the worker, not to the connection that asked for it.

The way of a turn: `open` → `_continue` → `_ask` (again if the provider forgot the chain, or was busy) → `_close`.
"""

import asyncio
import random
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import structlog

from app import metrics
from app.chain import continuation
from app.chain.continuation import Continuation, Target
from app.chain.live_ids import LiveId, LiveIds
from app.chain.rebuild import rebuild
from app.db import ids
from app.errors import APIError, Conflict, DatabaseUnavailable
from app.items import sendable as items
from app.provider import failure, models, structured
from app.provider.client import Provider, ProviderError
from app.provider.events import RawEvent, Splitter, encode
from app.provider.failure import RETRIED, Failure, Kind
from app.settings import Settings
from app.threads.address import Address
from app.turns import answer as answers
from app.turns.answer import INTERRUPTED, SHOWS_RESPONSE, TERMINAL, Answer, Heard
from app.turns.client import Client, ClientLeft
from app.turns.event_log import EventLog
from app.turns.events import Events
from app.turns.failures import client_error
from app.turns.opening import Joined, Opening
from app.turns.pace import measured
from app.turns.schemas import TurnRequest
from app.turns.show import response_object
from app.turns.spool import Spool
from app.turns.store import CallRecord, Closing, Opened, TurnStore

log = structlog.get_logger()

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 20.0
"""A provider that asks for a longer pause is not waited for: the client is told instead."""

FIRST_CLOSE_PAUSE_SECONDS = 0.05
LONGEST_CLOSE_PAUSE_SECONDS = 2.0


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
    response: dict[str, Any] | None = None
    error: APIError | None = None
    cancelled: bool = False
    first_token: bool = False
    closing: bool = False
    closed: bool = False
    ended: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    """How many events there were, and after how many milliseconds, each time some came."""
    logged: int = 0
    """How many events are in the event log, or on their way."""
    flush: asyncio.TimerHandle | None = None
    logging: asyncio.Lock = field(default_factory=asyncio.Lock)
    unlogged: bool = False
    """The event log has a gap: it is not written on."""
    task: asyncio.Task[None] | None = None

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
        settings: Settings,
    ) -> None:
        self._store = store
        self._provider = provider
        self._live_ids = live_ids
        self._settings = settings
        self._event_log = event_log
        self._spool = spool
        self._running: dict[UUID, Running] = {}
        self._opening = Opening(store, settings)
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
        """Write down that nobody was given a byte of a turn's answer. Where that fails, it counts as given."""
        if request.keep and request.origin.idempotency_key is None:
            with suppress(DatabaseUnavailable):
                await self._store.client_left(project_id, turn_id)

    def find(self, turn_id: UUID) -> Running | None:
        """A turn that is running in this worker."""
        return self._running.get(turn_id)

    def running(self) -> list[UUID]:
        """Every turn that is running in this worker."""
        return list(self._running)

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

    async def drain(self, seconds: float) -> None:
        """Let the running turns finish; those that have not after `seconds` are closed with what they have said."""
        tasks = [running.task for running in self._running.values() if running.task is not None]
        if not tasks:
            return
        await asyncio.wait(tasks, timeout=seconds)
        self._stopping = True
        for running in list(self._running.values()):
            if running.task is not None and not running.closing:
                running.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, running: Running) -> None:
        heard = Heard()
        try:
            target = self._target(running.turn)
            body = await self._continue(running, target)
            answer = await self._ask(running, body, heard)
            await self._complete(running, answer)
        except ProviderError as error:
            await self._fail(running, error.failure, heard)
        except DatabaseUnavailable as error:
            away = {"code": error.code, "message": error.message}
            await self._close(running, Closing("failed", None, running.calls, error=away, error_status=error.status))
            running.error = error
        except asyncio.CancelledError:
            await self._fail(running, failure.broken("the service was stopped"), heard)
            if not running.cancelled:
                raise
        finally:
            if not running.closed:
                log.error("a turn ended in an unexpected way", turn=ids.turn_id(running.turn.id))
                internal = {"code": "internal_error", "message": "The service failed on this turn."}
                status = None if running.answerable.done() else 500
                await self._close(running, Closing("failed", None, running.calls, error=internal, error_status=status))

    def _ended(self, running: Running, task: "asyncio.Task[None]") -> None:
        del self._running[running.turn.id]
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a turn failed in the service", turn=ids.turn_id(running.turn.id), exc_info=error)
        if running.response is None and running.error is None:
            running.error = APIError("The service failed on this turn. It is kept as failed.", code="internal_error")
        running.events.finish()
        running.release()
        if not running.ended.done():
            running.ended.set_result(None)
        self._opening.free(running.turn.thread_id)

    def _target(self, turn: Opened) -> Target:
        budget = models.token_budget(turn.request.model, self._settings.context_window_tokens)
        return Target(self._provider.binding, turn.request.model, budget)

    async def _continue(self, running: Running, target: Target) -> bytes:
        """Decide how the turn reaches the model, and write the body that it is sent."""
        turn = running.turn
        live = None if turn.parent_id is None else await self._live(running, turn.parent_id)
        running.continuation = continuation.decide(
            turn.parent_id,
            live,
            target,
            new_tokens=sum(map(items.tokens, turn.request.items)),
            now=time.time(),
            margin_seconds=self._settings.response_id_margin_seconds,
        )
        if running.continuation is Continuation.CHAINED:
            assert live is not None
            sent = [items.sendable(item) for item in turn.request.items]
            return _body(turn, sent, live.response_id)
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

    async def _rebuild(self, running: Running, target: Target) -> bytes:
        turn = running.turn
        history = [] if turn.parent_id is None else await self._store.history(turn.project_id, turn.parent_id)
        rebuilt = rebuild(history, turn.request.items, target.token_budget)
        running.dropped_items = rebuilt.dropped_items
        if turn.parent_id is not None:
            running.continuation = Continuation.REBUILT
            metrics.REBUILT_ITEMS.observe(len(rebuilt.input))
            metrics.DROPPED_ITEMS.inc(rebuilt.dropped_items)
        return _body(turn, rebuilt.input, None)

    async def _ask(self, running: Running, body: bytes, heard: Heard) -> Answer:
        """Call the provider until it has answered, or the attempts are used up.

        Raises:
            ProviderError: the last attempt's.
        """
        attempts = self._settings.provider_attempts
        while True:
            try:
                return await self._call(running, body, heard)
            except ProviderError as error:
                found = error.failure
                if running.answerable.done():
                    raise  # A part of the answer is with the client.
                if found.kind is Kind.UNKNOWN_PREVIOUS and running.continuation is Continuation.CHAINED:
                    body = await self._forget(running)
                    continue
                attempts -= 1
                pause = _pause(found, self._settings.provider_attempts - attempts)
                if found.kind not in RETRIED or attempts == 0 or pause > LONGEST_BACKOFF_SECONDS:
                    raise
            await asyncio.sleep(pause)

    async def _forget(self, running: Running) -> bytes:
        """The provider does not know the id that we chained on: remember that, and rebuild."""
        turn = running.turn
        assert turn.parent_id is not None
        log.info("the provider does not know a live id; rebuilding", turn=ids.turn_id(turn.id))
        await self._live_ids.forget(turn.project_id, turn.thread_id)
        await self._store.forget_response(turn.project_id, turn.parent_id)
        return await self._rebuild(running, self._target(turn))

    async def _call(self, running: Running, body: bytes, heard: Heard) -> Answer:
        """One attempt, with its record."""
        started_at, began = datetime.now(UTC), time.monotonic()
        stream = running.turn.request.streamed
        status: int | None = 200
        error: dict[str, Any] | None = None
        response_id: str | None = None
        try:
            if stream:
                answer = await self._relay(running, body, heard)
            else:
                answer = answers.from_body(await self._provider.respond(body, running.headers))
            response_id = answer.response["id"]
            metrics.of(metrics.PROVIDER_CALLS, "answered").inc()
            return answer
        except ProviderError as refused:
            status, error = refused.failure.status, refused.failure.as_error()
            response_id = heard.opening.get("id")
            metrics.of(metrics.PROVIDER_CALLS, refused.failure.kind.value).inc()
            raise
        finally:
            metrics.of(metrics.PROVIDER_SECONDS, str(stream).lower()).observe(time.monotonic() - began)
            running.calls.append(
                CallRecord(
                    running.continuation.value,
                    self._provider.url,
                    body,
                    running.dropped_items,
                    status,
                    response_id,
                    error,
                    started_at,
                    datetime.now(UTC),
                )
            )

    async def _relay(self, running: Running, body: bytes, heard: Heard) -> Answer:
        """Pass a stream's events on, all but the last: that one waits until the turn is closed."""
        splitter = Splitter()
        async with self._provider.stream(body, running.headers) as chunks:
            async for chunk in chunks:
                frames: list[bytes] = []
                try:
                    for event in splitter.feed(chunk):
                        if event.type in TERMINAL:
                            return answers.from_terminal(event.data)
                        number = len(running.events) + len(frames)
                        frames.append(self._heard(running, event, heard).frame(number))
                finally:
                    # What came before an event that ends or breaks the stream has been said.
                    self._publish(running, frames)
        raise ProviderError(failure.broken("the stream ended before its last event"))

    def _heard(self, running: Running, event: RawEvent, heard: Heard) -> RawEvent:
        """The event as it is passed on: unparsed, but for those that show the response, which go under our id."""
        if event.type not in SHOWS_RESPONSE:
            if event.data[-1:] != b"}":
                raise ProviderError(failure.broken("an event is not JSON"))
            heard.hear(event)
            if event.type == b"response.output_text.delta" and not running.first_token:
                running.first_token = True
                metrics.FIRST_TOKEN_SECONDS.observe(time.monotonic() - running.began_at)
            return event
        read = answers.payload(event.data)
        if not isinstance(read.get("response"), dict):
            return event
        heard.opening = read["response"]
        read["response"] = response_object(running.turn, read["response"])
        return RawEvent(event.type, orjson.dumps(read))

    def _publish(self, running: Running, frames: list[bytes]) -> None:
        if not frames:
            return
        running.events.publish(frames)
        running.arrivals.append((len(running.events), int((time.monotonic() - running.began_at) * 1000)))
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
        turn, request = running.turn, running.turn.request
        response = dict(answer.response)
        called_at = running.calls[-1].started_at
        ends = continuation.expires_at(
            response.get("created_at"),
            called_at=called_at.timestamp(),
            ttl_seconds=self._settings.response_id_ttl_seconds,
        )
        stored = request.params.get("store") is not False
        response["completed_at"] = response.get("completed_at") or int(time.time())
        shown = response_object(turn, response)
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
            response_expires_at=datetime.fromtimestamp(ends, UTC) if stored else None,
            pace=measured(running.events.since(0), running.arrivals),
        )
        if not await self._close(running, closing):
            await self._closed_elsewhere(running)
            return
        running.response = shown
        self._say_last(running, f"response.{answer.status}", shown)
        # Before anything is waited for: the thread's next turn may come at once, and looks for it.
        if stored and request.keep:
            total = usage.get("total_tokens") if isinstance(usage, dict) else None
            live = LiveId(turn.id, response["id"], self._provider.binding, request.model, ends, int(total or 0))
            await self._live_ids.put(turn.project_id, turn.thread_id, live)
        await self._log_last(running)

    async def _fail(self, running: Running, found: Failure, heard: Heard) -> None:
        """Close a turn that has no answer, or only the beginning of one."""
        output = heard.output()
        begun = running.answerable.done()
        details: dict[str, Any] | None
        if running.cancelled:
            details, status, error = None, "cancelled", None
        elif begun and output:
            details = {"reason": INTERRUPTED}
            status, error = "incomplete", None
        else:
            details, status, error = None, "failed", found.as_error()
        refused = client_error(found)
        closing = Closing(
            status,
            running.continuation.value,
            running.calls,
            output=output,
            response={k: v for k, v in heard.opening.items() if k not in ("output", "usage", "status")},
            error=error,
            incomplete_details=details,
            binding=self._provider.binding,
            error_status=None if error is None or begun or running.turn.request.background else refused.status,
            pace=measured(running.events.since(0), running.arrivals),
        )
        if not await self._close(running, closing):
            await self._closed_elsewhere(running)
            return
        if not running.cancelled:
            running.error = refused
        last = {**heard.opening, "status": status, "output": output, "error": error, "incomplete_details": details}
        shown = response_object(running.turn, last)
        if running.cancelled:
            running.response = shown
        # The specification has no event of its own for a cancelled response.
        said = "incomplete" if running.cancelled else status
        self._say_last(running, f"response.{said}", shown)
        await self._log_last(running)

    async def _closed_elsewhere(self, running: Running) -> None:
        """Another worker took this one for dead and closed the turn, or somebody deleted it: that stands."""
        log.warning("a turn was closed or deleted meanwhile", turn=ids.turn_id(running.turn.id))
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
            running.events.publish([encode(type_, {"response": shown}, number).frame(number)])
        running.events.finish()
        running.release()

    async def _log_last(self, running: Running) -> None:
        if running.flush is not None:
            running.flush.cancel()
        if running.turn.request.streamed and running.turn.request.keep:
            await self._log_events(running, last=True)

    async def _close(self, running: Running, closing: Closing) -> bool:
        """Close the turn in Postgres, however long Postgres is away: its answer cannot be had again.

        Returns:
            False if the turn was closed by somebody else, or deleted.
        """
        turn = running.turn
        running.closing = True
        pause, ours = FIRST_CLOSE_PAUSE_SECONDS, True
        while turn.request.keep:
            try:
                ours = await self._store.close(turn.closable, closing)
                break
            except DatabaseUnavailable:
                if self._stopping:
                    self._spool.keep(turn.closable, closing)
                    break
                log.warning("Postgres is away; an answered turn waits to be closed", turn=ids.turn_id(turn.id))
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_CLOSE_PAUSE_SECONDS)
        running.closed = True
        metrics.of(metrics.TURNS, running.continuation.value, closing.status).inc()
        return ours


def _body(turn: Opened, input_: Iterable[dict[str, Any]], previous_response_id: str | None) -> bytes:
    """The request as it is sent. Instructions, tools and sampling go with every turn: a chain carries items only."""
    request = turn.request
    params = structured.with_format_in_words(request.params)
    body: dict[str, Any] = {"model": request.model, "input": list(input_), **params}
    if previous_response_id is not None:
        body["previous_response_id"] = previous_response_id
    body.pop("background", None)  # The provider has none.
    if request.streamed:
        body["stream"] = True
    return orjson.dumps(body)


def _pause(found: Failure, attempt: int) -> float:
    """Seconds to wait before the next attempt: what the provider asks for, else twice as long each time."""
    if found.retry_after is not None:
        return found.retry_after
    return float(FIRST_BACKOFF_SECONDS * 2 ** (attempt - 1)) * random.uniform(0.75, 1.25)  # noqa: S311


def _moment(value: object) -> datetime | None:
    return datetime.fromtimestamp(value, UTC) if isinstance(value, int | float) and 0 < value < 1e11 else None
