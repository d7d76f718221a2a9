"""The view of user tokens, on every surface: they get the fields that are listed here, and nothing else.

The middleware covers all routes and WebSockets. It rebuilds each JSON body, each event and each message that is
sent to a user token from lists of permitted fields, by the `object` or the `type` of the value. A field that is not
listed is left out, and so is everything of an object that is not listed: a new field or route shows nothing until it
is added here. Instructions, presets, definitions of tools, system and developer messages, accounts, costs and the
provider's error messages are not listed.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import orjson
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.http.application import OF_USER
from app.http.bodies import JSON_TYPE
from app.http.describing import EVENTS
from app.http.errors import APIError, ProviderFailure
from app.items.shapes import fields_of
from app.items.user_items import is_for_users, shown_to_users

MARKDOWN = "text/markdown"
"""The one other media type. Its route renders only the items that users may see."""

FAILED = "The model could not answer this request."
"""Shown instead of the provider's message, which may quote what it was sent."""

LARGE = 65_536
"""Bytes."""

Sent = TypeVar("Sent")

Shown = Callable[[Any], Any]
Fields = Mapping[str, Shown | None]
"""The fields of an object that are shown; None for one whose value is shown as it is."""


def _plain(names: str) -> dict[str, Shown | None]:
    return dict.fromkeys(names.split())


def _fields(value: Any, fields: Fields) -> dict[str, Any]:
    return {
        name: found if (shown := fields[name]) is None else shown(found)
        for name, found in fields_of(value).items()
        if name in fields
    }


def _items(value: Any) -> list[Any]:
    found = value if isinstance(value, list) else []
    return [shown_to_users(item) for item in found if isinstance(item, dict) and is_for_users(item)]


def _item(value: Any) -> Any:
    return shown_to_users(value) if isinstance(value, dict) and is_for_users(value) else None


def _last_message(value: Any) -> Any:
    return value if value is not None and is_for_users(value) else None


def _failure(value: Any) -> Any:
    if value is None:
        return None
    return {"code": None, "message": FAILED, **{name: value[name] for name in ("code", "status") if name in value}}


def _within(names: str) -> Shown:
    """Return a view of an object, or of null, with these fields."""
    fields = _plain(names)
    return lambda value: _fields(value, fields) if isinstance(value, dict) else None


_usage = _within("input_tokens output_tokens total_tokens input_tokens_details output_tokens_details")

_THREAD = _plain(
    "id object name title user metadata ttl_seconds status head_id forked_turn_id turn_count last_turn context "
    "archived created_at updated_at unreadable"
) | {"last_message": _last_message}

_RESPONSE = _plain(
    "id object deleted created_at status model metadata previous_response_id conversation "
    "background completed_at frequency_penalty max_output_tokens max_tool_calls parallel_tool_calls presence_penalty "
    "service_tier store temperature top_logprobs top_p truncation unreadable"
) | {
    "output": _items, "error": _failure, "usage": _usage, "incomplete_details": _within("reason"),
    "reasoning": _within("effort summary"),
}  # fmt: skip

_TURN = (
    _RESPONSE
    | _plain("thread_id parent_id continuation output_text ignored context first_word_ms sequence_number")
    | {"input": _items}
)

_DELETED = _plain("id object deleted")

OBJECTS: dict[str, Fields] = {
    "thread": _THREAD,
    "thread.claim": _plain("object user threads"),
    "thread.deleted": _DELETED,
    "turn": _TURN,
    "response": _RESPONSE,
    "response.compaction": _plain("id object created_at model") | {"output": _items, "usage": _usage},
    "response.input_tokens": _plain("object input_tokens"),
    "conversation": _plain("id object created_at metadata unreadable"),
    "conversation.deleted": _DELETED,
    "branch": _plain("id object status head created_at"),
    # Without the text: a summary may repeat what the app has said.
    "compaction": _plain(
        "id object turn_id previous_id status model covered_turns covered_tokens tokens created_at completed_at"
    ),
    "feedback": _plain("id object turn_id thread_id score label comment user created_at unreadable"),
    "share": _plain("id object thread_id turn_id expires_at created_at path"),
    "share.deleted": _DELETED,
    "search.result": _plain(
        "id object thread_id thread_name thread_title turn_id role score created_at fragments unreadable"
    ),
    "model": _plain(
        "id object created owned_by context_window input_budget max_output_tokens input_modalities reasoning_efforts "
        "structured_output tools tool_outputs reasoning_summary listed"
    ),
    "stream_ticket": _plain("object ticket path expires_at"),
}

NEUTRAL: dict[str, Any] = {
    "instructions": None,
    "tools": [],
    "tool_choice": "auto",
    "text": {"format": {"type": "text"}},
    "prompt_cache_key": None,
    "safety_identifier": None,
}
"""Hidden fields that clients expect in a response, with the values of a request that has not set them."""

_LIST = ("first_id", "last_id", "has_more")


def shown(value: Any) -> Any:
    """Return an answer as a user token sees it: an object, a list, an error, or an item."""
    found = fields_of(value)
    kind = found.get("object")
    if kind == "list":
        entries = found.get("data")
        data = [shown(entry) for entry in entries if _is_shown(entry)] if isinstance(entries, list) else []
        return {"object": "list", "data": data, **{name: found[name] for name in _LIST if name in found}}
    if isinstance(kind, str):
        made = _fields(found, OBJECTS.get(kind, {}))
        return {**made, **NEUTRAL, **_costs(kind)} if kind in ("turn", "response") and "output" in made else made
    if "error" in found and "type" not in found:
        return {"error": _fields(found["error"], _plain("message type param code"))}
    return _item(found) or {}


def _costs(kind: str) -> dict[str, Any]:
    return {"account": None, "cost": None, "continuation_reason": None} if kind == "turn" else {}


def _is_shown(entry: Any) -> bool:
    return isinstance(entry, dict) and ("object" in entry or is_for_users(entry))


def _each(value: Any) -> list[Any]:
    return [shown(each) for each in value] if isinstance(value, list) else []


_EVENT: Fields = _plain(
    "type sequence_number stream_id item_id output_index content_index summary_index annotation_index delta text "
    "part annotation arguments input code refusal name logprobs obfuscation partial_image_b64 partial_image_index "
    "param status starting_after last_event_id responses thread_id turn_id has_more running"
) | {"response": shown, "turn": shown, "thread": shown, "threads": _each, "item": _item}

_OWN_ENDS = (
    "credential_expired", "credential_revoked", "project_archived", "thread_not_found", "service_stopping",
    "turn_closed", "turn_deleted",
)  # fmt: skip
"""Codes of `error` events that the service itself creates. Their messages are shown."""


def shown_event(value: Any) -> dict[str, Any]:
    """Return an event of a stream, or a message of a WebSocket, as a user token sees it."""
    found = fields_of(value)
    event = _fields(found, _EVENT)
    if "message" in found:
        event["message"] = found["message"] if found.get("code") in _OWN_ENDS else FAILED
    if "error" in found:  # A WebSocket's: a refusal of the service, see `error_body`.
        event["error"] = _fields(found["error"], _plain("message type param code"))
    return event


def error_body(connection: HTTPConnection, error: APIError) -> dict[str, Any]:
    """Return the body of an error for the caller of a request. The provider's messages are not for users."""
    if isinstance(error, ProviderFailure) and is_of_user(connection.scope):
        return {"error": {**error.body()["error"], "message": FAILED}}
    return error.body()


def is_of_user(scope: Scope) -> bool:
    return scope.get("state", {}).get(OF_USER) is True


class UserView:
    """The middleware. What is sent to other callers passes through it as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._app(scope, receive, send)
        scope.setdefault("state", {})
        state, view = scope["state"], _View(send)

        def viewed(message: Message) -> Awaitable[None]:
            return view.send(message) if OF_USER in state else send(message)

        return self._app(scope, receive, viewed)


class _View:
    """One answer, or one WebSocket, on its way to a user token."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        """The head of a JSON answer, until its body is whole."""
        self._body = bytearray()
        self._searched = 0
        """Number of bytes of `_body` in which no event ends."""
        self._media_type = ""

    async def send(self, message: Message) -> None:
        match message["type"]:
            case "websocket.send":
                text = message.get("text") or message["bytes"]
                said = await _apart(len(text), _message, text)
                await self._send({"type": "websocket.send", "text": said.decode()})
            case "http.response.start" | "websocket.http.response.start":
                await self._begin(message)
            case "http.response.body" | "websocket.http.response.body":
                await self._continue(message)
            case _:
                await self._send(message)

    async def _begin(self, start: Message) -> None:
        types = (value for name, value in start.get("headers", ()) if name.lower() == b"content-type")
        self._media_type = next(types, b"").decode("latin-1").partition(";")[0].strip()
        if self._media_type not in ("", JSON_TYPE, EVENTS, MARKDOWN):
            raise RuntimeError(f"an answer of the type {self._media_type!r} is not for users")
        if self._media_type == JSON_TYPE:
            self._start = start
        else:
            await self._send(start)

    async def _continue(self, message: Message) -> None:
        body = message.get("body", b"")
        if self._media_type == EVENTS:
            self._body += body
            await self._send({**message, "body": await self._events()})
        elif self._start is not None:
            self._body += body
            if not message.get("more_body", False):
                await self._end(message)
        else:
            await self._send(message if self._media_type == MARKDOWN else {**message, "body": b""})

    async def _end(self, message: Message) -> None:
        assert self._start is not None
        body = await _apart(len(self._body), _body, self._body) if self._body else b""
        headers = [header for header in self._start.get("headers", ()) if header[0].lower() != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        await self._send({**self._start, "headers": headers})
        await self._send({**message, "body": body})

    async def _events(self) -> bytes:
        whole = self._whole()
        return await _apart(sum(map(len, whole)), _stream, whole)

    def _whole(self) -> list[bytes]:
        """Take the complete events and comments from the buffer. Comments are lines between events."""
        whole: list[bytes] = []
        data, begin = self._body, 0
        while begin < len(data):
            mark = b"\n" if data[begin] in b":\n" else b"\n\n"
            end = data.find(mark, max(begin, self._searched))
            if end < 0:
                self._searched = max(begin, len(data) - 1)
                break
            end += len(mark)
            whole.append(bytes(data[begin:end]))
            begin = end
        del data[:begin]
        self._searched = max(0, self._searched - begin)
        return whole


async def _apart(size: int, view: Callable[[Sent], bytes], sent: Sent) -> bytes:
    """Return a view. A large one is made in a thread, so that other requests do not wait for it."""
    return await asyncio.to_thread(view, sent) if size > LARGE else view(sent)


def _body(sent: bytearray) -> bytes:
    return orjson.dumps(shown(orjson.loads(sent)))


def _message(sent: str | bytes) -> bytes:
    return orjson.dumps(shown_event(orjson.loads(sent)))


def _stream(sent: list[bytes]) -> bytes:
    return b"".join(part if part[0] in b":\n" else _event(part) for part in sent)


def _event(frame: bytes) -> bytes:
    lines = frame.rstrip(b"\n").split(b"\n")
    said = [line for line in lines if line.startswith((b"id: ", b"event: ", b"retry: "))]
    data = b"\n".join(line[6:] for line in lines if line.startswith(b"data: "))
    return b"\n".join([*said, b"data: " + _message(data), b"", b""])
