"""The emulator's HTTP surface: the Responses API under both of the provider's paths, and its controls."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from app.emulator import answers, model, validate
from app.emulator.errors import ProviderError, invalid_parameter, not_found
from app.emulator.state import EXPIRED, Conversation, Refused, Scripted, State, Stored, chain, new_id
from app.settings import EmulatorSettings

SHOWN_HEADERS = ("x-", "trace", "baggage")
CURRENT_PATH = "/compatible-mode/v1"
OLDER_PATH = "/api/v2/apps/protocols/compatible-mode/v1"
FAULTS = (
    "status", "rate_limit_200", "stall", "cut", "malformed", "slow", "failed", "incomplete", "error_event", "flat",
    "error_200", "answer", "output", "redirect", "silence",
)  # fmt: skip

BREAKS = ("stall", "cut", "malformed", "failed", "incomplete", "error_event", "flat", "error_200")
"""Faults that end a stream after some events."""

Handler = Callable[[Request, State, str], Awaitable[Response]]


def create_app(settings: EmulatorSettings | None = None) -> Starlette:
    """A provider with an empty memory."""
    state = State(settings or EmulatorSettings())

    def endpoint(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            return await handler(request, state, _account(request))

        return call

    def control(handler: Callable[[Request, State], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def call(request: Request) -> Response:
            return await handler(request, state)

        return call

    provider = [
        Route("/responses", endpoint(_create), methods=["POST"]),
        Route("/responses/{id}", endpoint(_retrieve), methods=["GET"]),
        Route("/responses/{id}", endpoint(_delete), methods=["DELETE"]),
        Route("/responses/{id}/input_items", endpoint(_input_items), methods=["GET"]),
        Route("/chat/completions", endpoint(_chat), methods=["POST"]),
        Route("/conversations", endpoint(_create_conversation), methods=["POST"]),
        Route("/conversations/{id}", endpoint(_retrieve_conversation), methods=["GET"]),
        Route("/conversations/{id}", endpoint(_delete_conversation), methods=["DELETE"]),
        Route("/conversations/{id}/items", endpoint(_conversation_items), methods=["GET"]),
    ]
    return Starlette(
        routes=[
            Mount(CURRENT_PATH, routes=provider),
            Mount(OLDER_PATH, routes=provider),
            Route("/_emulator/clock", control(_clock), methods=["POST"]),
            Route("/_emulator/limit", control(_limit), methods=["POST"]),
            Route("/_emulator/forget", control(_forget), methods=["POST"]),
            Route("/_emulator/faults", control(_faults), methods=["POST"]),
            Route("/_emulator/refuse", control(_refuse_input), methods=["POST"]),
            Route("/_emulator/script", control(_script), methods=["POST"]),
            Route("/_emulator/calls", control(_calls), methods=["GET"]),
            Route("/_emulator/reset", control(_reset), methods=["POST"]),
        ],
        exception_handlers={ProviderError: _refuse, HTTPException: _refuse_http, ClientDisconnect: _answer_nobody},
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProviderError)
    headers = {} if error.retry_after is None else {"Retry-After": f"{error.retry_after:g}"}
    return JSONResponse(error.flat(), error.status, headers=headers)


async def _answer_nobody(request: Request, error: Exception) -> Response:
    """End a request whose client left within its body. Without a handler, uvicorn logs it as an error."""
    return Response(status_code=499)


async def _refuse_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    # The provider's gateway writes these codes as phrases with spaces (probe).
    phrase = {404: "Not Found", 405: "Method Not Allowed"}.get(error.status_code, error.detail)
    return JSONResponse(ProviderError(error.status_code, phrase, phrase).flat(), error.status_code)


def _account(request: Request) -> str:
    """The bearer key, which is the account."""
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key or key == "sk-invalid":
        missing = scheme.lower() != "bearer" or not key
        raise ProviderError(401, "InvalidApiKey", f"{'No' if missing else 'Invalid'} API-key provided.")
    return key


async def _body(request: Request) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise invalid_parameter(f"The request body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise invalid_parameter("The request body must be a JSON object.")
    return body


async def _create(request: Request, state: State, key: str) -> Response:
    size, limit = len(await request.body()), state.settings.max_input_bytes
    body = await _body(request)
    stream = body.get("stream") is True
    call = {
        "account": hashlib.sha256(key.encode()).hexdigest()[:12],
        "path": request.url.path,
        "headers": {k: v for k, v in request.headers.items() if k.startswith(SHOWN_HEADERS)},
        "body": body,
        "received_at": state.now(),
        "status": 200,
        "answer": None,
    }
    state.log(call)
    fault = state.take_fault(stream, body.get("model"))
    await _be_silent(fault)
    try:
        if size > limit:
            raise ProviderError(413, "RequestEntityTooLarge", f"Exceeded limit on max bytes per request: {limit}")
        if fault is not None and fault["kind"] == "status":
            raise _status_fault(fault)
        state.admit(key)
        stored = _respond(request, state, key, body)
    except ProviderError as error:
        # The gateway, which a fault stands for, answers before a stream begins.
        plain = not stream or fault is not None or error.status in (401, 413, 429)
        call |= {"status": error.status if plain else 200, "answer": error.flat()}
        if plain:
            raise
        return _sse(_failed_events(body, error.code, error.message))
    if fault is not None and fault["kind"] == "rate_limit_200":
        message = "The service is busy: rate limit exceeded, please try again later."
        failed = _failed_response(body, "server_error", message)
        call["answer"] = failed
        return _sse(_one(failed)) if stream else JSONResponse(failed)
    if fault is not None and fault["kind"] == "answer":
        return _given_answer(fault)
    if fault is not None and fault["kind"] == "output":
        stored.response["output"] = fault.get("output", [])
    if fault is not None and fault["kind"] == "redirect":
        return Response(status_code=int(fault.get("status", 307)), headers={"Location": str(fault.get("location"))})
    if fault is not None and fault["kind"] in ("error_event", "flat", "error_200") and not stream:
        return JSONResponse({"error": _error_of(fault)})
    if fault is not None and fault["kind"] in ("failed", "incomplete") and not stream:
        stored.response |= {"status": fault["kind"], "output": [], **_outcome(fault)}
    call["answer"] = stored.response
    if not stream:
        return await _plain(stored, fault)
    return _sse(_stream(state, stored, body, fault))


def _given_answer(fault: dict[str, Any]) -> Response:
    """An answer word for word, as an odd provider gives it: `body` as text, in `chunks` where it is to be cut."""
    chunks = fault.get("chunks") or [fault.get("body", "")]
    pause = float(fault.get("seconds_per_chunk", 0))
    size = int(fault.get("repeat", 1))

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(size):
            for chunk in chunks:
                yield str(chunk).encode("utf-8", "surrogatepass")
                await asyncio.sleep(pause)

    type_ = fault.get("content_type", "text/event-stream" if fault.get("stream") else "application/json")
    return StreamingResponse(pieces(), int(fault.get("status", 200)), headers={"Content-Type": str(type_)})


async def _be_silent(fault: dict[str, Any] | None) -> None:
    """Keep the client waiting for the HTTP status, where a fault says so."""
    if fault is not None and "silent_seconds" in fault:
        await asyncio.sleep(float(fault["silent_seconds"]))


def _error_of(fault: dict[str, Any]) -> dict[str, Any]:
    code, message = fault.get("code", "InternalError"), fault.get("message", "A fault was asked for.")
    return {"code": code, "message": message, "request_id": "00000000-0000-4000-8000-000000000000"}


def _status_fault(fault: dict[str, Any]) -> ProviderError:
    status = int(fault.get("status", 500))
    code = fault.get("code") or {429: "Throttling.RateQuota", 503: "ServiceUnavailable"}.get(status, "InternalError")
    message = fault.get("message") or f"A fault was asked for: HTTP {status}."
    retry_after = fault.get("retry_after")
    return ProviderError(status, code, message, None if retry_after is None else float(retry_after))


def _outcome(fault: dict[str, Any]) -> dict[str, Any]:
    if fault["kind"] == "failed":
        code, message = fault.get("code", "server_error"), fault.get("message", "The model failed.")
        return {"error": {"code": code, "message": message}}
    return {"incomplete_details": {"reason": fault.get("reason", "max_output_tokens")}}


def _respond(request: Request, state: State, key: str, body: dict[str, Any]) -> Stored:
    """Check the request, let the model answer, and remember the response."""
    validate.request(body, state.models)
    family = state.models.of(body["model"])
    items = validate.input_items(body.get("input"))
    previous_id, conversation_id = body.get("previous_response_id"), body.get("conversation")
    previous = state.previous(key, previous_id) if previous_id else None
    if isinstance(conversation_id, dict):
        conversation_id = conversation_id.get("id")
    conversation = state.conversation(key, conversation_id) if conversation_id else None
    validate.inspect(items, state.refused)
    validate.no_parts(family, items)
    validate.reasoning(items, family)
    before = chain(previous) if conversation is None else list(conversation.items)
    context = before + items
    validate.tool_outputs(context)
    one_system = state.settings.instructions_are_the_system_message
    validate.for_model(family, context, body.get("instructions"), one_system=one_system)
    seen = model.cut(context, family.window)
    now = float(int(state.now()))
    session_cache = request.headers.get("x-dashscope-session-cache") == "enable"
    cached = previous.cached_tokens if previous is not None and previous.cached_until > state.now() else 0
    answer = model.answer(body, seen, family, cached=cached, session_cache=session_cache)
    asked = answers.message_text(seen[-1]) if seen and seen[-1]["type"] == "message" else ""
    if (scripted := state.take_scripted(f"{body.get('instructions') or ''}\n{asked}")) is not None:
        item = {**scripted.item, "id": new_id("msg_"), "status": scripted.status}
        answer = replace(answer, output=[item], incomplete=scripted.status == "incomplete")
    older = request.url.path.startswith(OLDER_PATH)
    response_id = new_id() if older else new_id("resp_")
    status = "incomplete" if answer.incomplete else "completed"
    created_at = int(now) if state.created_at is None else state.created_at
    shown = model.response_object(response_id, created_at, body, status, answer, full=not older)
    stored = Stored(shown, items, previous, now, body.get("store") is not False)
    if session_cache and answer.usage["input_tokens"] >= model.CACHE_MINIMUM:
        stored.cached_tokens = answer.usage["input_tokens"]
        stored.cached_until = state.now() + model.CACHE_SECONDS
    state.accounts[key].responses[response_id] = stored
    if conversation is not None:
        conversation.items += items + answer.output
    return stored


async def _plain(stored: Stored, fault: dict[str, Any] | None) -> Response:
    body = orjson.dumps(stored.response)
    if fault is None:
        return Response(body, media_type="application/json")
    match fault:
        case {"kind": "stall" | "slow"}:
            await asyncio.sleep(float(fault.get("seconds", 3600 if fault["kind"] == "stall" else 1)))
        case {"kind": "malformed"}:
            body = body[: len(body) // 2]
        case {"kind": "cut"}:
            return StreamingResponse(_broken(body), headers={"Content-Type": "application/json"})
    return Response(body, media_type="application/json")


async def _broken(body: bytes) -> AsyncIterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionAbortedError("a cut was asked for")


async def _stream(
    state: State, stored: Stored, body: dict[str, Any], fault: dict[str, Any] | None
) -> AsyncIterator[bytes]:
    """The answer's events as the provider writes them, and the fault where it was asked for."""
    kind = fault["kind"] if fault else None
    after = int(fault.get("after_events", 5)) if fault else 0
    pause = state.settings.delta_milliseconds / 1000
    if fault is not None and kind == "slow":
        pause = float(fault.get("seconds_per_event", fault.get("seconds", 0.05)))
    shown = stored.response
    answer = model.Answer(shown["output"], shown["usage"], shown["status"] == "incomplete")
    number = 0
    for number, event in enumerate(model.events(shown, body, answer)):
        if fault is not None and number >= after and kind in BREAKS:
            break
        if fault is not None and kind == "silence" and number == after:
            await asyncio.sleep(float(fault.get("seconds", 0)))
        if pause and (kind == "slow" or event["type"].endswith(".delta")):
            await asyncio.sleep(pause)
        yield encode({**event, "sequence_number": number})
    else:
        return
    assert fault is not None
    match kind:
        case "stall":
            await asyncio.sleep(float(fault.get("seconds", 3600)))
        case "cut":
            raise ConnectionAbortedError("a cut was asked for")
        case "malformed":
            data = str(fault.get("data", '{"delta":')).encode()
            yield b"id:%d\nevent:response.output_text.delta\n:HTTP_STATUS/200\ndata:%s\n\n" % (number + 1, data)
        case "error_event":
            data = orjson.dumps({"type": "error", **_error_of(fault), "sequence_number": number})
            yield b"id:%d\nevent:error\n:HTTP_STATUS/200\ndata:%b\n\n" % (number + 1, data)
        case "flat" | "error_200":
            data = orjson.dumps(_error_of(fault))
            yield b"id:%d\nevent:error\n:HTTP_STATUS/400\ndata:%b\n\n" % (number + 1, data)
        case _:
            last = model.response_object(shown["id"], int(stored.created_at), body, str(kind), None, full=True)
            event = {"type": f"response.{kind}", "response": last | _outcome(fault), "sequence_number": number}
            yield encode(event)


def encode(event: dict[str, Any]) -> bytes:
    """One event as the provider writes it: no space after the colons, the HTTP status as a comment (probe).

    Its `id` begins at 1, where the sequence number begins at 0 (captures).
    """
    head = f"id:{event['sequence_number'] + 1}\nevent:{event['type']}\n:HTTP_STATUS/200\n"
    return head.encode() + b"data:" + orjson.dumps(event) + b"\n\n"


async def _chat(request: Request, state: State, key: str) -> Response:
    """Chat Completions, plain or streamed: for code that has not moved to the Responses API."""
    body = validate.in_responses_form(await _body(request))
    fault = state.take_fault(body.get("stream") is True, body.get("model"), chat=True)
    await _be_silent(fault)
    if fault is not None and fault["kind"] == "status":
        raise _status_fault(fault)
    state.admit(key)
    validate.request(body, state.models)
    context = validate.chat_messages(body.get("messages"))
    tool = answers.function_to_call(context, body["tools"], body["tool_choice"])
    message: dict[str, Any] = {"role": "assistant"}
    finish = "stop" if tool is None else "tool_calls"
    if tool is None:
        limit = body.get("max_completion_tokens") or body.get("max_tokens")
        room = model.room(limit, body, state.models.of(body["model"]))
        words, cut = model.within(answers.text(context, None), room)
        message["content"], finish = words, "length" if cut else finish
    else:
        words = answers.arguments(tool, context)
        call = {"id": new_id("call_"), "type": "function", "function": {"name": tool["name"], "arguments": words}}
        message |= {"content": None, "tool_calls": [call]}
    head = {"id": new_id("chatcmpl-"), "created": int(state.now()), "model": body["model"]}
    seen, spoken = sum(map(answers.item_tokens, context)), answers.tokens(words)
    usage = {"prompt_tokens": seen, "completion_tokens": spoken, "total_tokens": seen + spoken}
    if body.get("stream") is True:
        options = body.get("stream_options")
        counts = isinstance(options, dict) and options.get("include_usage") is True
        pause = state.settings.delta_milliseconds / 1000
        return _sse(_chat_with(fault, _chat_chunks(head, message, finish, usage if counts else None, pause)))
    choice = {"index": 0, "finish_reason": finish, "logprobs": None, "message": message}
    return JSONResponse({**head, "object": "chat.completion", "choices": [choice], "usage": usage})


async def _chat_with(fault: dict[str, Any] | None, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the chunks of a chat completion, with a pause or a cut where a fault says so."""
    number = 0
    async for chunk in chunks:
        if fault is not None and number == int(fault.get("after_events", 1)):
            if fault["kind"] == "silence":
                await asyncio.sleep(float(fault.get("seconds", 0)))
            elif fault["kind"] == "cut":
                raise ConnectionAbortedError("a cut was asked for")
        yield chunk
        number += 1


async def _chat_chunks(
    head: dict[str, Any], message: dict[str, Any], finish: str, usage: dict[str, int] | None, pause: float
) -> AsyncIterator[bytes]:
    """Yield the chunks of a streamed chat completion.

    Args:
        usage: sent in a last chunk of its own; the other chunks have `usage: null` then (OpenAI's reference).
        pause: seconds before each chunk.
    """
    without = {} if usage is None else {"usage": None}
    for delta, reason in [*((delta, None) for delta in _chat_deltas(message)), ({}, finish)]:
        if pause:
            await asyncio.sleep(pause)
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        chunk = {**head, "object": "chat.completion.chunk", "choices": [choice], **without}
        yield b"data: " + orjson.dumps(chunk) + b"\n\n"
    if usage is not None:
        chunk = {**head, "object": "chat.completion.chunk", "choices": [], "usage": usage}
        yield b"data: " + orjson.dumps(chunk) + b"\n\n"
    yield b"data: [DONE]\n\n"


def _chat_deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if "tool_calls" not in message:
        yield from ({"role": "assistant", "content": part} for part in model.chunks(message["content"]))
        return
    (call,) = message["tool_calls"]
    begun = {**call, "function": {**call["function"], "arguments": ""}}
    yield {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **begun}]}
    for part in model.chunks(call["function"]["arguments"]):
        yield {"tool_calls": [{"index": 0, "function": {"arguments": part}}]}


def _failed_response(body: dict[str, Any], code: str, message: str) -> dict[str, Any]:
    failed = model.response_object(new_id("resp_"), 0, body, "failed", None, full=True)
    return failed | {"error": {"code": code, "message": message}}


async def _one(response: dict[str, Any]) -> AsyncIterator[bytes]:
    yield encode({"type": "response.failed", "response": response, "sequence_number": 0})


def _failed_events(body: dict[str, Any], code: str, message: str) -> AsyncIterator[bytes]:
    """An error in a stream: HTTP 200 and one `response.failed` event, its comment 200 too (probe, captures)."""
    return _one(_failed_response(body, code, message))


def _sse(events: AsyncIterator[bytes]) -> Response:
    return StreamingResponse(events, headers={"Content-Type": "text/event-stream;charset=UTF-8"})


def _found(state: State, key: str, response_id: str) -> Stored | Response:
    return state.find(key, response_id) or JSONResponse(not_found(response_id), 404)


async def _retrieve(request: Request, state: State, key: str) -> Response:
    found = _found(state, key, request.path_params["id"])
    # Metadata is echoed on creation and not kept (probe).
    return found if isinstance(found, Response) else JSONResponse(found.response | {"metadata": {}})


async def _delete(request: Request, state: State, key: str) -> Response:
    found = _found(state, key, request.path_params["id"])
    if isinstance(found, Response):
        return found
    del state.accounts[key].responses[found.response["id"]]
    return JSONResponse({"id": found.response["id"], "deleted": True})


async def _input_items(request: Request, state: State, key: str) -> Response:
    found = _found(state, key, request.path_params["id"])
    if isinstance(found, Response):
        return found
    # The whole chain's messages, their created_at in milliseconds (reference page).
    messages = [item for item in chain(found.previous) + found.input if item["type"] == "message"]
    created_at = int(found.created_at * 1000)
    data = [{"id": new_id("msg_"), **message, "created_at": created_at} for message in messages]
    return JSONResponse({"object": "list", "data": data, "has_more": False})


async def _create_conversation(request: Request, state: State, key: str) -> Response:
    body = await _body(request)
    items = validate.input_items(body["items"]) if body.get("items") else []
    made = Conversation(new_id("conv_"), int(state.now()), body.get("metadata") or {}, items)
    state.accounts[key].conversations[made.id] = made
    return JSONResponse(_conversation_object(made))


def _conversation_object(found: Conversation) -> dict[str, Any]:
    shown = {"id": found.id, "object": "conversation", "created_at": found.created_at}
    return shown | {"metadata": found.metadata}


async def _retrieve_conversation(request: Request, state: State, key: str) -> Response:
    return JSONResponse(_conversation_object(state.conversation(key, request.path_params["id"])))


async def _delete_conversation(request: Request, state: State, key: str) -> Response:
    found = state.conversation(key, request.path_params["id"])
    del state.accounts[key].conversations[found.id]
    return JSONResponse({"id": found.id, "object": "conversation.deleted", "deleted": True})


async def _conversation_items(request: Request, state: State, key: str) -> Response:
    found = state.conversation(key, request.path_params["id"])
    return JSONResponse({"object": "list", "data": found.items, "has_more": False})


async def _clock(request: Request, state: State) -> Response:
    body = await _body(request)
    seconds, created_at = body.get("advance_seconds", 0), body.get("created_at")
    if not body or not isinstance(seconds, int | float) or not isinstance(created_at, int | float | None):
        raise invalid_parameter("advance_seconds and created_at must be numbers.")
    state.advanced += seconds
    state.created_at = created_at
    return JSONResponse({"now": state.now(), "advanced_seconds": state.advanced, "created_at": created_at})


async def _limit(request: Request, state: State) -> Response:
    limit = (await _body(request)).get("requests_per_minute")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise invalid_parameter("requests_per_minute must be a positive integer, or null.")
    state.requests_per_minute = limit
    return JSONResponse({"requests_per_minute": limit})


async def _forget(request: Request, state: State) -> Response:
    body = await _body(request)
    if body.get("all") is True:
        return JSONResponse({"forgotten": state.forget(None)})
    if not isinstance(body.get("response_id"), str):
        raise invalid_parameter("Send a response_id, or all: true.")
    return JSONResponse({"forgotten": state.forget(body["response_id"])})


async def _faults(request: Request, state: State) -> Response:
    try:
        faults = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise invalid_parameter(f"The request body is not JSON: {error}") from error
    faults = faults if isinstance(faults, list) else [faults]
    for fault in faults:
        if not isinstance(fault, dict) or fault.get("kind") not in FAULTS:
            raise invalid_parameter(f"Each fault needs a kind: one of {', '.join(FAULTS)}.")
    state.faults = [{"times": 1, **fault} for fault in faults]
    return JSONResponse({"faults": state.faults})


async def _refuse_input(request: Request, state: State) -> Response:
    body = await _body(request)
    texts, urls = body.get("texts", []), body.get("urls", [])
    for values in (texts, urls):
        if not isinstance(values, list) or not all(isinstance(value, str) and value for value in values):
            raise invalid_parameter("texts and urls must be lists of strings.")
    state.refused = Refused(texts, [EXPIRED, *urls])
    return JSONResponse({"texts": state.refused.texts, "urls": state.refused.urls})


async def _script(request: Request, state: State) -> Response:
    """Replace the answers that are given instead of the model's own."""
    try:
        written = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        raise invalid_parameter(f"The request body is not JSON: {error}") from error
    state.scripted = [_scripted(each) for each in (written if isinstance(written, list) else [written])]
    return JSONResponse({"scripted": len(state.scripted)})


def _scripted(written: Any) -> Scripted:
    match written:
        case {"when": str() as when, "text": str() as text}:
            part = {"type": "output_text", "annotations": [], "text": text}
        case {"when": str() as when, "refusal": str() as text}:
            part = {"type": "refusal", "refusal": text}
        case _:
            raise invalid_parameter("Each answer needs 'when', and 'text' or 'refusal': strings.")
    item = {"type": "message", "role": "assistant", "content": [part]}
    return Scripted(when, item, str(written.get("status", "completed")), int(written.get("times", 1)))


async def _calls(request: Request, state: State) -> Response:
    return Response(orjson.dumps({"object": "list", "data": state.calls}), media_type="application/json")


async def _reset(request: Request, state: State) -> Response:
    state.reset()
    return JSONResponse({"reset": True})
