"""/chat/completions, passed on as it is: code that has not migrated yet works on the same base URL. Nothing is kept but
what it cost."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from typing_extensions import TypedDict

from app.accounts.pool import Accounts, ProviderAccount
from app.http.bodies import JSONAnswer, ListOf, checked, json_object
from app.http.describing import AS_EVENTS, EVENTS, HEARTBEAT, OF_A_MODEL, request_body
from app.http.errors import APIError
from app.http.heartbeat import UNBUFFERED, AwaitedStream, heartbeat_seconds
from app.http.services import services
from app.items.shapes import fields_of
from app.items.token_counts import Usage, usage_of_chat
from app.items.weights import BYTES_PER_TOKEN
from app.limits.room import check_items
from app.limits.rules import asks_of, user_of
from app.limits.service import Admission, RateLimits
from app.projects.auth import authenticate
from app.projects.authorized_stream import AuthorizedStream
from app.projects.credential_watch import Listener, answer_of, listening
from app.provider.client import ProviderError
from app.provider.error_table import tool_names
from app.provider.events import RawEvent, SSEDecoder
from app.provider.failure import Kind, without_tools
from app.provider.refusals import client_error
from app.turns.http import provider_headers

router = APIRouter(tags=["chat"])

CUT_SHORT = (Kind.BROKEN, Kind.TIMEOUT, Kind.TOO_LARGE)
"""Failures after which the model may have read the request, and the provider charges for it."""


class ChatCreate(BaseModel):
    """Chat Completions' parameters: the provider's to check."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"model": "qwen3.5-plus", "messages": [{"role": "user", "content": "Hello!"}]}]
        },
    )

    model: str = Field(min_length=1, max_length=256)
    messages: ListOf[dict[str, Any]] = Field(min_length=1)


class ChatCompletion(TypedDict):
    """As the provider gives it."""

    choices: list[dict[str, Any]]


def hot_routes(prefix: str) -> list[Route]:
    """The way to a chat completion."""
    return [Route(f"{prefix}/chat/completions", complete, methods=["POST"])]


@router.post(
    "/chat/completions",
    response_model=ChatCompletion,
    responses={**AS_EVENTS, **OF_A_MODEL},
    openapi_extra={"requestBody": request_body(ChatCreate, required=True), "parameters": [HEARTBEAT]},
)
async def complete(request: Request) -> Response:
    """Pass a Chat Completions request on to the provider. Only its usage is stored."""
    caller, here = await authenticate(request), services(request)
    body = await json_object(request)
    given = checked(ChatCreate, body)
    check_items(caller, len(given.messages), "messages")
    body["model"] = model = caller.grant.settings.resolved(given.model)
    streams, shows_usage = body.get("stream") is True, _shows_usage(body)
    if streams:
        _ask_for_usage(body)
    sent, headers, accounts = orjson.dumps(body), provider_headers(request), here[Accounts]
    weight, heartbeat = len(sent) // BYTES_PER_TOKEN, heartbeat_seconds(request)
    admission = await here[RateLimits].admit(
        asks_of(caller, weight, user_of(body), model=model, output=_most_output(body))
    )
    spending = _Spending(here[RateLimits], admission, model, weight, tool_names(body.get("tools")))
    listener = listening(request, caller, admitted=True)
    if streams:
        return _AwaitedChat(accounts, spending, listener, sent, headers, heartbeat, shows_usage=shows_usage)
    return JSONAnswer(await answer_of(listener, _answered(accounts, spending, sent, headers)), 200, {})


@dataclass(slots=True)
class _Spending:
    """The usage of a request, until it is charged."""

    limits: RateLimits
    admission: Admission
    model: str
    read: int
    """An estimate of the tokens that were sent."""
    tools: set[str]
    """The names of the tools, which must not decide what a failure means."""
    account: ProviderAccount | None = None
    asked: bool = False
    """True once the model has read what was sent."""
    written: int = 0
    """Bytes of text that came back."""
    usage: Any = None
    """The provider's count, once it has come."""

    def count_answer(self, answer: bytes) -> None:
        self.asked, self.written = True, len(answer)
        try:
            self.usage = fields_of(orjson.loads(answer)).get("usage")
        except orjson.JSONDecodeError:
            return  # No usage: it is charged by its length.

    def refused(self, error: ProviderError) -> APIError:
        """Return the client's error, and note whether the model may have read the request."""
        self.asked = self.asked or error.failure.kind in CUT_SHORT
        return client_error(without_tools(error.failure, self.tools))

    def end(self) -> None:
        """Charge what was used: by the provider's count, and by an estimate where the answer broke off before it."""
        if self.asked and self.account is not None and not self.admission.ended:
            counted = usage_of_chat(self.usage)
            estimated = not counted.total
            if estimated:
                written = self.written // BYTES_PER_TOKEN
                counted = Usage(self.read, written, self.read + written)
            admission, binding = self.admission, self.account.binding
            admission.add(counted, self.model, binding)
            self.limits.record(admission, "chat", self.model, binding, counted, admission.cost, estimated=estimated)
        self.limits.end(self.admission)


async def _answered(accounts: Accounts, spending: _Spending, sent: bytes, headers: dict[str, str]) -> bytes:
    """Return the whole answer to a request."""
    admission = spending.admission
    try:
        account = spending.account = await accounts.first(admission.asks.project_id, spending.model)
        answer: bytes = await account.provider.chat(admission, sent, headers)
        spending.count_answer(answer)
        return answer
    except ProviderError as error:
        raise spending.refused(error) from error
    finally:
        spending.end()


def _most_output(body: dict[str, Any]) -> int | None:
    """Return how many tokens all choices of an answer may have together; None where the request does not say."""
    each = next((body[name] for name in ("max_completion_tokens", "max_tokens") if _is_count(body.get(name))), None)
    return None if each is None else int(each * (body["n"] if _is_count(body.get("n")) else 1))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _shows_usage(body: dict[str, Any]) -> bool:
    """True if the client has asked for the usage of a stream."""
    return fields_of(body.get("stream_options")).get("include_usage") is True


def _ask_for_usage(body: dict[str, Any]) -> None:
    """Have the provider count a stream. Options that are no object are left for the provider to refuse."""
    options = body.get("stream_options")
    if options is None or isinstance(options, dict):
        body["stream_options"] = {**(options or {}), "include_usage": True}


class _AwaitedChat(AwaitedStream):
    """A streamed answer until the provider has begun it."""

    ends_with_client = True

    def __init__(
        self,
        accounts: Accounts,
        spending: _Spending,
        listener: Listener,
        sent: bytes,
        headers: dict[str, str],
        heartbeat: float,
        *,
        shows_usage: bool,
    ) -> None:
        super().__init__(heartbeat)
        self._accounts = accounts
        self._spending = spending
        self._listener = listener
        self._sent = sent
        self._provider_headers = headers
        self._shows_usage = shows_usage

    async def opened(self) -> Response:
        spending, streaming = self._spending, False
        admission = spending.admission
        try:
            account = spending.account = await self._accounts.first(admission.asks.project_id, spending.model)
            chunks = await account.provider.open_chat_stream(admission, self._sent, self._provider_headers)
            streaming = spending.asked = True
            events = _events(chunks, spending, self._shows_usage)
            return ChatStream(events, self._listener, spending, self.seconds)
        except ProviderError as error:
            raise spending.refused(error) from error
        except asyncio.CancelledError:
            spending.asked = True  # Nobody waits for it any more, and the model may have read it.
            raise
        finally:
            if not streaming:
                spending.end()

    def closing_bytes(self, error: APIError) -> bytes:
        return _error_chunk(error)


class ChatStream(AuthorizedStream):
    """A streamed answer. It is charged for when it ends, whoever ends it.

    If its credential is revoked, it ends with an error in the shape of Chat Completions.
    """

    def __init__(self, events: AsyncIterator[bytes], listener: Listener, spending: _Spending, heartbeat: float) -> None:
        super().__init__(
            events, listener, dict(UNBUFFERED), media_type=EVENTS, heartbeat=heartbeat, ends_with_client=True
        )
        self._spending = spending

    def closing_bytes(self, error: APIError) -> bytes:
        return _error_chunk(error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._spending.end()


async def _events(chunks: AsyncIterator[bytes], spending: _Spending, shows_usage: bool) -> AsyncIterator[bytes]:
    """Yield a stream's events as the client has asked for them, and an error chunk where it fails."""
    decoder = SSEDecoder()
    try:
        async for chunk in chunks:
            if sent := b"".join(_passed_on(event, spending, shows_usage) for event in decoder.feed(chunk)):
                yield sent
    except ProviderError as error:
        yield _error_chunk(spending.refused(error))
        return
    if sent := b"".join(_passed_on(event, spending, shows_usage) for event in decoder.end()):
        yield sent


def _error_chunk(error: APIError) -> bytes:
    """Return an error as a chunk of a stream, with its HTTP status inside."""
    return b"data: %b\n\n" % orjson.dumps({"error": {**error.body()["error"], "status": error.status}})


def _passed_on(event: RawEvent, spending: _Spending, shows_usage: bool) -> bytes:
    """An event as the client gets it; nothing for one that it has not asked for."""
    data = event.data
    try:
        chunk = fields_of(orjson.loads(data))
    except orjson.JSONDecodeError:
        chunk = {}  # The end's mark, or what is the client's to read.
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        spending.written += _length(fields_of(choice).get("delta"))
    if "usage" in chunk:
        if chunk["usage"] is not None:
            spending.usage = chunk["usage"]
        if not shows_usage:
            if not choices:
                return b""
            data = orjson.dumps({name: value for name, value in chunk.items() if name != "usage"})
    name = b"event: %b\n" % event.name if event.name else b""
    return name + b"".join(b"data: %b\n" % line for line in data.split(b"\n")) + b"\n"


def _length(delta: Any) -> int:
    """Return how much text a delta holds, in bytes: content, reasoning, and the arguments of tool calls."""
    said = fields_of(delta)
    calls = said.get("tool_calls")
    functions = [fields_of(fields_of(call).get("function")) for call in calls] if isinstance(calls, list) else []
    texts = [*said.values(), *(value for function in functions for value in function.values())]
    return sum(len(text.encode()) for text in texts if isinstance(text, str))
