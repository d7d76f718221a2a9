"""The synchronous client, made of `_async_client.py` by `unasync.py`. Change that one."""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, Unpack

import httpx2

from everthread_client import _config, _requests, types
from everthread_client._progress import OfList, OfTurn, Position, Reading, all_events, new_turn, thread_events
from everthread_client._requests import Call, documented, following
from everthread_client._retries import Attempts
from everthread_client.errors import APIError, AuthenticationError, EverthreadError
from everthread_client.types import Event, Page

P = ParamSpec("P")
T = TypeVar("T")


class Pages(Generic[T]):
    """A list. Iterating over it reads page after page."""

    def __init__(self, send: Callable[[Call[Page[T]]], Page[T]], first: Call[Page[T]]) -> None:
        self._send = send
        self._first = first

    def __iter__(self) -> Iterator[T]:
        for page in self.pages():
            yield from page["data"]

    def pages(self) -> Iterator[Page[T]]:
        """Iterate over the pages."""
        call: Call[Page[T]] | None = self._first
        while call is not None:
            page = self._send(call)
            yield page
            call = following(call, page)


class EventStream:
    """Events of a stream, which is opened again after a lost connection. Close it, or use it as a context manager."""

    def __init__(self, client: "Everthread", position: Position) -> None:
        self._events = client._read(position)

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        return next(self._events)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. A turn goes on, and can be resumed."""
        self._events.close()


class ListStream(EventStream):
    """An endless stream of events of one thread, or of all threads."""

    def __init__(self, client: "Everthread", place: OfList) -> None:
        super().__init__(client, place)
        self._place = place

    @property
    def last_event_id(self) -> str | None:
        """The place after the last event, from which a later stream can continue."""
        return self._place.last_event_id


class TurnStream(EventStream):
    """The events of a turn, to its end, each of them once."""

    def __init__(self, client: "Everthread", place: OfTurn) -> None:
        super().__init__(client, place)
        self._client = client
        self._place = place

    @property
    def turn_id(self) -> str | None:
        """The turn's id, known when the first event has arrived."""
        return self._place.turn

    @property
    def last_sequence_number(self) -> int:
        """The number of the last event; -1 before the first one."""
        return self._place.after

    def text(self) -> Iterator[str]:
        """Iterate over the pieces of the answer's text."""
        for event in self:
            if event["type"] == "response.output_text.delta":
                yield event["delta"]

    def result(self) -> types.Turn:
        """Read to the end, and return the turn."""
        for _ in self:
            pass
        assert self.turn_id is not None
        return self._client._send(_requests.retrieve_turn(self._place.thread, self.turn_id))

    def cancel(self) -> types.Turn:
        """Stop the turn, and return it with its output so far. The stream then ends with its last event.

        Raises:
            EverthreadError: no event has arrived yet, so that the turn's id is unknown.
        """
        if self.turn_id is None:
            raise EverthreadError("The turn has no id yet. Cancel it after its first event.")
        return self._client._send(_requests.cancel_turn(self._place.thread, self.turn_id))


class _Resource:
    def __init__(self, client: "Everthread") -> None:
        self._client = client


def _sends(build: Callable[P, Call[T]]) -> Callable[Concatenate[Any, P], T]:
    """Return the method that sends the request that a function describes."""

    def method(self: _Resource, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._client._send(build(*args, **kwargs))

    return documented(method, build)


def _lists(build: Callable[P, Call[Page[T]]]) -> Callable[Concatenate[Any, P], Pages[T]]:
    """Return the method that reads the list whose first page a function describes."""

    def method(self: _Resource, /, *args: P.args, **kwargs: P.kwargs) -> Pages[T]:
        return Pages(self._client._send, build(*args, **kwargs))

    return documented(method, build)


class TurnFeedback(_Resource):
    create = _sends(_requests.create_feedback)
    list = _lists(_requests.feedback_of_turn)


class Turns(_Resource):
    def __init__(self, client: "Everthread") -> None:
        super().__init__(client)
        self.feedback = TurnFeedback(client)

    create = _sends(_requests.create_turn)
    retrieve = _sends(_requests.retrieve_turn)
    cancel = _sends(_requests.cancel_turn)
    list = _lists(_requests.list_turns)

    def stream(
        self, thread: str, *, idempotency_key: str | None = None, **fields: Unpack[types.TurnCreate]
    ) -> TurnStream:
        """Create a turn and iterate over its events."""
        return TurnStream(self._client, new_turn(thread, idempotency_key, fields))

    def resume(self, thread: str, turn: str, *, starting_after: int = -1) -> TurnStream:
        """Iterate over the events of a turn after a restart: all of them, or those after a number."""
        return TurnStream(self._client, OfTurn(thread, turn, starting_after))


class Items(_Resource):
    list = _lists(_requests.list_items)
    retrieve = _sends(_requests.retrieve_item)
    add = _sends(_requests.add_items)
    delete = _sends(_requests.delete_item)


class Shares(_Resource):
    create = _sends(_requests.create_share)
    list = _lists(_requests.list_shares)
    delete = _sends(_requests.delete_share)


class Threads(_Resource):
    def __init__(self, client: "Everthread") -> None:
        super().__init__(client)
        self.turns = Turns(client)
        self.items = Items(client)
        self.shares = Shares(client)

    create = _sends(_requests.create_thread)
    get_or_create = _sends(_requests.get_or_create_thread)
    retrieve = _sends(_requests.retrieve_thread)
    update = _sends(_requests.update_thread)
    delete = _sends(_requests.delete_thread)
    count = _sends(_requests.count_threads)
    bulk = _sends(_requests.bulk)
    claim = _sends(_requests.claim_threads)
    fork = _sends(_requests.fork)
    branches = _lists(_requests.branches)
    messages = _lists(_requests.messages)
    markdown = _sends(_requests.markdown)
    compact = _sends(_requests.compact)
    compactions = _lists(_requests.compactions)
    list = _lists(_requests.list_threads)

    def events(self, thread: str, *, last_event_id: str | None = None) -> ListStream:
        """Iterate over the events of a thread: its turns, from any client, and its changes."""
        return ListStream(self._client, thread_events(thread, last_event_id))


class Feedback(_Resource):
    list = _lists(_requests.list_feedback)
    delete = _sends(_requests.delete_feedback)


class Models(_Resource):
    list = _lists(_requests.list_models)
    retrieve = _sends(_requests.retrieve_model)


class UserTokens(_Resource):
    create = _sends(_requests.create_user_token)
    revoke = _sends(_requests.revoke_user_tokens)


class Everthread(_Resource):
    """Client of an Everthread service.

    Threads are named by id, or by name with `ByName("…")`. Requests are retried after failures that allow it.
    """

    def __init__(
        self,
        base_url: str | None = None,
        token: str | Callable[[], str] | None = None,
        *,
        max_retries: int = _config.MOST_RETRIES,
        max_reconnects: int = _config.MOST_RECONNECTS,
        timeout: httpx2.Timeout = _config.TIMEOUT,
        stream_timeout: httpx2.Timeout = _config.STREAM_TIMEOUT,
        http_client: httpx2.Client | None = None,
    ) -> None:
        """Args:
        base_url: the service's address; default: EVERTHREAD_URL, or http://127.0.0.1:8080.
        token: an API key or a user token, or a function that returns a new one; default: EVERTHREAD_KEY.
        max_reconnects: the consecutive attempts to open a stream again.
        http_client: an HTTP client with other settings, for example a proxy. It is not closed with this one.
        """
        super().__init__(self)
        self._url = _config.base_url(base_url)
        self._new_token = token if callable(token) else None
        self._token = None if callable(token) else _config.credential(token)
        self._max_retries = max_retries
        self._max_reconnects = max_reconnects
        self._timeout = timeout
        self._stream_timeout = stream_timeout
        self._http = http_client or httpx2.Client(limits=_config.LIMITS)
        self._owns_http = http_client is None
        self.threads = Threads(self)
        self.feedback = Feedback(self)
        self.models = Models(self)
        self.user_tokens = UserTokens(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._owns_http:
            self._http.close()

    search = _lists(_requests.search)
    shared = _sends(_requests.shared)
    stream_ticket = _sends(_requests.stream_ticket)
    request = _sends(_requests.request)

    def events(self, *, user: str | None = None, last_event_id: str | None = None) -> ListStream:
        """Iterate over the events of all threads of the project or user; the first one is a `snapshot`."""
        return ListStream(self, all_events(user, last_event_id))

    def _send(self, call: Call[T]) -> T:
        attempts = Attempts(self._max_retries, renewable=self._new_token is not None)
        while True:
            try:
                with self._opened(call, self._timeout) as answer:
                    answer.read()
                    return call.result(answer)
            except (httpx2.RequestError, APIError) as error:
                self._wait(attempts.pause(call, error), error)

    def _read(self, position: Position) -> Generator[Event, None, None]:
        reading = Reading(position, Attempts(self._max_reconnects, renewable=self._new_token is not None))
        while not reading.ended:
            failure: httpx2.RequestError | APIError | None = None
            try:
                with self._opened(reading.call(), self._stream_timeout) as answer:
                    if not answer.is_success:
                        answer.read()
                    for received in reading.opened(answer):
                        event = reading.take(received)
                        if event is not None:
                            yield event
                        if reading.ended:
                            return
            except (httpx2.RequestError, APIError) as error:
                failure = error
            self._wait(reading.pause(failure), failure)

    def _opened(self, call: Call[Any], timeout: httpx2.Timeout) -> AbstractContextManager[httpx2.Response]:
        if self._token is None:
            assert self._new_token is not None
            self._token = self._new_token()
        return self._http.stream(
            call.method,
            self._url + call.path,
            params=dict(call.params),
            json=call.body,
            headers=_config.authorized(call.headers, self._token),
            timeout=timeout,
        )

    def _wait(self, seconds: float, failure: Exception | None) -> None:
        if self._new_token is not None and isinstance(failure, AuthenticationError):
            self._token = None
        time.sleep(seconds)
