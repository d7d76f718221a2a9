"""Positions in streams: where a stream stands, how to take it up again, and which events are new.

Nothing here sends or waits: the two clients do, in `_client.py` and `_async_client.py`.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import httpx2

from everthread_client._requests import Call, at, create_turn, refusal, turn_events
from everthread_client._retries import Attempts
from everthread_client.errors import APIError, InvalidAnswerError, event_error
from everthread_client.types import Event, TurnCreate

LAST_EVENTS = ("response.completed", "response.incomplete", "response.failed")

NO_PARAMS: Mapping[str, str] = {}

LASTING_SECONDS = 10.0
"""A connection that lasted longer counts as a success, even without an event."""

MOST_EVENT_BYTES = 256 * 1024 * 1024
"""The largest event that is read. The last event of a turn holds its whole output."""


class Position(Protocol):
    """A place in a stream."""

    ended: bool

    def call(self) -> Call[Any]:
        """Return the request that opens the stream at this place."""

    def opened(self, headers: Mapping[str, str]) -> None:
        """Take note of the headers of an answer."""

    def take(self, event: httpx2.ServerSentEvent) -> Event | None:
        """Return the event if it is new, and move on to it.

        Raises:
            APIError: the stream ends with an error.
        """


class OfTurn:
    """A place in the events of one turn, which end with the turn. Its events are numbered."""

    def __init__(self, thread: str, turn: str | None, after: int, create: Call[Any] | None = None) -> None:
        """Args: create: the request that creates the turn, while its id is unknown. It has an idempotency key."""
        self.thread = thread
        self.turn = turn
        self.after = after
        self.ended = False
        self._create = create

    def call(self) -> Call[Any]:
        if self.turn is None:
            assert self._create is not None
            return self._create
        return turn_events(self.thread, self.turn, self.after)

    def opened(self, headers: Mapping[str, str]) -> None:
        self.turn = headers.get("everthread-turn", self.turn)

    def take(self, event: httpx2.ServerSentEvent) -> Event | None:
        data = _data(event)
        if data is None:
            return None
        if data.get("type") == "error":
            raise event_error(data)
        if self.turn is None and isinstance(data.get("response"), dict):
            # A heartbeat can send the headers before the turn is opened.
            self.turn = str(data["response"]["id"]).replace("resp_", "turn_", 1)
        number = data.get("sequence_number")
        if not isinstance(number, int) or number <= self.after:
            return None
        self.after = number
        self.ended = data.get("type") in LAST_EVENTS
        return data


class OfList:
    """A place in an endless stream: that of one thread, or of all threads. The service names places by `id:` lines."""

    def __init__(
        self, path: str, last_event_id: str | None, last: str | None, params: Mapping[str, str] = NO_PARAMS
    ) -> None:
        """Args: last: the type of the event that ends the stream, if there is one."""
        self.last_event_id = last_event_id
        self.ended = False
        self._path = path
        self._last = last
        self._params = params

    def call(self) -> Call[Any]:
        headers = {} if self.last_event_id is None else {"Last-Event-ID": self.last_event_id}
        return Call("GET", self._path, self._params, headers=headers)

    def opened(self, headers: Mapping[str, str]) -> None:
        """Do nothing: no header tells a place."""

    def take(self, event: httpx2.ServerSentEvent) -> Event | None:
        self.last_event_id = event.id or self.last_event_id
        data = _data(event)
        if data is not None and data.get("type") == "error":
            raise event_error(data)
        self.ended = data is not None and data.get("type") == self._last
        return data


def _data(event: httpx2.ServerSentEvent) -> Event | None:
    """Return the data of an event, or None if it has none."""
    if not event.data:
        return None
    try:
        data = json.loads(event.data)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise InvalidAnswerError("An event of the stream is not a JSON object.")
    return data


def new_turn(thread: str, idempotency_key: str | None, fields: TurnCreate) -> OfTurn:
    """Return the place before the first event of a turn that is still to be created."""
    create = create_turn(thread, idempotency_key=idempotency_key, **fields)
    return OfTurn(thread, None, -1, replace(create, body={**(create.body or {}), "stream": True}))


def thread_events(thread: str, last_event_id: str | None) -> OfList:
    return OfList(at(thread, "/events"), last_event_id, "thread.deleted")


def all_events(user: str | None, last_event_id: str | None) -> OfList:
    return OfList("/events", last_event_id, None, {} if user is None else {"user": user})


class Reading:
    """A position, and the attempts to keep its stream open."""

    def __init__(self, position: Position, attempts: Attempts) -> None:
        self._position = position
        self._attempts = attempts
        self._opened_at: float | None = None

    @property
    def ended(self) -> bool:
        return self._position.ended

    def call(self) -> Call[Any]:
        call = self._position.call()
        return replace(call, headers={**call.headers, "Accept": "text/event-stream"})

    def opened(self, answer: httpx2.Response) -> httpx2.EventSource:
        """Return the events of an answer. The body of a refusal was read.

        Raises:
            APIError: it is a refusal.
        """
        if not answer.is_success:
            raise refusal(answer)
        self._opened_at = time.monotonic()
        self._position.opened(answer.headers)
        return httpx2.EventSource(answer, max_event_size=MOST_EVENT_BYTES)

    def take(self, event: httpx2.ServerSentEvent) -> Event | None:
        taken = self._position.take(event)
        if taken is not None:
            self._attempts.succeeded()
        return taken

    def pause(self, error: httpx2.RequestError | APIError | None) -> float:
        """Return the seconds to wait before the stream is opened again.

        Args: error: None if the stream just ended.

        Raises:
            EverthreadError: the stream is not opened again.
        """
        if isinstance(error, httpx2.SSEError):  # No stream of events, or an event over the limit.
            raise InvalidAnswerError(str(error)) from error
        call = self._position.call()
        if self._opened_at is not None and time.monotonic() - self._opened_at > LASTING_SECONDS:
            self._attempts.succeeded()
        self._opened_at = None
        return self._attempts.pause(
            call, error or httpx2.RemoteProtocolError("The stream ended before its last event.")
        )
