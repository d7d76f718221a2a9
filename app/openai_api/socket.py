"""/responses over a WebSocket, as Open Responses has it (specification of 2026-04-24): `response.create` begins a
response, and its events come back. `stream_id`, OpenAI's, names lanes: one after the other in each, beside each other.
"""

import asyncio
import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import orjson
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from app.db import ids
from app.http.bodies import json_response, parsed, too_large
from app.http.errors import APIError, BadRequest, TooManyRequests
from app.http.services import Services, services
from app.items.input_item import InputItem, with_facts
from app.items.pairs import answers
from app.items.stored import stored_output
from app.limits.rules import asks_of
from app.limits.service import RateLimits
from app.openai_api.schemas import response_address, response_request
from app.projects.auth import Caller, authenticate
from app.projects.credential_watch import listening
from app.projects.user_tokens import for_users
from app.projects.user_view import error_body
from app.provider.events import data_of, encoded
from app.provider.models import Models
from app.settings import Connected
from app.threads.address import Address, New, OfTurn, bucket_at, owned
from app.threads.names import Names
from app.threads.presets import presets_of
from app.turns.client import Client
from app.turns.http import provider_headers
from app.turns.running import Running
from app.turns.schemas import Origin, TurnRequest
from app.turns.service import Turns
from app.turns.show import response_object
from app.turns.store import Opened

MOST_LANES = 32
"""Lanes of a connection that have something to do, as OpenAI's."""

MOST_WAITING = 64
"""Responses of a connection that run or wait for their lane."""

MOST_REMEMBERED = 32
"""Responses that nothing is kept of, by connection: the oldest is forgotten."""

LONGEST_STREAM_ID = 256

NOT_OF_A_SOCKET = ("stream_options", "background")

GOING_AWAY = 1001
POLICY_VIOLATION = 1008

LAST_WORDS_SECONDS = 2.0
"""The longest time that a client that does not read delays the end of its connection."""


def routes(prefix: str) -> list[WebSocketRoute]:
    return [WebSocketRoute(f"{prefix}/responses", connect)]


@for_users
async def connect(socket: WebSocket) -> None:
    try:
        caller = await authenticate(socket)
    except APIError as refused:
        await socket.send_denial_response(json_response(refused.body(), status=refused.status, headers=refused.headers))
        return
    await socket.accept()
    await _Connection(socket, caller).run()


@dataclass(frozen=True, slots=True)
class _Remembered:
    """Unstored response that the next one on this connection continues from."""

    parent_id: UUID | None
    """The stored turn before it."""
    items: Sequence[InputItem]
    """Everything since."""
    warm: bool = False
    """No model has answered it: a next message without input has the model answer these items."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A message, as far as it is remembered beside its JSON."""

    size: int
    digest: bytes


@dataclass(slots=True)
class _Lane:
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0


class _Connection:
    def __init__(self, socket: WebSocket, caller: Caller) -> None:
        self._socket = socket
        self._services: Services = services(socket)
        self._listener = listening(socket, caller)
        self._answering = listening(socket, caller, admitted=True)
        self._sent: dict[UUID, int] = {}
        """The number of the last event that was sent, of each response that is being sent."""
        self._left = asyncio.Event()
        self._lanes: dict[str | None, _Lane] = {}
        self._remembered: OrderedDict[UUID, _Remembered] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: set[Running] = set()
        """Turns that are cancelled when the client disconnects."""

    async def run(self) -> None:
        settings = self._services[Connected]
        try:
            async with asyncio.timeout(settings.socket_seconds) as held:
                with self._listener.calling(lambda: held.reschedule(-math.inf)):
                    while (message := await self._received()) is not None:
                        await self._take(message)
        except TimeoutError:
            if self._listener.end is None:
                await self._end_at_limit(settings.socket_seconds)
            else:
                await self._end_with_credential()
        finally:
            self._left.set()
            for running in tuple(self._ending):
                self._services[Turns].stop(running)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _end_at_limit(self, seconds: float) -> None:
        """Wait for running turns at the time limit, then tell the client to connect again."""
        await asyncio.gather(*self._tasks, return_exceptions=True)
        old = BadRequest(
            f"A connection is open for {seconds:g} seconds at most. Open another one and go on.",
            code="websocket_connection_limit_reached",
        )
        with suppress(WebSocketDisconnect):
            await self._refuse(None, old)
            await self._socket.close(GOING_AWAY)

    async def _end_with_credential(self) -> None:
        """Close a connection whose credential has ended. Responses that run are answered to their end if it expired,
        and only then: they run on in any case, and the error says up to where they were sent."""
        if self._listener.end == "credential_expired":
            with suppress(TimeoutError):
                async with asyncio.timeout(None) as held:
                    with self._answering.calling(lambda: held.reschedule(-math.inf)):
                        await asyncio.wait(self._tasks) if self._tasks else None
        error = (self._listener if self._answering.end is None else self._answering).error()
        cut = [{"id": ids.response_id(id_), "sequence_number": number} for id_, number in self._sent.items()]
        self._left.set()
        last = orjson.dumps({"type": "error", "status": error.status, **error.body(), "responses": cut})
        with suppress(WebSocketDisconnect, TimeoutError):
            async with asyncio.timeout(LAST_WORDS_SECONDS):
                await self._socket.send_text(last.decode())
                await self._socket.close(POLICY_VIOLATION)

    async def _received(self) -> bytes | None:
        """The client's next message; None when there will be none."""
        await asyncio.sleep(0)  # With many messages in the queue, nothing else here waits: let other tasks run.
        came = await self._socket.receive()
        if came["type"] == "websocket.disconnect":
            return None
        text = came.get("text")
        sent: bytes = came["bytes"] if text is None else text.encode("utf-8", "surrogatepass")
        return sent

    async def _take(self, message: bytes) -> None:
        """Let a message wait for its lane."""
        stream_id: str | None = None
        try:
            self._check_size(len(message))
            event = parsed(message, self._services[Connected])
            stream_id = _stream_id(event)
            if event.get("type") != "response.create":
                raise BadRequest(
                    f"'type' must be 'response.create', not {str(event.get('type'))[:80]!r}.",
                    param="type",
                    code="unknown_event_type",
                )
            lane = self._lane(stream_id)
        except APIError as refused:
            await self._refuse(stream_id, refused)
            return
        lane.waiting += 1
        task = asyncio.create_task(
            self._in_turn(stream_id, lane, event, _Sent(len(message), hashlib.sha256(message).digest()))
        )
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _lane(self, stream_id: str | None) -> _Lane:
        """Raises: TooManyRequests: there are too many, or too many wait."""
        if len(self._tasks) >= MOST_WAITING:
            raise TooManyRequests(
                f"{MOST_WAITING} responses of this connection run or wait already. Send this when one has ended.",
                code="websocket_queue_full",
            )
        if stream_id not in self._lanes and len(self._lanes) >= MOST_LANES:
            raise TooManyRequests(
                f"This connection has {MOST_LANES} lanes at work already. Use one of them, or open another connection.",
                param="stream_id",
                code="websocket_stream_limit_reached",
            )
        return self._lanes.setdefault(stream_id, _Lane())

    def _check_size(self, size: int) -> None:
        """Raise BodyTooLarge for a message that is longer than the project's or the key's limit 'body_bytes'."""
        most = self._socket.state.most_bytes
        if most is not None and size > most:
            raise too_large(most)

    async def _in_turn(self, stream_id: str | None, lane: _Lane, event: dict[str, Any], message: _Sent) -> None:
        try:
            async with lane.turn:
                if not self._left.is_set():
                    await self._respond(stream_id, event, message)
        except WebSocketDisconnect:
            self._left.set()
        finally:
            lane.waiting -= 1
            if not lane.waiting:
                del self._lanes[stream_id]

    async def _respond(self, stream_id: str | None, event: dict[str, Any], message: _Sent) -> None:
        previous: UUID | None = None
        try:
            # A key that was revoked meanwhile begins nothing more.
            caller = await authenticate(self._socket)
            self._check_size(message.size)  # The limit may be another one by now.
            body = _body(event)
            previous = _known(body.get("previous_response_id"), self._remembered)
            warms_up = event.get("generate") is False
            address, sent = await self._request(caller, body, previous, message.digest, warms_up=warms_up)
            if warms_up:
                await self._warm_up(stream_id, caller, address, sent)
                return
            with Client(self._until_left) as client:
                running = await self._services[Turns].create(
                    caller, address, sent, provider_headers(self._socket), client
                )
            assert isinstance(running, Running)
            if not len(running.events) and running.outcome.error is not None:
                raise running.outcome.error
            if sent.ends_with_client:
                self._ending.add(running)
            try:
                await self._pass_on(stream_id, running)
            finally:
                self._ending.discard(running)
            if running.outcome.response is None and previous is not None:
                self._remembered.pop(previous, None)
        except APIError as refused:
            if previous is not None:
                self._remembered.pop(previous, None)
            await self._refuse(stream_id, refused)

    async def _pass_on(self, stream_id: str | None, running: Running) -> None:
        self._sent[running.turn.id] = -1
        try:
            await self._pass_on_to_its_end(stream_id, running)
        finally:
            self._sent.pop(running.turn.id, None)

    async def _pass_on_to_its_end(self, stream_id: str | None, running: Running) -> None:
        async for frames in running.events.batches():
            if running.outcome.response is not None:
                # Before its last event: what that one is answered with may come by another lane.
                self._remember(running, running.outcome.response)
            for frame in frames:
                await self._send(stream_id, data_of(frame))
                self._sent[running.turn.id] += 1

    async def _request(
        self, caller: Caller, body: dict[str, Any], previous: UUID | None, digest: bytes, *, warms_up: bool
    ) -> tuple[Address, TurnRequest]:
        """Return the address of a message, and the turn that it requests.

        Args:
            previous: the response of this connection that it continues from, if that one is not stored.
            warms_up: whether no model is asked, so that nothing is needed that could be answered.
        """
        grant = caller.grant
        origin = Origin(
            caller.key_id,
            caller.address,
            digest,
            session_cache=grant.session_cache,
            user=grant.user,
            settings=grant.settings,
            key_limits=grant.key_limits,
        )
        new_thread_id = partial(self._services[Names].new_thread_id, caller.project_id, None)
        before = None if previous is None else self._remembered[previous]
        needs_input = not (warms_up or (before is not None and before.warm and before.items))
        if not needs_input and body.get("input") == []:
            body = {name: value for name, value in body.items() if name != "input"}
        models = self._services[Models]
        if before is not None:
            stored = None if before.parent_id is None else ids.response_id(before.parent_id)
            body = {**body, "previous_response_id": stored}
        address = owned(caller, response_address(body, new_thread_id))
        if grant.user is not None:
            origin = replace(origin, presets=await presets_of(self._socket, caller, address))
        sent = response_request(body, models, origin, address, needs_input=needs_input)
        if before is None:
            return address, sent
        items = [*before.items, *sent.items]
        if before.parent_id is None and (unasked := answers([item.data for item in items])):
            raise BadRequest(
                f"No tool call of this conversation has the call_id {min(unasked)[:80]!r}.",
                param="input",
                code="tool_call_not_found",
            )
        return address, replace(sent, items=items, previous_id=None if sent.stored else previous)

    async def _warm_up(self, stream_id: str | None, caller: Caller, address: Address, sent: TurnRequest) -> None:
        """Remember the history that a response would continue from, and call no model (OpenAI's `generate: false`).

        Nothing is stored or charged for, and the request counts against the limits of requests.

        Raises:
            APIError: a limit refuses it, or there is nothing to continue from.
        """
        if not isinstance(address, New | OfTurn):
            raise BadRequest("'generate' goes with 'previous_response_id' or with neither.", param="generate")
        limits = self._services[RateLimits]
        limits.end(await limits.admit(asks_of(caller, 0, sent.user)))
        turns = self._services[Turns]
        thread_id = await turns.thread_id(caller, address)
        sent = await turns.with_references(caller, address, sent)
        id_ = ids.new_id(bucket_at(address))
        turn = Opened(caller.project_id, id_, thread_id, sent.parent_id, datetime.now(UTC), sent, b"")
        self._add_remembered(turn.id, _Remembered(sent.parent_id, sent.items, warm=True))
        for number, status in enumerate(("in_progress", "completed")):
            kind = "response.created" if status == "in_progress" else "response.completed"
            ended = int(turn.created_at.timestamp()) if status == "completed" else None
            shown = response_object(turn, {"status": status, "completed_at": ended})
            await self._send(stream_id, encoded(kind, {"response": shown}, number))

    def _remember(self, ended: Running, response: dict[str, Any]) -> None:
        """Remember the history that the next response continues from, for as long as the connection is open."""
        turn = ended.turn
        if not turn.request.stored:
            said = [kept.item for kept in stored_output(response.get("output"))]
            self._add_remembered(turn.id, _Remembered(turn.request.parent_id, [*turn.request.items, *with_facts(said)]))

    def _add_remembered(self, id_: UUID, remembered: _Remembered) -> None:
        self._remembered[id_] = remembered
        while len(self._remembered) > MOST_REMEMBERED:
            self._remembered.popitem(last=False)

    async def _until_left(self) -> dict[str, Any]:
        await self._left.wait()
        return {"type": "http.disconnect"}

    async def _refuse(self, stream_id: str | None, refused: APIError) -> None:
        await self._send(
            stream_id, orjson.dumps({"type": "error", "status": refused.status, **error_body(self._socket, refused)})
        )

    async def _send(self, stream_id: str | None, event: bytes) -> None:
        if self._left.is_set():
            raise WebSocketDisconnect
        if stream_id is not None:
            event = b'%b,"stream_id":%b}' % (event[:-1], orjson.dumps(stream_id))
        await self._socket.send_text(event.decode())


def _stream_id(event: dict[str, Any]) -> str | None:
    given = event.get("stream_id")
    if given is not None and not (isinstance(given, str) and 0 < len(given) <= LONGEST_STREAM_ID):
        raise BadRequest(f"'stream_id' must be a string of 1 to {LONGEST_STREAM_ID} characters.", param="stream_id")
    return given


def _body(event: dict[str, Any]) -> dict[str, Any]:
    """The create parameters of a `response.create`.

    Raises:
        BadRequest: it has what a WebSocket has no use for.
    """
    for name in NOT_OF_A_SOCKET:
        if event.get(name) is not None:
            raise BadRequest(f"'{name}' is not taken over a WebSocket. Leave it out.", param=name)
    if event.get("stream") not in (None, True):
        raise BadRequest("'stream' is always on over a WebSocket. Leave it out.", param="stream")
    if not isinstance(event.get("generate", True), bool):
        raise BadRequest("'generate' must be true or false.", param="generate", code="invalid_type")
    ours = ("type", "stream_id", "generate", *NOT_OF_A_SOCKET)
    return {**{name: value for name, value in event.items() if name not in ours}, "stream": True}


def _known(previous: Any, remembered: "OrderedDict[UUID, _Remembered]") -> UUID | None:
    found = ids.parse(previous, ids.TURN_PREFIXES) if isinstance(previous, str) else None
    return found if found in remembered else None
